//! Three axis operators applied to a volume in one pass.

use std::ops::Range;

use ndarray::{Array3, ArrayView2, ArrayView3, Axis};
use rayon::prelude::*;

use super::AxisOperator;

/// Rows that the last step works on side by side, one per vector lane.
const LANES: usize = 16;

/// Applies `operators` along x, y and z and stores what `finish` makes of each value.
///
/// `load` turns a voxel into a number relative to the fill value, so that a tap that is not there
/// weighs in as fill; `finish` adds the fill value back.
///
/// The volume is made one x plane at a time: the planes of the input that it needs are summed, then
/// rows, then (in blocks of rows laid side by side) single samples. Besides the output no more than
/// two planes a thread are in memory.
///
/// # Shapes
///
/// `input` is `[X, Y, Z]` with `operators[a].input_len()` samples along axis `a`; the result has
/// `operators[a].len()`.
///
/// # Panics
///
/// If the operators do not fit the input.
pub(crate) fn resample<T, U, L, F>(
    input: ArrayView3<'_, T>,
    operators: [&AxisOperator; 3],
    load: L,
    finish: F,
) -> Array3<U>
where
    T: Copy + Sync + Send,
    U: Copy + Default + Sync + Send,
    L: Fn(T) -> f32 + Copy + Send + Sync,
    F: Fn(f32) -> U + Copy + Send + Sync,
{
    let shape = operators.map(AxisOperator::len);
    for axis in 0..3 {
        assert_eq!(
            input.shape()[axis],
            operators[axis].input_len(),
            "operator of axis {axis}"
        );
    }
    let mut output = Array3::from_elem(shape, U::default());
    if output.is_empty() {
        return output;
    }
    // Only the rows and samples that are read are ever loaded.
    let (ys, zs) = (operators[1].reads(), operators[2].reads());
    let y_op = operators[1].rebased(&ys);
    let z_op = operators[2].rebased(&zs);
    let plan = Plan {
        x_op: operators[0],
        y_op: &y_op,
        z_op: &z_op,
        convolved: z_op.convolution(),
        ys,
        zs,
    };
    let arch = pulp::Arch::new();
    output
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each_init(
            || Scratch::new(&plan, shape[1]),
            |scratch, (x, mut plane)| {
                let plane = plane
                    .as_slice_mut()
                    .expect("a plane of a fresh array is contiguous");
                arch.dispatch(
                    #[inline(always)]
                    || plan.plane(input, x, scratch, plane, load, finish),
                );
            },
        );
    output
}

struct Plan<'a> {
    x_op: &'a AxisOperator,
    y_op: &'a AxisOperator,
    z_op: &'a AxisOperator,
    /// Outputs along z that are a convolution.
    convolved: Range<usize>,
    ys: Range<usize>,
    zs: Range<usize>,
}

struct Scratch {
    /// Sum of input planes, `[ys, zs]`.
    xs: Vec<f32>,
    /// Rows of the output, not yet resampled along z, `[Y, zs]`.
    rows: Vec<f32>,
    /// `LANES` rows side by side, `[zs, LANES]`, or one row of the output.
    tile: Vec<f32>,
}

impl Scratch {
    fn new(plan: &Plan<'_>, ny: usize) -> Self {
        let width = plan.zs.len();
        Self {
            xs: vec![0.0; plan.ys.len() * width],
            rows: vec![0.0; ny.next_multiple_of(LANES) * width],
            tile: vec![0.0; (width * LANES).max(plan.z_op.len())],
        }
    }
}

impl Plan<'_> {
    #[inline(always)]
    fn plane<T: Copy, U: Copy>(
        &self,
        input: ArrayView3<'_, T>,
        x: usize,
        scratch: &mut Scratch,
        out: &mut [U],
        load: impl Fn(T) -> f32 + Copy,
        finish: impl Fn(f32) -> U + Copy,
    ) {
        let (start, weights) = self.x_op.taps(x);
        scratch.xs.fill(0.0);
        let plane = |t: usize| input.index_axis_move(Axis(0), start + t);
        let mut t = 0;
        let mut groups = weights.chunks_exact(4);
        for w in &mut groups {
            let planes = [plane(t), plane(t + 1), plane(t + 2), plane(t + 3)];
            self.add_planes(planes, [w[0], w[1], w[2], w[3]], &mut scratch.xs, load);
            t += 4;
        }
        for &w in groups.remainder() {
            self.add_planes([plane(t)], [w], &mut scratch.xs, load);
            t += 1;
        }
        self.sum_rows(&scratch.xs, &mut scratch.rows);
        self.finish_rows(&scratch.rows, &mut scratch.tile, out, finish);
    }

    /// Adds up to four weighted planes, so that the sum is fetched and stored once for all of them.
    #[inline(always)]
    fn add_planes<T: Copy, const N: usize>(
        &self,
        planes: [ArrayView2<'_, T>; N],
        weights: [f32; N],
        sum: &mut [f32],
        load: impl Fn(T) -> f32 + Copy,
    ) {
        let width = self.zs.len();
        for (row, y) in self.ys.clone().enumerate() {
            let sum = &mut sum[row * width..][..width];
            let lines = planes.map(|plane| plane.index_axis_move(Axis(0), y));
            if lines.iter().all(|line| line.strides()[0] == 1) {
                let lines = lines.map(|line| &line.to_slice().unwrap_or(&[])[self.zs.clone()]);
                add_weighted(lines, weights, sum, load);
            } else {
                for (line, weight) in lines.into_iter().zip(weights) {
                    let line = line.into_iter().skip(self.zs.start);
                    sum.iter_mut()
                        .zip(line)
                        .for_each(|(s, &v)| *s += weight * load(v));
                }
            }
        }
    }

    #[inline(always)]
    fn sum_rows(&self, planes: &[f32], rows: &mut [f32]) {
        let width = self.zs.len();
        let row = |y: usize| &planes[y * width..][..width];
        for y in 0..self.y_op.len() {
            let (mut start, weights) = self.y_op.taps(y);
            let out = &mut rows[y * width..][..width];
            out.fill(0.0);
            let mut groups = weights.chunks_exact(4);
            for w in &mut groups {
                let lines = [row(start), row(start + 1), row(start + 2), row(start + 3)];
                add_weighted(lines, [w[0], w[1], w[2], w[3]], out, |v| v);
                start += 4;
            }
            for (t, &w) in groups.remainder().iter().enumerate() {
                add_weighted([row(start + t)], [w], out, |v| v);
            }
        }
    }

    #[inline(always)]
    fn finish_rows<U: Copy>(
        &self,
        rows: &[f32],
        tile: &mut [f32],
        out: &mut [U],
        finish: impl Fn(f32) -> U + Copy,
    ) {
        let (width, nz, ny) = (self.zs.len(), self.z_op.len(), self.y_op.len());
        // Worth it unless the edges, which are done one by one, are most of the row.
        if 2 * self.convolved.len() > nz {
            for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(nz)) {
                self.convolve_row(row, &mut tile[..self.convolved.len()], out, finish);
            }
            return;
        }
        for first in (0..ny).step_by(LANES) {
            let lanes = LANES.min(ny - first);
            for lane in 0..lanes {
                let row = &rows[(first + lane) * width..][..width];
                for (cell, &v) in tile[lane..].iter_mut().step_by(LANES).zip(row) {
                    *cell = v;
                }
            }
            for z in 0..nz {
                let (start, weights) = self.z_op.taps(z);
                let mut sum = [0.0f32; LANES];
                for (t, &weight) in weights.iter().enumerate() {
                    let cells = &tile[(start + t) * LANES..][..LANES];
                    for (s, &v) in sum.iter_mut().zip(cells) {
                        *s += weight * v;
                    }
                }
                for lane in 0..lanes {
                    out[(first + lane) * nz + z] = finish(sum[lane]);
                }
            }
        }
    }
}

impl Plan<'_> {
    /// One row along z, most of which is a sum of shifted copies of itself.
    #[inline(always)]
    fn convolve_row<U: Copy>(
        &self,
        row: &[f32],
        sum: &mut [f32],
        out: &mut [U],
        finish: impl Fn(f32) -> U + Copy,
    ) {
        let middle = self.convolved.clone();
        let (mut start, weights) = self.z_op.taps(middle.start);
        let shifted = |start: usize| &row[start..][..middle.len()];
        sum.fill(0.0);
        let mut groups = weights.chunks_exact(4);
        for w in &mut groups {
            let lines = [start, start + 1, start + 2, start + 3].map(shifted);
            add_weighted(lines, [w[0], w[1], w[2], w[3]], sum, |v| v);
            start += 4;
        }
        for (t, &w) in groups.remainder().iter().enumerate() {
            add_weighted([shifted(start + t)], [w], sum, |v| v);
        }
        for (out, &v) in out[middle.clone()].iter_mut().zip(sum.iter()) {
            *out = finish(v);
        }
        for z in (0..middle.start).chain(middle.end..out.len()) {
            let (start, weights) = self.z_op.taps(z);
            let taps = weights.iter().zip(&row[start..]);
            out[z] = finish(taps.map(|(w, v)| w * v).sum());
        }
    }
}

/// Adds `N` weighted lines to `sum`.
#[inline(always)]
fn add_weighted<T: Copy, const N: usize>(
    lines: [&[T]; N],
    weights: [f32; N],
    sum: &mut [f32],
    load: impl Fn(T) -> f32 + Copy,
) {
    let lines = lines.map(|line| &line[..sum.len()]);
    for i in 0..sum.len() {
        let mut s = sum[i];
        for n in 0..N {
            s += weights[n] * load(lines[n][i]);
        }
        sum[i] = s;
    }
}

/// Picks voxels: output `(x, y, z)` is the input at the single taps of the three operators, or
/// `fill` where one has none.
///
/// For labels, which must not be mixed. Only the first tap of each output counts.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::Interpolation;

    /// The three sums, written out.
    fn by_definition(input: &Array3<f32>, operators: [&AxisOperator; 3]) -> Array3<f32> {
        Array3::from_shape_fn(operators.map(AxisOperator::len), |(x, y, z)| {
            let ((i, wx), (j, wy), (k, wz)) = (
                operators[0].taps(x),
                operators[1].taps(y),
                operators[2].taps(z),
            );
            let mut sum = 0.0f64;
            for (a, &wx) in wx.iter().enumerate() {
                for (b, &wy) in wy.iter().enumerate() {
                    for (c, &wz) in wz.iter().enumerate() {
                        sum += f64::from(wx * wy * wz) * f64::from(input[[i + a, j + b, k + c]]);
                    }
                }
            }
            sum as f32
        })
    }

    fn sample() -> Array3<f32> {
        Array3::from_shape_fn((9, 21, 14), |(x, y, z)| {
            ((x * 31 + y * 17 + z * 7) % 23) as f32
        })
    }

    #[test]
    fn equals_the_definition() {
        let input = sample();
        let x = AxisOperator::sampling(9, 13, -1.2, 0.9, Interpolation::Cubic, true);
        let y = AxisOperator::area(21, 18).after(&AxisOperator::window(21, 21, 3));
        let z = AxisOperator::sampling(14, 5, 2.0, 2.4, Interpolation::Linear, true);
        let expected = by_definition(&input, [&x, &y, &z]);
        let found = resample(input.view(), [&x, &y, &z], |v| v, |v| v);
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }

    #[test]
    fn convolutions_equal_the_definition_up_to_their_edges() {
        let input = sample();
        let weights = [0.1, 0.25, 0.3, 0.25, 0.07, 0.03];
        for first in [-3, -6, 0, 2] {
            let x = AxisOperator::smoothing(9, 9, -1, &[0.5, 0.5]);
            let y = AxisOperator::window(21, 25, -2);
            let z = AxisOperator::smoothing(14, 15, first, &weights);
            let expected = by_definition(&input, [&x, &y, &z]);
            let found = resample(input.view(), [&x, &y, &z], |v| v, |v| v);
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-4, "{first}: {a} and {b}");
            }
        }
    }

    #[test]
    fn strided_views_and_fill() {
        let input = sample();
        let mut flipped = input.view();
        flipped.invert_axis(Axis(0));
        flipped.invert_axis(Axis(2));
        let ops = [
            AxisOperator::window(9, 11, -1),
            AxisOperator::window(21, 21, 0),
            AxisOperator::window(14, 14, 1),
        ];
        let found = resample(
            flipped,
            [&ops[0], &ops[1], &ops[2]],
            |v| v + 5.0,
            |v| v - 5.0,
        );
        let picked = pick(flipped, [&ops[0], &ops[1], &ops[2]], -5.0, |v| v);
        assert_eq!(found, picked);
        assert_eq!(found[[0, 3, 3]], -5.0);
        assert_eq!(found[[1, 3, 3]], input[[8, 3, 9]]);
        assert_eq!(found[[1, 3, 13]], -5.0);
    }
}
