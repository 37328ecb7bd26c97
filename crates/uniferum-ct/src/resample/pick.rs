//! Three axis operators that pick voxels: for labels, which must not be mixed.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use super::AxisOperator;

/// Picks voxels: output `(x, y, z)` is the input at the single taps of the three operators, or
/// `fill` where one has none. Only the first tap of each output counts.
pub(crate) fn pick<T, U, F>(
    input: ArrayView3<'_, T>,
    operators: [&AxisOperator; 3],
    fill: U,
    finish: F,
) -> Array3<U>
where
    T: Copy + Sync + Send,
    U: Copy + Sync + Send,
    F: Fn(T) -> U + Sync,
{
    let shape = operators.map(AxisOperator::len);
    let tables = operators.map(|op| {
        (0..op.len())
            .map(|k| {
                let (start, weights) = op.taps(k);
                (!weights.is_empty()).then_some(start)
            })
            .collect::<Vec<_>>()
    });
    let mut output = Array3::from_elem(shape, fill);
    output
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(x, mut plane)| {
            let Some(x) = tables[0][x] else { return };
            for (y, mut row) in plane.rows_mut().into_iter().enumerate() {
                let Some(y) = tables[1][y] else { continue };
                for (cell, z) in row.iter_mut().zip(&tables[2]) {
                    if let Some(z) = *z {
                        *cell = finish(input[[x, y, z]]);
                    }
                }
            }
        });
    output
}
