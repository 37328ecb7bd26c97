//! Pad, centre crop and area resize.

use ndarray::Array3;
use serde::{Deserialize, Serialize};

use crate::resample::{AxisOperator, check_sides, pick, resample};
use crate::{Affine, Error, Result, Volume};

/// Takes a standardised volume to the array that the model sees.
///
/// Pads with air and crops about the centre to `crop` voxels, then resizes to `shape` by adaptive
/// averages: MONAI's `SpatialPad`, `CenterSpatialCrop` and `Resize(mode="area")`, to rounding.
///
/// ```
/// use ndarray::Array3;
/// use uniferum_ct::{Affine, Volume, transform::ModelTransform};
///
/// let volume = Volume::new(Array3::from_elem((416, 336, 256), 0i16), Affine::IDENTITY);
/// let array = ModelTransform::default().model_array(&volume)?;
/// assert_eq!(array.dim(), (256, 160, 128));
/// assert_eq!(array[[128, 80, 64]], 0.5);
/// # Ok::<(), uniferum_ct::Error>(())
/// ```
///
/// # Reference
/// Section 3.5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTransform {
    /// Voxels of the standardised volume that the model sees.
    pub crop: [usize; 3],
    /// Voxels of the model's array.
    pub shape: [usize; 3],
}

impl Default for ModelTransform {
    fn default() -> Self {
        Self {
            crop: [384, 320, 256],
            shape: [256, 160, 128],
        }
    }
}

/// HU to the values of the model, for a number that is already relative to air (-1000 HU).
pub(crate) const PER_HU: f32 = 1.0 / 2000.0;

impl ModelTransform {
    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, size) in [("crop", self.crop), ("shape", self.shape)] {
            check_sides(field, size)?;
        }
        Ok(())
    }

    /// The model's array of a standardised volume.
    ///
    /// # Shapes
    /// `shape`, axes `[X, Y, Z]` in RAS.
    ///
    /// # Units
    /// HU in, HU/2000 + 0.5 out: air is 0.
    ///
    /// # Errors
    /// A volume whose axes are not RAS; settings that cannot work.
    pub fn model_array(&self, volume: &Volume<i16>) -> Result<Array3<f32>> {
        self.check(volume)?;
        let ops = self.area_operators(volume.shape());
        Ok(resample(
            volume.voxels.view(),
            [&ops[0], &ops[1], &ops[2]],
            |hu| f32::from(hu) + 1000.0,
            |v| v * PER_HU,
        ))
    }

    /// The voxels of any of `labels`, on the model's grid: 1 inside, 0 outside.
    ///
    /// Every voxel of the result takes the label in the middle of its share of the crop, so that
    /// the mask stays binary.
    ///
    /// # Shapes
    /// `shape`.
    ///
    /// # Errors
    /// As [`model_array`](Self::model_array); no label at all.
    pub fn model_mask(&self, mask: &Volume<u8>, labels: &[u16]) -> Result<Array3<u8>> {
        self.check(mask)?;
        let wanted = label_table(labels)?;
        let ops = self.nearest_operators(mask.shape());
        Ok(pick(
            mask.voxels.view(),
            [&ops[0], &ops[1], &ops[2]],
            0,
            |label| u8::from(wanted[usize::from(label)]),
        ))
    }

    /// The share of each voxel of the model's grid that any of `labels` fills, as the release
    /// resizes masks: together with the image, by area.
    ///
    /// # Shapes
    /// `shape`.
    ///
    /// # Errors
    /// As [`model_mask`](Self::model_mask).
    pub fn model_mask_fraction(&self, mask: &Volume<u8>, labels: &[u16]) -> Result<Array3<f32>> {
        self.check(mask)?;
        let wanted = label_table(labels)?.map(|inside| f32::from(u8::from(inside)));
        let ops = self.area_operators(mask.shape());
        Ok(resample(
            mask.voxels.view(),
            [&ops[0], &ops[1], &ops[2]],
            |label| wanted[usize::from(label)],
            |v| v,
        ))
    }

    /// Where a grid of `shape` cells that divides the model's field of view lies in the patient.
    ///
    /// `volume_shape` and `volume_affine` are those of the standardised volume. With the shape of
    /// the model's array it gives that array's affine; with the shape of its token or mask grid,
    /// theirs, and [`linear_onto`](crate::resample::linear_onto) brings them to the scan's own grid.
    pub fn grid_affine(
        &self,
        volume_shape: [usize; 3],
        volume_affine: &Affine,
        shape: [usize; 3],
    ) -> Affine {
        let scale: [f64; 3] = std::array::from_fn(|a| self.crop[a] as f64 / shape[a] as f64);
        let offset = std::array::from_fn(|a| {
            window_offset(volume_shape[a], self.crop[a]) as f64 + scale[a] / 2.0 - 0.5
        });
        volume_affine.subgrid(offset, scale)
    }

    pub(super) fn check<T>(&self, volume: &Volume<T>) -> Result<()> {
        self.validate()?;
        let orientation = volume.orientation();
        if orientation != "RAS" {
            let what = "orientation of the standardised volume";
            return Err(Error::volume(what, "RAS", orientation));
        }
        Ok(())
    }

    fn area_operators(&self, input: [usize; 3]) -> [AxisOperator; 3] {
        std::array::from_fn(|a| {
            AxisOperator::area(self.crop[a], self.shape[a]).after(&self.window(input[a], a))
        })
    }

    fn nearest_operators(&self, input: [usize; 3]) -> [AxisOperator; 3] {
        std::array::from_fn(|a| {
            AxisOperator::nearest(self.crop[a], self.shape[a]).after(&self.window(input[a], a))
        })
    }

    fn window(&self, input: usize, axis: usize) -> AxisOperator {
        AxisOperator::window(
            input,
            self.crop[axis],
            window_offset(input, self.crop[axis]),
        )
    }
}

/// First voxel of a centred window of `len` voxels; negative where the input is padded.
///
/// The odd voxel of a pad goes after, that of a crop before, as MONAI has it.
pub(crate) fn window_offset(input: usize, len: usize) -> isize {
    if input < len {
        -(((len - input) / 2) as isize)
    } else {
        (input / 2) as isize - (len / 2) as isize
    }
}

/// Which of the 256 values of a mask are among `labels`.
pub(crate) fn label_table(labels: &[u16]) -> Result<[bool; 256]> {
    if labels.is_empty() {
        return Err(Error::volume("mask labels", "at least one", "none"));
    }
    let mut table = [false; 256];
    for &label in labels {
        if let Some(cell) = table.get_mut(usize::from(label)) {
            *cell = true;
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::linear_onto;

    fn volume(shape: (usize, usize, usize)) -> Volume<i16> {
        let voxels = Array3::from_shape_fn(shape, |(x, y, z)| {
            ((x * 37 + y * 101 + z * 53) % 2001) as i16 - 1000
        });
        Volume::new(voxels, Affine::IDENTITY)
    }

    fn small() -> ModelTransform {
        ModelTransform {
            crop: [12, 10, 8],
            shape: [8, 5, 4],
        }
    }

    /// Written from the definitions: pad, crop, mean of the adaptive windows.
    fn by_definition(t: &ModelTransform, v: &Volume<i16>) -> Array3<f32> {
        let value = |p: [isize; 3]| {
            let inside = (0..3).all(|a| p[a] >= 0 && (p[a] as usize) < v.shape()[a]);
            if inside {
                f32::from(v.voxels[p.map(|i| i as usize)]) / 2000.0 + 0.5
            } else {
                0.0
            }
        };
        let range = |k: usize, a: usize| {
            let (n, m) = (t.crop[a] as f64, t.shape[a] as f64);
            (k as f64 * n / m).floor() as isize..((k + 1) as f64 * n / m).ceil() as isize
        };
        let offset: [isize; 3] = std::array::from_fn(|a| window_offset(v.shape()[a], t.crop[a]));
        Array3::from_shape_fn(t.shape, |(x, y, z)| {
            let (mut sum, mut n) = (0.0, 0.0);
            for i in range(x, 0) {
                for j in range(y, 1) {
                    for k in range(z, 2) {
                        sum += value([i + offset[0], j + offset[1], k + offset[2]]);
                        n += 1.0;
                    }
                }
            }
            sum / n
        })
    }

    #[test]
    fn equals_pad_crop_and_adaptive_mean() {
        for shape in [(12, 10, 8), (15, 9, 8), (7, 21, 3), (13, 11, 9)] {
            let v = volume(shape);
            for t in [
                small(),
                ModelTransform {
                    crop: [11, 10, 9],
                    shape: [4, 10, 7],
                },
            ] {
                let (found, expected) = (t.model_array(&v).unwrap(), by_definition(&t, &v));
                for (a, b) in found.iter().zip(&expected) {
                    assert!((a - b).abs() < 1e-6, "{shape:?}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn masks_are_binary_or_fractions_of_the_same_thing() {
        let labels = Array3::from_shape_fn((12, 10, 8), |(x, _, _)| if x < 6 { 10u8 } else { 51 });
        let mask = Volume::new(labels, Affine::IDENTITY);
        let t = small();
        let lung = t.model_mask(&mask, &[10, 11]).unwrap();
        assert!(lung.iter().all(|v| *v <= 1));
        assert_eq!((lung[[3, 0, 0]], lung[[4, 0, 0]]), (1, 0));
        let share = t.model_mask_fraction(&mask, &[10]).unwrap();
        assert_eq!((share[[3, 0, 0]], share[[4, 0, 0]]), (1.0, 0.0));
        assert!(t.model_mask(&mask, &[]).is_err());
    }

    #[test]
    fn a_volume_that_is_not_ras_is_refused() {
        let mut v = volume((4, 4, 4));
        v.affine = Affine::from_spacing([1.0; 3], [-1.0, -1.0, 1.0], [0.0; 3]);
        let error = small().model_array(&v).unwrap_err().to_string();
        assert!(error.contains("LPS"), "{error}");
    }

    #[test]
    fn a_coarse_cell_returns_to_its_place() {
        // Standardised volume of 2 mm voxels, padded by the crop; scan of 1 mm in LPS.
        let v = Volume::new(
            Array3::<i16>::zeros((10, 10, 8)),
            Affine::from_spacing([2.0; 3], [1.0; 3], [-9.0, -9.0, -7.0]),
        );
        let t = ModelTransform {
            crop: [12, 10, 8],
            shape: [8, 5, 4],
        };
        let mut coarse = Array3::zeros((3, 2, 2));
        coarse[[1, 0, 1]] = 1.0;
        // The field of view is 24x20x16 mm about 0, so this cell is -4..4, -10..0, 0..8 mm.
        let scan_affine = Affine::from_spacing([1.0; 3], [-1.0, -1.0, 1.0], [14.5, 14.5, -14.5]);
        let affine = t.grid_affine(v.shape(), &v.affine, coarse.dim().into());
        let back = linear_onto(coarse.view(), &affine, [30; 3], &scan_affine, 0.0).unwrap();
        let (mut total, mut centre) = (0.0f64, [0.0f64; 3]);
        for ((x, y, z), &p) in back.voxels.indexed_iter() {
            let at = scan_affine.apply([x as f64, y as f64, z as f64]);
            total += f64::from(p);
            (0..3).for_each(|a| centre[a] += f64::from(p) * at[a]);
            assert!(p == 0.0 || (at[0].abs() <= 12.0 && at[1].abs() <= 10.0 && at[2].abs() <= 8.0));
        }
        assert!((centre[0] / total).abs() < 0.3, "{centre:?} {total}");
        let inside = back.voxels[[14, 19, 18]];
        assert!(inside > 0.8, "{inside}");
    }
}
