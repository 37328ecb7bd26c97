//! Random changes of a training sample, drawn before anything is computed.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How much a training sample may be changed, and how often.
///
/// # Reference
/// Section 3.5; amounts and probabilities as in the paper's public release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Largest rotation about each axis, in degrees.
    pub rotate_degrees: f64,
    /// Probability of a rotation (about all three axes at once).
    pub rotate_probability: f64,
    /// Smallest and largest zoom, the same along each axis.
    pub zoom: [f64; 2],
    /// Probability of a zoom.
    pub zoom_probability: f64,
    /// Largest standard deviation of the Gaussian noise, in model values (0.01 is 20 HU). The
    /// deviation itself is drawn between 0 and this.
    pub noise_std: f64,
    /// Probability of noise.
    pub noise_probability: f64,
    /// Largest offset added to all voxels, up or down, in model values.
    pub offset: f64,
    /// Probability of an offset.
    pub offset_probability: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self {
            rotate_degrees: 15.0,
            rotate_probability: 0.5,
            zoom: [0.9, 1.1],
            zoom_probability: 0.5,
            noise_std: 0.01,
            noise_probability: 0.5,
            offset: 0.01,
            offset_probability: 0.5,
        }
    }
}

impl Augment {
    /// No change at all.
    pub fn none() -> Self {
        Self {
            rotate_probability: 0.0,
            zoom_probability: 0.0,
            noise_probability: 0.0,
            offset_probability: 0.0,
            ..Self::default()
        }
    }

    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field, expected: &str, got: String| Err(Error::config(field, expected, got));
        for (field, p) in [
            ("rotate_probability", self.rotate_probability),
            ("zoom_probability", self.zoom_probability),
            ("noise_probability", self.noise_probability),
            ("offset_probability", self.offset_probability),
        ] {
            if !(0.0..=1.0).contains(&p) {
                return refuse(field, "0 to 1", p.to_string());
            }
        }
        if !(0.0..=45.0).contains(&self.rotate_degrees) {
            return refuse("rotate_degrees", "0 to 45", self.rotate_degrees.to_string());
        }
        let [low, high] = self.zoom;
        if !(0.5..=2.0).contains(&low) || !(0.5..=2.0).contains(&high) || low > high {
            return refuse(
                "zoom",
                "[low, high] within 0.5 to 2",
                format!("{:?}", self.zoom),
            );
        }
        for (field, v) in [("noise_std", self.noise_std), ("offset", self.offset)] {
            if !(0.0..=1.0).contains(&v) {
                return refuse(field, "0 to 1", v.to_string());
            }
        }
        Ok(())
    }
}

/// The changes of one sample in one epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentDraw {
    /// Rotation about x, y and z in degrees.
    pub rotate_degrees: [f64; 3],
    /// Zoom along each axis; 1 is none.
    pub zoom: f64,
    /// Standard deviation of the noise in model values; 0 is none.
    pub noise_std: f32,
    /// Seed of the noise.
    pub noise_seed: u64,
    /// Offset in model values.
    pub offset: f32,
}

impl AugmentDraw {
    /// No change.
    pub const NONE: Self = Self {
        rotate_degrees: [0.0; 3],
        zoom: 1.0,
        noise_std: 0.0,
        noise_seed: 0,
        offset: 0.0,
    };

    /// Draws the changes of sample number `sample` in `epoch`: a pure function of its arguments.
    ///
    /// ```
    /// use uniferum_ct::transform::{Augment, AugmentDraw};
    /// let augment = Augment::default();
    /// let draw = AugmentDraw::from_seed(&augment, 42, 7, 0);
    /// assert_eq!(draw, AugmentDraw::from_seed(&augment, 42, 7, 0));
    /// assert_ne!(draw, AugmentDraw::from_seed(&augment, 42, 7, 1));
    /// ```
    pub fn from_seed(augment: &Augment, seed: u64, sample: u64, epoch: u64) -> Self {
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&sample.to_le_bytes());
        key[16..24].copy_from_slice(&epoch.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        // Every number is drawn whether it is used or not, so that changing one probability leaves
        // the other draws as they were.
        let mut chance = |p: f64| rng.random::<f64>() < p;
        let rotate = chance(augment.rotate_probability);
        let zoom = chance(augment.zoom_probability);
        let noise = chance(augment.noise_probability);
        let offset = chance(augment.offset_probability);
        let mut between = |low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        let largest = augment.rotate_degrees;
        let angles = [0; 3].map(|_| between(-largest, largest));
        let factor = between(augment.zoom[0], augment.zoom[1]);
        let std = between(0.0, augment.noise_std);
        let shift = between(-augment.offset, augment.offset);
        Self {
            rotate_degrees: if rotate { angles } else { [0.0; 3] },
            zoom: if zoom { factor } else { 1.0 },
            noise_std: if noise { std as f32 } else { 0.0 },
            noise_seed: rng.random(),
            offset: if offset { shift as f32 } else { 0.0 },
        }
    }

    /// Whether the draw turns the volume.
    pub fn rotates(&self) -> bool {
        self.rotate_degrees.iter().any(|angle| *angle != 0.0)
    }

    /// The key of the noise, a stream of ChaCha8 for each plane of the model's array: eight words as
    /// the cipher takes them.
    pub fn noise_key(&self) -> [u32; 8] {
        let key = ChaCha8Rng::seed_from_u64(self.noise_seed).get_seed();
        let word = |i: usize| key[4 * i..4 * i + 4].iter().rev();
        std::array::from_fn(|i| word(i).fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    /// Turns offsets from the centre of the result into offsets from the centre of the source:
    /// rotation about x, then y, then z, each about the axes as they were turned before.
    pub(crate) fn rotation(&self) -> [[f64; 3]; 3] {
        let [x, y, z] = self
            .rotate_degrees
            .map(|degrees| degrees.to_radians().sin_cos());
        let rx = [[1.0, 0.0, 0.0], [0.0, x.1, -x.0], [0.0, x.0, x.1]];
        let ry = [[y.1, 0.0, y.0], [0.0, 1.0, 0.0], [-y.0, 0.0, y.1]];
        let rz = [[z.1, -z.0, 0.0], [z.0, z.1, 0.0], [0.0, 0.0, 1.0]];
        product(product(rx, ry), rz)
    }
}

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    std::array::from_fn(|r| std::array::from_fn(|c| (0..3).map(|k| a[r][k] * b[k][c]).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_stated_ranges_and_frequencies() {
        let augment = Augment::default();
        let draws: Vec<AugmentDraw> = (0..4000)
            .map(|i| AugmentDraw::from_seed(&augment, 1, i, 3))
            .collect();
        let share = |f: &dyn Fn(&AugmentDraw) -> bool| {
            draws.iter().filter(|d| f(d)).count() as f64 / draws.len() as f64
        };
        for p in [
            share(&|d| d.rotates()),
            share(&|d| d.zoom != 1.0),
            share(&|d| d.noise_std > 0.0),
            share(&|d| d.offset != 0.0),
        ] {
            assert!((p - 0.5).abs() < 0.04, "{p}");
        }
        let angles: Vec<f64> = draws.iter().flat_map(|d| d.rotate_degrees).collect();
        assert!(angles.iter().all(|a| a.abs() <= 15.0) && angles.iter().any(|a| *a < -14.9));
        assert!(draws.iter().all(|d| (0.9..=1.1).contains(&d.zoom)));
        assert!(
            draws
                .iter()
                .all(|d| d.noise_std <= 0.01 && d.offset.abs() <= 0.01)
        );
        let zooms = draws.iter().filter(|d| d.zoom != 1.0).map(|d| d.zoom);
        assert!((zooms.clone().sum::<f64>() / zooms.count() as f64 - 1.0).abs() < 0.01);
    }

    #[test]
    fn one_probability_does_not_disturb_the_others() {
        let all = Augment::default();
        let no_zoom = Augment {
            zoom_probability: 0.0,
            ..all.clone()
        };
        for sample in 0..50 {
            let (a, b) = (
                AugmentDraw::from_seed(&all, 9, sample, 0),
                AugmentDraw::from_seed(&no_zoom, 9, sample, 0),
            );
            assert_eq!(AugmentDraw { zoom: 1.0, ..a }, b);
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        for (bad, field) in [
            (
                Augment {
                    zoom: [1.2, 0.9],
                    ..Augment::default()
                },
                "zoom",
            ),
            (
                Augment {
                    noise_probability: 1.5,
                    ..Augment::default()
                },
                "noise_probability",
            ),
            (
                Augment {
                    rotate_degrees: f64::NAN,
                    ..Augment::default()
                },
                "rotate_degrees",
            ),
        ] {
            assert!(bad.validate().unwrap_err().to_string().contains(field));
        }
        assert!(Augment::default().validate().is_ok());
    }
}
