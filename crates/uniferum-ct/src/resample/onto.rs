//! From any grid to any other.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use crate::{Affine, Error, Result, Volume};

/// Samples `grid` at the voxels of another grid, trilinearly; `outside` beyond the outer faces of its cells.
///
/// What a coarser grid cannot hold is not averaged: [`to_spacing`](super::to_spacing) does that.
///
/// # Shapes
/// The result has `shape` and `affine`.
///
/// # Errors
/// [`Error::Volume`] for an affine that cannot be inverted and for an empty grid.
pub fn linear_onto(
    grid: ArrayView3<'_, f32>,
    grid_affine: &Affine,
    shape: [usize; 3],
    affine: &Affine,
    outside: f32,
) -> Result<Volume<f32>> {
    let grid = grid.as_standard_layout();
    let value = |at| trilinear(grid.view(), at).unwrap_or(outside);
    onto(grid.shape(), grid_affine, shape, affine, outside, value)
}

/// Samples labels at the voxels of another grid, each from the nearest; `outside` beyond the outer faces of
/// their cells.
///
/// # Shapes
/// The result has `shape` and `affine`.
///
/// # Errors
/// As [`linear_onto`].
///
/// ```
/// use uniferum_ct::resample::nearest_onto;
/// use uniferum_ct::{Affine, Volume, ndarray::Array3};
/// // A mask of 2 mm voxels for a scan of 1 mm: the centres of its cells lie between those of the scan.
/// let mask = Array3::from_shape_fn((2, 2, 2), |(x, _, _)| x as u8);
/// let of_mask = Affine::from_spacing([2.0; 3], [1.0; 3], [0.5; 3]);
/// let found = nearest_onto(mask.view(), &of_mask, [4, 4, 4], &Affine::IDENTITY, 0)?;
/// assert_eq!(found.voxels[[1, 0, 0]], 0);
/// assert_eq!(found.voxels[[2, 0, 0]], 1);
/// # Ok::<(), uniferum_ct::Error>(())
/// ```
pub fn nearest_onto<T: Copy + Send + Sync>(
    labels: ArrayView3<'_, T>,
    labels_affine: &Affine,
    shape: [usize; 3],
    affine: &Affine,
    outside: T,
) -> Result<Volume<T>> {
    let value = |at: [f64; 3]| {
        let nearest = at.map(|place| (place + 0.5).floor());
        let inside = |a: usize| (0.0..labels.shape()[a] as f64).contains(&nearest[a]);
        match (0..3).all(inside) {
            true => labels[nearest.map(|place| place as usize)],
            false => outside,
        }
    };
    onto(labels.shape(), labels_affine, shape, affine, outside, value)
}

/// What `value` says at the place of each voxel of a grid, in voxels of another.
fn onto<T: Copy + Send + Sync>(
    from: &[usize],
    from_affine: &Affine,
    shape: [usize; 3],
    affine: &Affine,
    outside: T,
    value: impl Fn([f64; 3]) -> T + Sync,
) -> Result<Volume<T>> {
    let inverse = from_affine.inverse().ok_or_else(|| {
        let got = format!("{:?}", from_affine.0);
        Error::volume("affine of the grid", "an invertible matrix", got)
    })?;
    if from.contains(&0) {
        let got = format!("shape {from:?}");
        return Err(Error::volume("grid", "at least one cell", got));
    }
    let map = inverse.compose(affine);
    let step: [f64; 3] = std::array::from_fn(|a| map.0[a][2]);
    let mut voxels = Array3::from_elem(shape, outside);
    voxels
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(x, mut plane)| {
            for (y, mut line) in plane.rows_mut().into_iter().enumerate() {
                let start = map.apply([x as f64, y as f64, 0.0]);
                for (z, out) in line.iter_mut().enumerate() {
                    *out = value(std::array::from_fn(|a| start[a] + z as f64 * step[a]));
                }
            }
        });
    Ok(Volume::new(voxels, *affine))
}

/// Value at a fractional index; the outer half cells repeat the edge, beyond them is none.
fn trilinear(grid: ArrayView3<'_, f32>, at: [f64; 3]) -> Option<f32> {
    let (mut low, mut high, mut share) = ([0; 3], [0; 3], [0.0f32; 3]);
    for a in 0..3 {
        let last = grid.shape()[a] as f64 - 1.0;
        if !(-0.5..=last + 0.5).contains(&at[a]) {
            return None;
        }
        let inside = at[a].clamp(0.0, last);
        low[a] = inside as usize;
        high[a] = (low[a] + 1).min(grid.shape()[a] - 1);
        share[a] = (inside - low[a] as f64) as f32;
    }
    let line = |x: usize, y: usize| {
        let (p, q) = (grid[[x, y, low[2]]], grid[[x, y, high[2]]]);
        p + share[2] * (q - p)
    };
    let plane = |x: usize| {
        let (p, q) = (line(x, low[1]), line(x, high[1]));
        p + share[1] * (q - p)
    };
    let (p, q) = (plane(low[0]), plane(high[0]));
    Some(p + share[0] * (q - p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_field_comes_out_on_a_turned_grid_and_nothing_beyond_it() {
        let field = |p: [f64; 3]| (2.0 * p[0] - p[1] + 0.5 * p[2]) as f32;
        let from = Affine::from_spacing([2.0, 1.5, 3.0], [-1.0, 1.0, 1.0], [9.0, -4.0, 2.0]);
        let grid = Array3::from_shape_fn((8, 9, 7), |(x, y, z)| {
            field(from.apply([x as f64, y as f64, z as f64]))
        });
        let (sine, cosine) = 0.3f64.sin_cos();
        let turned = Affine([
            [cosine, -sine, 0.0, 0.5],
            [sine, cosine, 0.0, -1.0],
            [0.0, 0.0, 1.25, 4.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        let onto = linear_onto(grid.view(), &from, [12, 12, 16], &turned, -1000.0).unwrap();
        let last = [7.0, 8.0, 6.0];
        let back = from.inverse().unwrap();
        let (mut inside, mut outside) = (0, 0);
        for ((x, y, z), &found) in onto.voxels.indexed_iter() {
            let p = turned.apply([x as f64, y as f64, z as f64]);
            let at = back.apply(p);
            if (0..3).all(|a| (0.0..=last[a]).contains(&at[a])) {
                assert!((found - field(p)).abs() < 1e-4, "{at:?}: {found}");
                inside += 1;
            } else if (0..3).any(|a| !(-0.5..=last[a] + 0.5).contains(&at[a])) {
                assert_eq!(found, -1000.0, "{at:?}");
                outside += 1;
            }
        }
        assert!(inside > 50 && outside > 10, "{inside} {outside}");
    }

    #[test]
    fn grids_that_say_nothing_are_refused() {
        let empty = Array3::<u8>::zeros((0, 2, 2));
        let one = Affine::IDENTITY;
        assert!(nearest_onto(empty.view(), &one, [1; 3], &one, 0).is_err());
        let some = Array3::<f32>::zeros((2, 2, 2));
        let flat = Affine([[0.0; 4]; 4]);
        assert!(linear_onto(some.view(), &flat, [1; 3], &one, 0.0).is_err());
    }
}
