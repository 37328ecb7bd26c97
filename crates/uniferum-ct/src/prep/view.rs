//! A volume seen along R, A and S.

use ndarray::{CowArray, Ix3};

use crate::resample::{AxisOperator, pick};
use crate::transform::window_offset;
use crate::{Affine, Volume};

/// The volume with its axes along R, A and S, and the affine that goes with it.
///
/// Nothing is copied when only x and y run backwards, as in most scans; otherwise the voxels are put
/// into C order, so that lines along z are contiguous either way.
pub(crate) fn ras<T: Copy>(volume: &Volume<T>) -> (CowArray<'_, T, Ix3>, Affine) {
    let (view, affine) = volume.ras_view();
    if view.strides()[2] == 1 {
        (view.into(), affine)
    } else {
        (view.as_standard_layout().into_owned().into(), affine)
    }
}

/// Crops or pads about the centre.
pub(crate) fn to_size<T>(volume: Volume<T>, size: [usize; 3], fill: T) -> Volume<T>
where
    T: Copy + Send + Sync,
{
    let offsets: [isize; 3] = std::array::from_fn(|a| window_offset(volume.shape()[a], size[a]));
    let ops: [AxisOperator; 3] =
        std::array::from_fn(|a| AxisOperator::window(volume.shape()[a], size[a], offsets[a]));
    let voxels = pick(
        volume.voxels.view(),
        [&ops[0], &ops[1], &ops[2]],
        fill,
        |v| v,
    );
    Volume::new(
        voxels,
        volume.affine.subgrid(offsets.map(|o| o as f64), [1.0; 3]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    #[test]
    fn equals_the_copying_reorientation() {
        let voxels = Array3::from_shape_fn((2, 3, 4), |(i, j, k)| (100 * i + 10 * j + k) as i16);
        let affine = Affine::from_spacing([0.7, 0.8, 2.0], [1.0, -1.0, -1.0], [3.0, 4.0, 5.0]);
        let volume = Volume::new(voxels, affine);
        let (view, found) = ras(&volume);
        let expected = volume.clone().to_ras();
        assert_eq!(view, expected.voxels);
        assert_eq!(found, expected.affine);
    }
}
