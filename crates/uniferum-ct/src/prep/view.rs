//! A volume seen along R, A and S.

use ndarray::{Axis, CowArray, Ix3};

use crate::resample::{AxisOperator, pick};
use crate::transform::window_offset;
use crate::{Affine, Volume};

/// The volume with its axes along R, A and S, and the affine that goes with it.
///
/// Nothing is copied when only x and y run backwards, as in most scans; otherwise the voxels are put
/// into C order, so that lines along z are contiguous either way.
pub(crate) fn ras<T: Copy>(volume: &Volume<T>) -> (CowArray<'_, T, Ix3>, Affine) {
    let axes = volume.affine.axes();
    let mut source = [0; 3];
    for (axis, &(patient, _)) in axes.iter().enumerate() {
        source[patient] = axis;
    }
    let mut view = volume.voxels.view().permuted_axes(source);
    let mut affine = Affine(volume.affine.0);
    for (patient, &axis) in source.iter().enumerate() {
        for row in 0..3 {
            affine.0[row][patient] = volume.affine.0[row][axis];
        }
    }
    for (patient, &axis) in source.iter().enumerate() {
        if axes[axis].1 < 0.0 {
            view.invert_axis(Axis(patient));
            let (mut offset, mut scale) = ([0.0; 3], [1.0; 3]);
            offset[patient] = volume.shape()[axis].saturating_sub(1) as f64;
            scale[patient] = -1.0;
            affine = affine.subgrid(offset, scale);
        }
    }
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
        for affine in [
            Affine::from_spacing([0.7, 0.8, 2.0], [-1.0, -1.0, 1.0], [3.0, 4.0, 5.0]),
            Affine::from_spacing([0.7, 0.8, 2.0], [1.0, -1.0, -1.0], [3.0, 4.0, 5.0]),
            Affine([
                [0., 0.1, -0.8, 3.],
                [0.1, -0.7, 0., -2.],
                [-0.9, 0., 0.05, 8.],
                [0., 0., 0., 1.],
            ]),
        ] {
            let volume = Volume::new(voxels.clone(), affine);
            let (view, found) = ras(&volume);
            let expected = volume.clone().to_ras();
            assert_eq!(view, expected.voxels);
            for (a, b) in found
                .0
                .iter()
                .flatten()
                .zip(expected.affine.0.iter().flatten())
            {
                assert!((a - b).abs() < 1e-12);
            }
        }
    }
}
