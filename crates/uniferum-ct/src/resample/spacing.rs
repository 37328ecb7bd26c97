//! Volumes at another spacing.

use super::{AxisOperator, Interpolation, MOST_VOXELS, pick, resample};
use crate::error::{Error, Result};
use crate::volume::{CtVolume, Volume};

/// The scan with voxels of another size: along the same axes, about the same centre, in a field of view that
/// is the same to half a voxel.
///
/// Where voxels become larger the kernel widens as much, so that what they cannot hold is averaged and not
/// aliased.
///
/// # Units
/// `spacing_mm` along each array axis of `volume`, in mm; HU in and out.
///
/// # Errors
/// [`Error::Config`] for a spacing that is not above 0, or so small that there would be more than 2^30 voxels;
/// [`Error::Volume`] for a volume without voxels or without a spacing of its own.
///
/// ```
/// use uniferum_ct::resample::{Interpolation, to_spacing};
/// use uniferum_ct::{Affine, Volume, ndarray::Array3};
/// let affine = Affine::from_spacing([0.7, 0.7, 5.0], [-1.0, -1.0, 1.0], [90.0, 90.0, 0.0]);
/// let scan = Volume::new(Array3::from_elem((64, 64, 20), 40.0), affine);
/// let isotropic = to_spacing(&scan, [1.0; 3], Interpolation::Cubic)?;
/// assert_eq!(isotropic.shape(), [45, 45, 100]);
/// assert!(isotropic.voxels.iter().all(|hu| (hu - 40.0).abs() < 1e-3));
/// # Ok::<(), uniferum_ct::Error>(())
/// ```
pub fn to_spacing(
    volume: &CtVolume,
    spacing_mm: [f64; 3],
    interpolation: Interpolation,
) -> Result<CtVolume> {
    let grid = Grid::of(volume, spacing_mm)?;
    let operators = grid.operators(interpolation);
    let operators = operators.each_ref();
    let voxels = resample(volume.voxels.view(), operators, |hu| hu, |hu| hu);
    Ok(Volume::new(voxels, grid.affine))
}

/// The label map with voxels of another size, on the grid that [`to_spacing`] gives its scan; each label is
/// the nearest one.
///
/// # Units
/// `spacing_mm` along each array axis of `labels`, in mm.
///
/// # Errors
/// As [`to_spacing`].
pub fn labels_to_spacing<T: Copy + Default + Send + Sync>(
    labels: &Volume<T>,
    spacing_mm: [f64; 3],
) -> Result<Volume<T>> {
    let grid = Grid::of(labels, spacing_mm)?;
    let operators = grid.operators(Interpolation::Nearest);
    let operators = operators.each_ref();
    let voxels = pick(labels.voxels.view(), operators, T::default(), |label| label);
    Ok(Volume::new(voxels, grid.affine))
}

/// Where the voxels of the result lie, in those of the input.
struct Grid {
    input: [usize; 3],
    len: [usize; 3],
    first: [f64; 3],
    step: [f64; 3],
    affine: crate::Affine,
}

impl Grid {
    fn of<T>(volume: &Volume<T>, spacing_mm: [f64; 3]) -> Result<Self> {
        let (input, spacing) = (volume.shape(), volume.spacing());
        if input.contains(&0) || spacing.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            let expected = "voxels, and a spacing above 0 mm";
            let got = format!("{input:?} voxels of {spacing:?} mm");
            return Err(Error::volume("grid", expected, got));
        }
        let step: [f64; 3] = std::array::from_fn(|a| spacing_mm[a] / spacing[a]);
        let len = std::array::from_fn(|a| (input[a] as f64 / step[a]).round().max(1.0));
        let possible = spacing_mm.iter().all(|s| *s > 0.0 && s.is_finite());
        if !possible || len.iter().product::<f64>() > MOST_VOXELS as f64 {
            let expected = "three above 0, and at most 2^30 voxels in all";
            let got = format!("{spacing_mm:?} for {input:?} voxels of {spacing:?} mm");
            return Err(Error::config("spacing_mm", expected, got));
        }
        // Both grids have one centre.
        let first = std::array::from_fn(|a| {
            let (old, new) = (input[a] as f64 - 1.0, len[a] - 1.0);
            (old - new * step[a]) / 2.0
        });
        Ok(Self {
            input,
            len: len.map(|n: f64| n as usize),
            first,
            step,
            affine: volume.affine.subgrid(first, step),
        })
    }

    fn operators(&self, interpolation: Interpolation) -> [AxisOperator; 3] {
        let antialias = true;
        std::array::from_fn(|a| {
            let (input, len) = (self.input[a], self.len[a]);
            let (first, step) = (self.first[a], self.step[a]);
            AxisOperator::sampling(input, len, first, step, interpolation, antialias)
        })
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::Affine;

    fn wave(affine: &Affine, shape: [usize; 3]) -> CtVolume {
        let hu = |p: [f64; 3]| (300.0 * (p[0] / 40.0).sin() + 2.0 * p[1] - p[2]) as f32;
        let voxels = Array3::from_shape_fn(shape, |(x, y, z)| {
            hu(affine.apply([x as f64, y as f64, z as f64]))
        });
        Volume::new(voxels, *affine)
    }

    #[test]
    fn values_stay_where_they_are_in_the_patient() {
        let affine = Affine::from_spacing([1.3, 0.8, 2.5], [-1.0, -1.0, 1.0], [60.0, 30.0, -40.0]);
        let scan = wave(&affine, [70, 60, 40]);
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            let found = to_spacing(&scan, [1.0, 2.0, 1.25], interpolation).unwrap();
            assert_eq!(found.shape(), [91, 24, 80]);
            assert_eq!(found.orientation(), "LPS");
            let expected = wave(&found.affine, found.shape());
            // Away from the edges, which repeat or mirror.
            for ((x, y, z), &hu) in found.voxels.indexed_iter() {
                let edge = [x, y, z].into_iter().zip(found.shape());
                if edge.into_iter().all(|(i, n)| i >= 4 && i + 4 < n) {
                    let right = expected.voxels[[x, y, z]];
                    assert!((hu - right).abs() < 0.5, "{interpolation:?}: {hu} {right}");
                }
            }
        }
    }

    #[test]
    fn labels_lie_on_the_grid_of_their_scan() {
        let affine = Affine::from_spacing([0.9, 0.9, 3.0], [1.0, -1.0, 1.0], [0.0, 5.0, 7.0]);
        let scan = wave(&affine, [33, 20, 11]);
        let labels = scan.map(|hu| u8::from(*hu > 0.0));
        let size = [1.5, 0.5, 1.1];
        let scan = to_spacing(&scan, size, Interpolation::Linear).unwrap();
        let labels = labels_to_spacing(&labels, size).unwrap();
        assert_eq!(labels.shape(), scan.shape());
        assert_eq!(labels.affine, scan.affine);
        let wrong = scan.voxels.iter().zip(&labels.voxels);
        let wrong = wrong.filter(|(hu, label)| hu.abs() > 12.0 && (**hu > 0.0) != (**label == 1));
        assert_eq!(wrong.count(), 0);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let scan = wave(&Affine::IDENTITY, [4, 4, 4]);
        for size in [
            [0.0, 1.0, 1.0],
            [1.0, f64::NAN, 1.0],
            [1.0, f64::INFINITY, 1.0],
            [0.002; 3],
        ] {
            let error = to_spacing(&scan, size, Interpolation::Linear).unwrap_err();
            assert!(error.to_string().contains("spacing_mm"), "{error}");
        }
        let flat = Volume::new(scan.voxels, Affine([[0.0; 4]; 4]));
        assert!(to_spacing(&flat, [1.0; 3], Interpolation::Linear).is_err());
    }
}
