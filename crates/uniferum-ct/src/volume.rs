//! A volume: voxels and where they lie in the patient.

use ndarray::{Array3, ArrayView3, Axis};

use crate::Affine;
use crate::error::{Error, Result};

/// A 3-D image or label map with its place in the patient.
///
/// # Shapes
/// `voxels` is `[X, Y, Z]` in the array order of the file.
///
/// # Units
/// Millimetres in the affine; Hounsfield units in a CT's voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume<T> {
    /// The values, `[X, Y, Z]`.
    pub voxels: Array3<T>,
    /// From voxel indices to RAS+ mm.
    pub affine: Affine,
}

/// A CT in Hounsfield units as it was read.
pub type CtVolume = Volume<f32>;

impl<T> Volume<T> {
    /// Puts voxels and affine together.
    pub fn new(voxels: Array3<T>, affine: Affine) -> Self {
        Self { voxels, affine }
    }

    /// The same grid with other values.
    ///
    /// ```
    /// use uniferum_ct::{Affine, Volume, ndarray::Array3};
    /// let stored = Volume::new(Array3::<i16>::zeros((4, 4, 4)), Affine::IDENTITY);
    /// let hu = stored.map(|v| f32::from(*v) - 1024.0);
    /// assert_eq!(hu.voxels[[0, 0, 0]], -1024.0);
    /// ```
    pub fn map<U>(&self, value: impl FnMut(&T) -> U) -> Volume<U> {
        Volume::new(self.voxels.map(value), self.affine)
    }

    /// Number of voxels along each array axis.
    pub fn shape(&self) -> [usize; 3] {
        let (x, y, z) = self.voxels.dim();
        [x, y, z]
    }

    /// Distance of neighbouring voxel centres along each array axis, in mm.
    pub fn spacing(&self) -> [f64; 3] {
        self.affine.spacing()
    }

    /// The direction of increasing index of each array axis, such as `"LPS"`.
    pub fn orientation(&self) -> String {
        self.affine.orientation()
    }

    /// Refuses a mask or second image that does not lie on this volume's grid.
    ///
    /// # Errors
    /// [`Error::Volume`] where the shapes differ or the corners are more than half a voxel apart.
    pub fn check_same_grid<U>(&self, other: &Volume<U>, what: &'static str) -> Result<()> {
        if self.shape() != other.shape() {
            let expected = format!("shape {:?} as the scan", self.shape());
            return Err(Error::volume(
                what,
                expected,
                format!("{:?}", other.shape()),
            ));
        }
        let tolerance = self.spacing().into_iter().fold(f64::INFINITY, f64::min) / 2.0;
        let last = self.shape().map(|n| n.saturating_sub(1) as f64);
        for corner in 0..8u8 {
            let index = std::array::from_fn(|a| if corner >> a & 1 == 1 { last[a] } else { 0.0 });
            let (p, q) = (self.affine.apply(index), other.affine.apply(index));
            let distance = (0..3).map(|a| (p[a] - q[a]).powi(2)).sum::<f64>().sqrt();
            if distance.is_nan() || distance > tolerance {
                let expected = format!("voxel {index:?} at {p:.2?} mm as in the scan");
                return Err(Error::volume(what, expected, format!("{q:.2?} mm")));
            }
        }
        Ok(())
    }

    /// The voxels as they lie, with the axes permuted and flipped so that they run closest to RAS+, and the
    /// affine that goes with them.
    pub(crate) fn ras_view(&self) -> (ArrayView3<'_, T>, Affine) {
        let axes = self.affine.axes();
        let mut source_of = [0; 3];
        for (axis, &(patient, _)) in axes.iter().enumerate() {
            source_of[patient] = axis;
        }
        let mut view = self.voxels.view().permuted_axes(source_of);
        let mut affine = self.affine;
        for (patient, &axis) in source_of.iter().enumerate() {
            for row in 0..3 {
                affine.0[row][patient] = self.affine.0[row][axis];
            }
        }
        for (patient, &axis) in source_of.iter().enumerate() {
            if axes[axis].1 < 0.0 {
                view.invert_axis(Axis(patient));
                let (mut offset, mut scale) = ([0.0; 3], [1.0; 3]);
                offset[patient] = self.shape()[axis].saturating_sub(1) as f64;
                scale[patient] = -1.0;
                affine = affine.subgrid(offset, scale);
            }
        }
        (view, affine)
    }
}

impl CtVolume {
    /// The same volume in whole numbers, as standardised volumes are kept: to the nearest, halves away
    /// from 0, and into the range of `i16`. What is not a number becomes 0.
    ///
    /// # Units
    /// HU in and out.
    pub fn whole_hu(&self) -> Volume<i16> {
        let whole = |hu: &f32| hu.round().clamp(-32768.0, 32767.0) as i16;
        Volume::new(self.voxels.map(whole), self.affine)
    }
}

impl<T: Clone> Volume<T> {
    /// Permutes and flips the array axes so that they run closest to RAS+; no voxel is interpolated.
    ///
    /// The result is in C order (last axis contiguous).
    pub fn to_ras(self) -> Self {
        let (view, affine) = self.ras_view();
        if view.is_standard_layout() && affine == self.affine {
            return self;
        }
        Volume {
            voxels: view.as_standard_layout().into_owned(),
            affine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reorienting_keeps_every_voxel_where_it_is_in_the_patient() {
        let voxels = Array3::from_shape_fn((2, 3, 4), |(i, j, k)| (100 * i + 10 * j + k) as i16);
        let oblique = Affine([
            [0.0, 0.1, -0.8, 3.0],
            [0.1, -0.7, 0.0, -2.0],
            [-0.9, 0.0, 0.05, 8.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        let along = |signs| Affine::from_spacing([0.7, 0.8, 2.0], signs, [3.0, 4.0, 5.0]);
        for (affine, shape) in [
            (oblique, [4, 3, 2]),
            (along([-1.0, -1.0, 1.0]), [2, 3, 4]),
            (along([1.0, -1.0, -1.0]), [2, 3, 4]),
        ] {
            let before = Volume::new(voxels.clone(), affine);
            let after = before.clone().to_ras();
            assert_eq!(after.orientation(), "RAS");
            assert_eq!(after.shape(), shape);
            let inverse = before.affine.inverse().unwrap();
            for ((i, j, k), &value) in after.voxels.indexed_iter() {
                let p = after.affine.apply([i as f64, j as f64, k as f64]);
                let q = inverse.apply(p).map(|c| c.round() as usize);
                assert_eq!(before.voxels[q], value);
            }
        }
    }

    #[test]
    fn a_shifted_mask_is_refused() {
        let scan = Volume::new(Array3::<f32>::zeros((4, 4, 4)), Affine::IDENTITY);
        let mut mask = Volume::new(Array3::<u8>::zeros((4, 4, 4)), Affine::IDENTITY);
        assert!(scan.check_same_grid(&mask, "mask").is_ok());
        mask.affine.0[2][3] = 5.0;
        let error = scan.check_same_grid(&mask, "mask").unwrap_err().to_string();
        assert!(error.contains("mask") && error.contains("mm"), "{error}");
    }
}
