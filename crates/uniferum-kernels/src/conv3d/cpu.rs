//! Convolution on the host: matrix products over lowered slabs.
//!
//! The output of one group is `Y = W X'` where row `(c, tap)` of `X'` holds, for each output
//! voxel, the input voxel that this tap of channel `c` sees. `X'` is `taps` times the input,
//! so only a slab of its columns, a few output rows that fit the cache, exists at a time.
//! For a kernel of one voxel `X'` is the input itself and nothing is copied.

use std::ops::Range;

use rayon::prelude::*;

use super::Conv3d;
use crate::gemm::{Mat, gemm, gemm_into};
use crate::geometry::Geometry;
use crate::memory::zeros;
use crate::parallel::{SharedMut, accumulate_init};
use crate::simd::{Simd, sum};

/// Lowered elements in one slab: a quarter of a megabyte, so that it stays in the L2 cache.
const SLAB: usize = 1 << 16;

/// Columns of a task in the products of one-voxel kernels.
const COLUMNS: usize = 4096;

pub(super) fn forward(conv: &Conv3d, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut y = zeros(conv.batch * conv.c_out * conv.geometry.out_voxels());
    forward_into(conv, x, weight, bias, &mut y);
    y
}

/// As [`forward`], over whatever `y` holds.
pub(crate) fn forward_into(
    conv: &Conv3d,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let g = &conv.geometry;
    let n = g.out_voxels();
    if let Some(bias) = bias {
        y.par_chunks_mut(n)
            .enumerate()
            .for_each(|(i, row)| row.fill(bias[i % conv.c_out]));
    }
    let add = bias.is_some();
    let (c, m) = (conv.group_in(), conv.group_out());
    let k = c * g.taps();
    let slabs = Slabs::new(g, k);
    let out = SharedMut::new(y);
    tasks(conv, slabs.count)
        .into_par_iter()
        .for_each_init(Vec::new, |lowered, (b, group, s)| {
            let x = &x[(b * conv.c_in + group * c) * g.in_voxels()..][..c * g.in_voxels()];
            let w = Mat::rows(&weight[group * m * k..][..m * k], m, k, k);
            let columns = slabs.columns(s);
            let xs = lower(g, c, x, &slabs, s, lowered);
            // SAFETY: the group's rows and the slab's columns belong to this task alone.
            unsafe {
                let y = out.at((b * conv.c_out + group * m) * n + columns.start);
                gemm_into(w, xs, y, n, add, slabs.count == 1);
            }
        });
}

pub(crate) fn grad_weight(conv: &Conv3d, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let g = &conv.geometry;
    let n = g.out_voxels();
    let (c, m) = (conv.group_in(), conv.group_out());
    let k = c * g.taps();
    let slabs = Slabs::new(g, k);
    let tasks = tasks(conv, slabs.count);
    let add = |lowered: &mut Vec<f32>, task: usize, sums: &mut [f32]| {
        let (b, group, s) = tasks[task];
        let x = &x[(b * conv.c_in + group * c) * g.in_voxels()..][..c * g.in_voxels()];
        let columns = slabs.columns(s);
        let xs = lower(g, c, x, &slabs, s, lowered);
        let dy = &dy[(b * conv.c_out + group * m) * n + columns.start..];
        let dy = Mat::rows(dy, m, columns.len(), n);
        let sums = &mut sums[group * m * k..][..m * k];
        gemm(dy, xs.t(), sums, k, true, tasks.len() == 1);
    };
    accumulate_init(conv.c_out * k, tasks.len(), Vec::new, add)
}

pub(super) fn grad_input(conv: &Conv3d, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = zeros(conv.batch * conv.c_in * conv.geometry.in_voxels());
    grad_input_into(conv, weight, dy, &mut dx);
    dx
}

/// As [`grad_input`], into zeros.
pub(crate) fn grad_input_into(conv: &Conv3d, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    let g = &conv.geometry;
    if g.is_pointwise() {
        return grad_input_pointwise(conv, weight, dy, dx);
    }
    let (n, taps) = (g.out_voxels(), g.taps());
    let (c, m) = (conv.group_in(), conv.group_out());
    // A task owns some channels of one group, so that no two add to the same voxel.
    let want = (4 * rayon::current_num_threads()).div_ceil(conv.batch * conv.groups);
    let block = c.div_ceil(want.min(c)).max(1);
    let blocks = c.div_ceil(block);
    let slabs = Slabs::new(g, block * taps);
    let out = SharedMut::new(dx);
    tasks(conv, blocks)
        .into_par_iter()
        .for_each_init(Vec::new, |lowered, (b, group, i)| {
            let channels = i * block..c.min((i + 1) * block);
            let k = channels.len() * taps;
            let w = &weight[group * m * c * taps + channels.start * taps..];
            let w = Mat::rows(w, m, k, c * taps).t();
            let first = (b * conv.c_in + group * c + channels.start) * g.in_voxels();
            // SAFETY: these channels of this sample belong to this task alone.
            let dx = unsafe {
                std::slice::from_raw_parts_mut(out.at(first), channels.len() * g.in_voxels())
            };
            for s in 0..slabs.count {
                let columns = slabs.columns(s);
                let dy = &dy[(b * conv.c_out + group * m) * n + columns.start..];
                lowered.resize(k * columns.len(), 0.0);
                let dy = Mat::rows(dy, m, columns.len(), n);
                gemm(w, dy, lowered, columns.len(), false, false);
                raise(g, channels.len(), lowered, slabs.rows(s), dx);
            }
        });
}

fn grad_input_pointwise(conv: &Conv3d, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    let n = conv.geometry.out_voxels();
    let (c, m) = (conv.group_in(), conv.group_out());
    let slabs = Slabs::new(&conv.geometry, c);
    let out = SharedMut::new(dx);
    tasks(conv, slabs.count)
        .into_par_iter()
        .for_each(|(b, group, s)| {
            let columns = slabs.columns(s);
            let w = Mat::rows(&weight[group * m * c..][..m * c], m, c, c).t();
            let dy = &dy[(b * conv.c_out + group * m) * n + columns.start..];
            let dy = Mat::rows(dy, m, columns.len(), n);
            // SAFETY: the group's rows and the slab's columns belong to this task alone.
            unsafe {
                let dx = out.at((b * conv.c_in + group * c) * n + columns.start);
                gemm_into(w, dy, dx, n, false, slabs.count == 1);
            }
        });
}

/// Sums of `dy` `[batch, channels, voxels]` over everything but the channel.
pub(crate) fn channel_sums(dy: &[f32], batch: usize, channels: usize, voxels: usize) -> Vec<f32> {
    let simd = Simd::detect();
    (0..channels)
        .into_par_iter()
        .map(|c| {
            let rows = (0..batch).map(|b| &dy[(b * channels + c) * voxels..][..voxels]);
            rows.map(|row| sum(simd, row)).sum::<f64>() as f32
        })
        .collect()
}

/// Every (sample, group, part).
fn tasks(conv: &Conv3d, parts: usize) -> Vec<(usize, usize, usize)> {
    let groups = conv.groups;
    (0..conv.batch * groups * parts)
        .map(|i| (i / parts / groups, i / parts % groups, i % parts))
        .collect()
}

/// The output cut into runs of whole rows (or, for one-voxel kernels, of voxels).
struct Slabs {
    count: usize,
    rows: usize,
    rows_each: usize,
    width: usize,
    pointwise: bool,
}

impl Slabs {
    fn new(g: &Geometry, k: usize) -> Self {
        let pointwise = g.is_pointwise();
        let (rows, width, rows_each) = if pointwise {
            (g.out_voxels(), 1, COLUMNS)
        } else {
            let width = g.output[2];
            (
                g.output[0] * g.output[1],
                width,
                (SLAB / (k * width)).max(1),
            )
        };
        Self {
            count: rows.div_ceil(rows_each),
            rows,
            rows_each,
            width,
            pointwise,
        }
    }

    fn rows(&self, slab: usize) -> Range<usize> {
        slab * self.rows_each..self.rows.min((slab + 1) * self.rows_each)
    }

    fn columns(&self, slab: usize) -> Range<usize> {
        let rows = self.rows(slab);
        rows.start * self.width..rows.end * self.width
    }
}

/// The slab of `X'`: `[channels * taps, columns]`.
fn lower<'a>(
    g: &Geometry,
    channels: usize,
    x: &'a [f32],
    slabs: &Slabs,
    slab: usize,
    lowered: &'a mut Vec<f32>,
) -> Mat<'a> {
    let columns = slabs.columns(slab);
    if slabs.pointwise {
        return Mat::rows(&x[columns.start..], channels, columns.len(), g.in_voxels());
    }
    lowered.resize(channels * g.taps() * columns.len(), 0.0);
    let mut pieces = lowered.chunks_exact_mut(g.output[2]);
    for_each_row(g, channels, slabs.rows(slab), |tap_w, source| {
        let piece = pieces.next().expect("one piece for each tap and row");
        let Some(source) = source else {
            piece.fill(0.0);
            return;
        };
        let (valid, first) = along_width(g, tap_w);
        piece[..valid.start].fill(0.0);
        piece[valid.end..].fill(0.0);
        let row = &x[source..][..g.input[2]];
        let stride = g.stride[2];
        if valid.is_empty() {
        } else if stride == 1 {
            let n = valid.len();
            piece[valid].copy_from_slice(&row[first..][..n]);
        } else {
            let voxels = row[first..].iter().step_by(stride);
            piece[valid]
                .iter_mut()
                .zip(voxels)
                .for_each(|(p, v)| *p = *v);
        }
    });
    let k = channels * g.taps();
    Mat::rows(lowered, k, columns.len(), columns.len())
}

/// Adds a lowered slab back to the voxels that it was taken from.
fn raise(g: &Geometry, channels: usize, lowered: &[f32], rows: Range<usize>, dx: &mut [f32]) {
    let mut pieces = lowered.chunks_exact(g.output[2]);
    for_each_row(g, channels, rows, |tap_w, source| {
        let piece = pieces.next().expect("one piece for each tap and row");
        let Some(source) = source else { return };
        let (valid, first) = along_width(g, tap_w);
        if valid.is_empty() {
            return;
        }
        let row = &mut dx[source..][..g.input[2]];
        let stride = g.stride[2];
        if stride == 1 {
            let n = valid.len();
            row[first..][..n]
                .iter_mut()
                .zip(&piece[valid])
                .for_each(|(d, p)| *d += *p);
        } else {
            let voxels = row[first..].iter_mut().step_by(stride);
            voxels.zip(&piece[valid]).for_each(|(d, p)| *d += *p);
        }
    });
}

/// The outputs of a row that tap `tap` can fill, and the first voxel that it reads.
fn along_width(g: &Geometry, tap: usize) -> (Range<usize>, usize) {
    let valid = g.valid_outputs(2, tap);
    let first = (valid.start * g.stride[2] + tap).saturating_sub(g.before[2]);
    (valid, first)
}

/// Calls `f(tap along width, start of the input row)` for each channel, tap and output row,
/// in the order of the lowered matrix.
fn for_each_row(
    g: &Geometry,
    channels: usize,
    rows: Range<usize>,
    mut f: impl FnMut(usize, Option<usize>),
) {
    let [_, height, width] = g.input;
    for c in 0..channels {
        for td in 0..g.kernel[0] {
            for th in 0..g.kernel[1] {
                for tw in 0..g.kernel[2] {
                    for row in rows.clone() {
                        let (od, oh) = (row / g.output[1], row % g.output[1]);
                        let d = g.source(0, od, td);
                        let h = g.source(1, oh, th);
                        let start = d
                            .zip(h)
                            .map(|(d, h)| c * g.in_voxels() + (d * height + h) * width);
                        f(tw, start);
                    }
                }
            }
        }
    }
}
