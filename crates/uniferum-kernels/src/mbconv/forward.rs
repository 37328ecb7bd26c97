//! The forward pass of a block, and what it keeps for the backward pass.
//!
//! Inner arrays are channel-major, `[C, B, voxels]`: a channel's statistics run over one
//! contiguous row, and a product's columns over the voxels of all samples.

use std::ops::Range;

use rayon::prelude::*;

use super::channels::ChannelBuffer;
use super::excite::Excite;
use super::moments::{Moments, row_statistics};
use super::plan::{LayerPlaces, Places, Plan};
use super::tiles::{Tile, tiles};
use crate::batch_norm::maps::{norm_silu, norm_silu_sum};
use crate::batch_norm::norm::{Norm, Statistics, statistics_of};
use crate::depthwise::Phases;
use crate::gemm::{Mat, gemm_into};
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use crate::simd::{Simd, affine, affine2};

/// Elements of an expanded activation that exist at a time: 64 MB.
const GROUP: usize = 1 << 24;

/// What backward needs beside the input and the parameters. The expanded activation, the
/// largest of all, is not among it.
pub(crate) struct Saved {
    pub(super) moments: Option<Moments>,
    pub(super) expand: Option<Norm>,
    pub(super) depthwise: Norm,
    pub(super) project: Norm,
    pub(super) excite: Excite,
    /// Output of the depthwise convolution, `[mid, B, voxels]`.
    pub(super) wide: Scratch,
    /// Output of the projection, `[c_out, B, voxels]`.
    pub(super) narrow: Scratch,
}

/// The block's output, what backward needs, and the statistics of each norm in order.
pub(super) fn forward(
    plan: &Plan,
    weights: &[f32],
    running: Option<&[Statistics]>,
    x: &[f32],
) -> (Scratch, Saved, Vec<Statistics>) {
    let places = plan.places();
    let mut statistics = Vec::new();
    let mut running = running.map(|r| r.iter());
    let mut known = || {
        running
            .as_mut()
            .map(|r| r.next().cloned().unwrap_or_default())
    };

    let mut moments = None;
    let expand = places.expand.as_ref().map(|layer| {
        let own = known();
        let count = own.is_none().then(|| plan.in_columns());
        let own = own.unwrap_or_else(|| {
            let w = &weights[layer.weight.clone()];
            moments.insert(Moments::new(plan, x)).of_combinations(w)
        });
        statistics.push(own.clone());
        norm_of(plan, &own, weights, layer, count)
    });
    let (wide, own) = widen(plan, &places, weights, expand.as_ref(), x);
    let norm = |own: Statistics, known: Option<Statistics>, layer| {
        let count = known.is_none().then(|| plan.out_columns());
        let own = known.unwrap_or(own);
        let norm = norm_of(plan, &own, weights, layer, count);
        (norm, own)
    };
    let (depthwise, own) = norm(own, known(), &places.depthwise);
    statistics.push(own);
    let mean = means(plan, &depthwise, &wide);
    let excite = Excite::forward(plan, &places, weights, mean);
    let narrow = narrow(plan, &places, weights, &depthwise, &excite, &wide);
    let own = row_statistics(&narrow, plan.out_columns());
    let (project, own) = norm(own, known(), &places.project);
    statistics.push(own);
    let y = finish(plan, &project, &narrow, x);
    let saved = Saved {
        moments,
        expand,
        depthwise,
        project,
        excite,
        wide,
        narrow,
    };
    (y, saved, statistics)
}

/// A layer's norm; `count`: values per channel when the statistics are the batch's own.
fn norm_of(
    plan: &Plan,
    statistics: &Statistics,
    weights: &[f32],
    layer: &LayerPlaces,
    count: Option<usize>,
) -> Norm {
    let at = |place: &Range<usize>| &weights[place.clone()];
    let (gamma, beta) = (at(&layer.gamma), at(&layer.beta));
    Norm::new(statistics, gamma, beta, plan.eps, count)
}

/// The channels between expansion and projection in groups whose expanded activation fits
/// the memory set aside for it.
pub(super) fn groups(plan: &Plan) -> Vec<Range<usize>> {
    let most = (GROUP / plan.in_columns()).max(2 * rayon::current_num_threads());
    let count = plan.mid.div_ceil(most);
    (0..count)
        .map(|i| crate::parallel::part(plan.mid, i, count))
        .collect()
}

/// The expansion of some channels before its norm, `[channels, B, voxels]`.
pub(super) fn expanded(plan: &Plan, w: &[f32], x: &[f32], out: &mut [f32]) {
    let columns = plan.in_columns();
    let rows = w.len() / plan.c_in;
    let w = Mat::rows(w, rows, plan.c_in, plan.c_in);
    let out = SharedMut::new(&mut out[..rows * columns]);
    let each = |copy: &mut Vec<f32>, tile: Tile| {
        let x = tile.of(x, plan.c_in, copy);
        // SAFETY: the tile's columns of all rows belong to this task alone.
        unsafe { gemm_into(w, x, out.at(tile.first()), columns, false, false) };
    };
    tiles(plan.batch, plan.geometry.in_voxels(), usize::MAX)
        .into_par_iter()
        .for_each_init(Vec::new, |copy, tile| each(copy, tile));
}

/// Expansion and depthwise convolution before its norm, and the statistics of the result.
fn widen(
    plan: &Plan,
    places: &Places,
    weights: &[f32],
    norm: Option<&Norm>,
    x: &[f32],
) -> (Scratch, Statistics) {
    let simd = Simd::detect();
    let layout = Phases::new(&plan.geometry, false);
    let (inputs, outputs) = (plan.in_columns(), plan.out_columns());
    let voxels = plan.geometry.in_voxels();
    let taps = plan.geometry.taps();
    let kernels = &weights[places.depthwise.weight.clone()];
    let mut wide = Scratch::new(plan.mid * outputs);
    let mut statistics = Vec::new();
    for group in groups(plan) {
        let mut expansion = Scratch::new(if norm.is_some() {
            group.len() * inputs
        } else {
            0
        });
        if let Some(layer) = &places.expand {
            let rows = &weights[layer.weight.clone()][group.start * plan.c_in..];
            expanded(plan, &rows[..group.len() * plan.c_in], x, &mut expansion);
        }
        let rows = &mut wide[group.start * outputs..group.end * outputs];
        let own = rows.par_chunks_mut(outputs).enumerate().map_init(
            || ChannelBuffer::new(plan, &layout),
            |scratch, (i, row)| {
                let c = group.start + i;
                let w = &kernels[c * taps..][..taps];
                let samples = row.chunks_exact_mut(plan.geometry.out_voxels());
                for (b, row) in samples.enumerate() {
                    match norm {
                        Some(norm) => {
                            let x = &expansion[i * inputs + b * voxels..][..voxels];
                            scratch.load(simd, &layout, x, Some((norm.scale[c], norm.shift[c])));
                        }
                        None => {
                            let x = &x[(b * plan.mid + c) * voxels..][..voxels];
                            scratch.load(simd, &layout, x, None);
                        }
                    }
                    scratch.convolve(simd, &layout, w, row);
                }
                statistics_of(std::iter::once(&*row))
            },
        );
        statistics.extend(own.collect::<Vec<_>>());
    }
    let (mean, var) = statistics.into_iter().unzip();
    (wide, Statistics { mean, var })
}

/// The means of the activated channels, `[B, mid]`.
fn means(plan: &Plan, norm: &Norm, wide: &[f32]) -> Vec<f32> {
    let simd = Simd::detect();
    let voxels = plan.geometry.out_voxels();
    (0..plan.batch * plan.mid)
        .into_par_iter()
        .map(|i| {
            let (b, c) = (i / plan.mid, i % plan.mid);
            let row = &wide[(c * plan.batch + b) * voxels..][..voxels];
            let sum = norm_silu_sum(simd, row, norm.scale[c], norm.shift[c]);
            (sum / voxels as f64) as f32
        })
        .collect()
}

/// Widest tile whose `rows` stay in the second-level cache.
pub(super) fn cached_columns(rows: usize) -> usize {
    (1 << 17) / rows
}

/// The activated, weighted channels of a tile, `[mid, columns]`.
pub(super) fn activated(
    plan: &Plan,
    norm: &Norm,
    excite: &Excite,
    wide: &[f32],
    tile: &Tile,
    out: &mut Vec<f32>,
) {
    let simd = Simd::detect();
    let columns = tile.columns();
    out.resize(plan.mid * columns, 0.0);
    for (c, out) in out.chunks_exact_mut(columns).enumerate() {
        let row = &wide[c * plan.out_columns() + tile.first()..][..columns];
        for (b, at) in tile.parts() {
            let gate = excite.gate[b * plan.mid + c];
            let (to, from) = (&mut out[at.clone()], &row[at]);
            norm_silu(simd, to, from, norm.scale[c], norm.shift[c], gate);
        }
    }
}

/// The projection before its norm, `[c_out, B, voxels]`.
fn narrow(
    plan: &Plan,
    places: &Places,
    weights: &[f32],
    norm: &Norm,
    excite: &Excite,
    wide: &[f32],
) -> Scratch {
    let columns = plan.out_columns();
    let (m, k) = (plan.c_out, plan.mid);
    let mut y = Scratch::new(m * columns);
    let out = SharedMut::new(&mut y);
    let w = Mat::rows(&weights[places.project.weight.clone()], m, k, k);
    tiles(plan.batch, plan.geometry.out_voxels(), cached_columns(k))
        .into_par_iter()
        .for_each_init(Vec::new, |active, tile| {
            activated(plan, norm, excite, wide, &tile, active);
            let active = Mat::rows(active, k, tile.columns(), tile.columns());
            // SAFETY: the tile's columns of all rows belong to this task alone.
            unsafe { gemm_into(w, active, out.at(tile.first()), columns, false, false) };
        });
    y
}

/// The last norm and the residual, `[B, c_out, voxels]`.
fn finish(plan: &Plan, norm: &Norm, narrow: &[f32], x: &[f32]) -> Scratch {
    let simd = Simd::detect();
    let (batch, voxels) = (plan.batch, plan.geometry.out_voxels());
    let mut y = Scratch::new(narrow.len());
    y.par_chunks_mut(voxels).enumerate().for_each(|(i, y)| {
        let (b, c) = (i / plan.c_out, i % plan.c_out);
        let from = &narrow[(c * batch + b) * voxels..][..voxels];
        if plan.residual {
            let x = &x[i * voxels..][..voxels];
            affine2(simd, y, from, x, norm.scale[c], 1.0, norm.shift[c]);
        } else {
            affine(simd, y, from, norm.scale[c], norm.shift[c]);
        }
    });
    y
}
