//! Three axis operators applied to a volume in one pass.

use std::ops::Range;

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use super::AxisOperator;

/// Rows that the last step works on side by side, one per vector lane.
const LANES: usize = 16;

/// Output planes that one task makes together: neighbours read mostly the same planes of the input.
const GROUP: usize = 4;

/// Applies `operators` along x, y and z and stores what `finish` makes of each value.
///
/// `load` turns a voxel into a number relative to the fill value, so that a tap that is not there
/// weighs in as fill; `finish` adds the fill value back.
///
/// The volume is made a few x planes at a time, and these a few rows at a time: rows of the input planes are
/// summed when the first output needs them, then those rows, then (of rows laid side by side) single
/// samples, so that each step finds what it reads in the nearest cache. Besides the output as many planes
/// a thread are in memory.
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
    let mut output = Array3::from_elem(operators.map(AxisOperator::len), U::default());
    resample_into(input, operators, load, finish, &mut output);
    output
}

/// [`resample`] into an array that is there already, in standard layout and of the result's shape.
pub(crate) fn resample_into<T, U, L, F>(
    input: ArrayView3<'_, T>,
    operators: [&AxisOperator; 3],
    load: L,
    finish: F,
    output: &mut Array3<U>,
) where
    T: Copy + Sync + Send,
    U: Copy + Sync + Send,
    L: Fn(T) -> f32 + Copy + Send + Sync,
    F: Fn(f32) -> U + Copy + Send + Sync,
{
    let (from, to) = (
        operators.map(AxisOperator::input_len),
        operators.map(AxisOperator::len),
    );
    assert_eq!(input.shape(), from, "the input that the operators take");
    assert_eq!(output.shape(), to, "the output that the operators give");
    if output.is_empty() {
        return;
    }
    // Only the rows and samples that are read are ever loaded.
    let (ys, zs) = (operators[1].reads(), operators[2].reads());
    if ys.is_empty() || zs.is_empty() {
        output.fill(finish(0.0));
        return;
    }
    let y_op = operators[1].rebased(&ys);
    let z_op = operators[2].rebased(&zs);
    let plan = Plan {
        input,
        x_op: operators[0],
        y_op: &y_op,
        z_op: &z_op,
        convolved: z_op.convolution(),
        ys,
        zs,
    };
    let arch = pulp::Arch::new();
    output
        .axis_chunks_iter_mut(Axis(0), GROUP)
        .into_par_iter()
        .enumerate()
        .for_each_init(
            || Scratch::new(&plan),
            |scratch, (group, mut planes)| {
                let planes = planes
                    .as_slice_mut()
                    .expect("planes of an array in standard layout are contiguous");
                arch.dispatch(GroupWork {
                    plan: &plan,
                    first: group * GROUP,
                    scratch,
                    out: planes,
                    load,
                    finish,
                });
            },
        );
}

struct Plan<'a, T> {
    input: ArrayView3<'a, T>,
    x_op: &'a AxisOperator,
    y_op: &'a AxisOperator,
    z_op: &'a AxisOperator,
    /// Outputs along z that are a convolution.
    convolved: Range<usize>,
    ys: Range<usize>,
    zs: Range<usize>,
}

/// A group of planes to be made with the processor's widest vectors.
///
/// No closure: of a closure the compiler makes a function that is not inlined where they are switched on.
struct GroupWork<'a, 'p, T, U, L, F> {
    plan: &'a Plan<'p, T>,
    /// First output plane.
    first: usize,
    scratch: &'a mut Scratch,
    out: &'a mut [U],
    load: L,
    finish: F,
}

impl<T, U, L, F> pulp::NullaryFnOnce for GroupWork<'_, '_, T, U, L, F>
where
    T: Copy,
    U: Copy,
    L: Fn(T) -> f32 + Copy,
    F: Fn(f32) -> U + Copy,
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        self.plan
            .group(self.first, self.scratch, self.out, self.load, self.finish);
    }
}

struct Scratch {
    /// One row of each input plane of a group, loaded: `[planes, zs]`.
    loaded: Vec<f32>,
    /// Sums of input planes, `[GROUP, ys, zs]`.
    xs: Vec<f32>,
    /// A few rows of the output, not yet resampled along z, `[LANES, zs]`.
    rows: Vec<f32>,
    /// `LANES` rows side by side, `[zs, LANES]`, or one row of the output.
    tile: Vec<f32>,
}

impl Scratch {
    fn new<T>(plan: &Plan<'_, T>) -> Self {
        let width = plan.zs.len();
        Self {
            loaded: Vec::new(),
            xs: vec![0.0; GROUP * plan.ys.len() * width],
            rows: vec![0.0; LANES * width],
            tile: vec![0.0; (width * LANES).max(plan.z_op.len())],
        }
    }
}

impl<T: Copy> Plan<'_, T> {
    /// Output planes from `first` on, as many as `out` holds.
    #[inline(always)]
    fn group<U: Copy>(
        &self,
        first: usize,
        scratch: &mut Scratch,
        out: &mut [U],
        load: impl Fn(T) -> f32 + Copy,
        finish: impl Fn(f32) -> U + Copy,
    ) {
        let (width, nz, ny) = (self.zs.len(), self.z_op.len(), self.y_op.len());
        let planes = out.len() / (ny * nz);
        let sources = self.sources(first..first + planes);
        // Rows of the sums of planes that are there already.
        let mut filled = 0;
        for y0 in (0..ny).step_by(LANES) {
            let ys = y0..(y0 + LANES).min(ny);
            let needed = ys.clone().map(|y| {
                let (start, weights) = self.y_op.taps(y);
                start + weights.len()
            });
            let needed = needed.max().unwrap_or(0);
            for y in filled..needed {
                self.sum_planes(first..first + planes, &sources, y, scratch, load);
            }
            filled = filled.max(needed);
            for plane in 0..planes {
                let sums = &scratch.xs[plane * self.ys.len() * width..];
                for (y, out) in ys.clone().zip(scratch.rows.chunks_exact_mut(width)) {
                    let (start, weights) = self.y_op.taps(y);
                    let row = |t: usize| &sums[(start + t) * width..][..width];
                    weighted_sum(row, weights, out);
                }
                let out = &mut out[(plane * ny + y0) * nz..][..ys.len() * nz];
                self.finish_rows(&scratch.rows, &mut scratch.tile, out, finish);
            }
        }
    }

    /// The input planes that some of these output planes read.
    #[inline(always)]
    fn sources(&self, planes: Range<usize>) -> Range<usize> {
        let read = || {
            let taps = planes.clone().map(|x| self.x_op.taps(x));
            taps.filter(|(_, weights)| !weights.is_empty())
        };
        let first = read().map(|(start, _)| start).min().unwrap_or(0);
        let past = read().map(|(start, weights)| start + weights.len()).max();
        first..past.unwrap_or(0)
    }

    /// Row `y` (of those that are read) of the weighted input planes of each output plane.
    ///
    /// The row is loaded once from every input plane: outputs that follow each other read it again.
    #[inline(always)]
    fn sum_planes(
        &self,
        planes: Range<usize>,
        sources: &Range<usize>,
        y: usize,
        scratch: &mut Scratch,
        load: impl Fn(T) -> f32 + Copy,
    ) {
        let width = self.zs.len();
        let Scratch { loaded, xs, .. } = scratch;
        loaded.resize(loaded.len().max(sources.len() * width), 0.0);
        for (source, into) in sources.clone().zip(loaded.chunks_exact_mut(width)) {
            let plane = self.input.index_axis(Axis(0), source);
            let line = plane.index_axis_move(Axis(0), self.ys.start + y);
            match line.to_slice() {
                Some(line) => {
                    let line = &line[self.zs.clone()];
                    into.iter_mut().zip(line).for_each(|(to, &v)| *to = load(v));
                }
                None => {
                    let line = line.into_iter().skip(self.zs.start);
                    into.iter_mut().zip(line).for_each(|(to, &v)| *to = load(v));
                }
            }
        }
        for (plane, x) in planes.enumerate() {
            let (start, weights) = self.x_op.taps(x);
            // Nothing is read where there are no weights.
            let row = |t: usize| &loaded[(start + t - sources.start) * width..][..width];
            let sum = &mut xs[(plane * self.ys.len() + y) * width..][..width];
            weighted_sum(row, weights, sum);
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
        let (width, nz) = (self.zs.len(), self.z_op.len());
        // Worth it unless the edges, which are done one by one, are most of the row.
        if 2 * self.convolved.len() > nz {
            for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(nz)) {
                self.convolve_row(row, &mut tile[..self.convolved.len()], out, finish);
            }
            return;
        }
        let lanes = out.len() / nz;
        for lane in 0..lanes {
            let row = &rows[lane * width..][..width];
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
                out[lane * nz + z] = finish(sum[lane]);
            }
        }
    }

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
        let (start, weights) = self.z_op.taps(middle.start);
        let shifted = |t: usize| &row[start + t..][..middle.len()];
        weighted_sum(shifted, weights, sum);
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

/// Sets `sum` to the weighted sum of lines, four at a time so that it is fetched and stored once for them.
#[inline(always)]
fn weighted_sum<'a>(line: impl Fn(usize) -> &'a [f32], weights: &[f32], sum: &mut [f32]) {
    let (groups, rest) = weights.as_chunks::<4>();
    let mut fresh = true;
    for (group, weights) in groups.iter().enumerate() {
        let t = 4 * group;
        let lines = [line(t), line(t + 1), line(t + 2), line(t + 3)];
        add_weighted(lines, *weights, sum, fresh);
        fresh = false;
    }
    let t = 4 * groups.len();
    match *rest {
        [a] => add_weighted([line(t)], [a], sum, fresh),
        [a, b] => add_weighted([line(t), line(t + 1)], [a, b], sum, fresh),
        [a, b, c] => {
            let lines = [line(t), line(t + 1), line(t + 2)];
            add_weighted(lines, [a, b, c], sum, fresh);
        }
        _ if fresh => sum.fill(0.0),
        _ => {}
    }
}

/// Adds `N` weighted lines to `sum`, or to nothing where it is `fresh`.
#[inline(always)]
fn add_weighted<const N: usize>(
    lines: [&[f32]; N],
    weights: [f32; N],
    sum: &mut [f32],
    fresh: bool,
) {
    let lines = lines.map(|line| &line[..sum.len()]);
    if fresh {
        for (i, sum) in sum.iter_mut().enumerate() {
            *sum = added(&lines, &weights, i, 0.0);
        }
    } else {
        for (i, sum) in sum.iter_mut().enumerate() {
            *sum = added(&lines, &weights, i, *sum);
        }
    }
}

/// `sum` and the weighted samples `i` of the lines.
#[inline(always)]
fn added<const N: usize>(lines: &[&[f32]; N], weights: &[f32; N], i: usize, mut sum: f32) -> f32 {
    for n in 0..N {
        sum += weights[n] * lines[n][i];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resample::{Interpolation, pick};

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
