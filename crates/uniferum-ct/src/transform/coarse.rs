//! From any grid to any other.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use crate::{Affine, Error, Result, Volume};

/// Samples `grid` at the voxels of another grid, trilinearly; 0 beyond the outer faces of its cells.
///
/// # Shapes
/// The result has `shape` and `affine`.
///
/// # Errors
/// An affine that cannot be inverted, an empty grid.
pub fn resample_onto(
    grid: ArrayView3<'_, f32>,
    grid_affine: &Affine,
    shape: [usize; 3],
    affine: &Affine,
) -> Result<Volume<f32>> {
    let inverse = grid_affine.inverse().ok_or_else(|| Error::Volume {
        what: "affine of the grid",
        expected: "an invertible matrix".to_owned(),
        got: format!("{:?}", grid_affine.0),
    })?;
    if grid.is_empty() {
        return Err(Error::Volume {
            what: "grid",
            expected: "at least one cell".to_owned(),
            got: format!("shape {:?}", grid.shape()),
        });
    }
    let map = inverse.compose(affine);
    let grid = grid.as_standard_layout();
    let step: [f64; 3] = std::array::from_fn(|a| map.0[a][2]);
    let mut voxels = Array3::zeros(shape);
    voxels
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(x, mut plane)| {
            for (y, mut line) in plane.rows_mut().into_iter().enumerate() {
                let start = map.apply([x as f64, y as f64, 0.0]);
                for (z, out) in line.iter_mut().enumerate() {
                    let at = std::array::from_fn(|a| start[a] + z as f64 * step[a]);
                    *out = trilinear(grid.view(), at);
                }
            }
        });
    Ok(Volume::new(voxels, *affine))
}

/// Value at a fractional index; the outer half cells repeat the edge, beyond them 0.
fn trilinear(grid: ArrayView3<'_, f32>, at: [f64; 3]) -> f32 {
    let (mut low, mut high, mut share) = ([0; 3], [0; 3], [0.0f32; 3]);
    for a in 0..3 {
        let last = grid.shape()[a] as f64 - 1.0;
        if !(-0.5..=last + 0.5).contains(&at[a]) {
            return 0.0;
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
    p + share[0] * (q - p)
}
