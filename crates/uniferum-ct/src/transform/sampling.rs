//! What the fused augmentation does to each voxel, as numbers: for devices with kernels of their own.

use super::augment::AugmentDraw;
use super::field::{crop, field_of, padding, restore, zoomed_len};
use super::model::{ModelTransform, window_offset};
use crate::resample::AxisOperator;

/// How each voxel of the model's array is made of the voxels of a volume.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampling {
    /// Without a rotation: one operator an axis, each voxel a sum over the product of their taps.
    Straight([AxisOperator; 3]),
    /// With one.
    Turned(Turned),
}

/// A turned sampling.
///
/// The *field* is the volume with air around it; smoothed by `kernels` with its edge repeated, it has
/// one sample more along an axis whose kernel is even. Output `(x, y, z)` is the trilinear sample at
/// `start(x, y) + z * step()`, clamped to the samples, times the three weights.
///
/// Labels are not smoothed: the sample is the nearest voxel of the field.
#[derive(Clone, Debug, PartialEq)]
pub struct Turned {
    /// For each output along each axis: its place about the middle of the field, and its weight.
    pub outputs: [Vec<(f32, f32)>; 3],
    /// From places about the middle of the field to offsets of the source.
    pub rotation: [[f32; 3]; 3],
    /// The middle of the field, counted in samples of the smoothed field.
    pub middle: [f32; 3],
    /// Weights of the smoothing along each axis: sample `i` begins at voxel `i - len / 2` of the
    /// field. Empty for labels.
    pub kernels: [Vec<f32>; 3],
    /// Voxels of the field.
    pub field: [usize; 3],
    /// The voxel of the volume at the field's first voxel; negative where there is air.
    pub offset: [isize; 3],
}

impl ModelTransform {
    /// What [`model_array_augmented`](Self::model_array_augmented) computes of a volume of this
    /// shape, before noise and offset.
    pub fn image_sampling(&self, volume: [usize; 3], draw: &AugmentDraw) -> Sampling {
        self.sampling(volume, draw, AxisOperator::area, true)
    }

    /// What [`model_mask_augmented`](Self::model_mask_augmented) computes of a mask of this shape.
    pub fn mask_sampling(&self, mask: [usize; 3], draw: &AugmentDraw) -> Sampling {
        self.sampling(mask, draw, AxisOperator::nearest, false)
    }

    fn sampling(
        &self,
        volume: [usize; 3],
        draw: &AugmentDraw,
        step: impl Fn(usize, usize) -> AxisOperator,
        smooth: bool,
    ) -> Sampling {
        let field = field_of(self, volume);
        let ops: [AxisOperator; 3] = std::array::from_fn(|a| {
            let zoomed = zoomed_len(field[a], draw.zoom);
            step(self.crop[a], self.shape[a])
                .after(&crop(field[a], self.crop[a]))
                .after(&restore(zoomed, field[a]))
                .after(&step(field[a], zoomed))
        });
        if !draw.rotates() {
            return Sampling::Straight(std::array::from_fn(|a| {
                ops[a].after(&padding(volume[a], field[a]))
            }));
        }
        let centres = Centres::of(&ops, field);
        let rotation = draw.rotation();
        let kernels = match smooth {
            true => centres.kernels(&rotation),
            false => Default::default(),
        };
        Sampling::Turned(Turned {
            middle: std::array::from_fn(|a| centres.middle[a] as f32 - origin(&kernels[a])),
            outputs: centres.outputs,
            rotation: rotation.map(|row| row.map(|v| v as f32)),
            kernels,
            field,
            offset: std::array::from_fn(|a| window_offset(volume[a], field[a])),
        })
    }
}

impl Turned {
    /// Source step of one voxel along z.
    pub fn step(&self) -> [f32; 3] {
        self.rotation.map(|row| row[2])
    }

    /// Source position of the middle of the line of outputs at `x` and `y` about the middle.
    #[inline(always)]
    pub(super) fn start(&self, x: f32, y: f32) -> [f32; 3] {
        std::array::from_fn(|a| self.middle[a] + self.rotation[a][0] * x + self.rotation[a][1] * y)
    }

    /// The smoothing of the field as operators on the volume.
    pub(super) fn smoothing(&self, volume: [usize; 3]) -> [AxisOperator; 3] {
        std::array::from_fn(|a| {
            let (weights, field) = (&self.kernels[a], self.field[a]);
            let even = usize::from(weights.len().is_multiple_of(2));
            let first = -(weights.len() as isize / 2);
            // Two at least, so that each has a neighbour.
            AxisOperator::smoothing(field, (field + even).max(2), first, weights)
                .after(&padding(volume[a], field))
        })
    }
}

/// Position of the first smoothed sample; those of even kernels lie between the voxels.
fn origin(kernel: &[f32]) -> f32 {
    match kernel.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => -0.5,
        _ => 0.0,
    }
}

/// Where each output lies on the turned field, and how wide it is.
struct Centres {
    /// Centre about the middle of the field and sum of weights, for each output.
    outputs: [Vec<(f32, f32)>; 3],
    /// Mean variance of the weights about their centres.
    variance: [f64; 3],
    /// Middle of the field.
    middle: [f64; 3],
}

impl Centres {
    fn of(ops: &[AxisOperator; 3], field: [usize; 3]) -> Self {
        let middle = field.map(|n| (n as f64 - 1.0) / 2.0);
        let mut variance = [0.0; 3];
        let outputs = std::array::from_fn(|a| {
            let (mut total, mut count) = (0.0, 0.0f64);
            let outputs = (0..ops[a].len())
                .map(|k| {
                    let (start, weights) = ops[a].taps(k);
                    let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
                    if sum <= 0.0 {
                        return (0.0, 0.0);
                    }
                    let moment = |p: i32, about: f64| {
                        let terms = weights.iter().enumerate();
                        terms
                            .map(|(t, &w)| f64::from(w) * ((start + t) as f64 - about).powi(p))
                            .sum::<f64>()
                            / sum
                    };
                    let centre = moment(1, 0.0);
                    total += moment(2, centre);
                    count += 1.0;
                    ((centre - middle[a]) as f32, sum as f32)
                })
                .collect();
            variance[a] = total / count.max(1.0);
            outputs
        });
        Self {
            outputs,
            variance,
            middle,
        }
    }

    /// Smoothing kernels in the source's axes with the variance that the turned boxes have there.
    fn kernels(&self, rotation: &[[f64; 3]; 3]) -> [Vec<f32>; 3] {
        std::array::from_fn(|r| {
            let variance = (0..3)
                .map(|c| rotation[r][c].powi(2) * self.variance[c])
                .sum();
            of_variance(variance)
        })
    }
}

/// A mixture of the means of `len` and of `len + 2` samples.
fn of_variance(variance: f64) -> Vec<f32> {
    let of_mean = |len: usize| ((len * len) as f64 - 1.0) / 12.0;
    // Means of 2, 4, 6 … samples, of one below that.
    let mut len = 1;
    while of_mean(len + 2) <= variance || (len == 1 && variance >= of_mean(2)) {
        len += if len == 1 { 1 } else { 2 };
    }
    let share = (variance - of_mean(len)) / (of_mean(len + 2) - of_mean(len));
    let outer = share / (len + 2) as f64;
    let inner = (1.0 - share) / len as f64 + outer;
    let mut weights = vec![inner as f32; len + 2];
    weights[0] = outer as f32;
    weights[len + 1] = outer as f32;
    weights
}
