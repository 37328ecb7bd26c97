//! The backward pass of a block.
//!
//! From the output inwards, with `dz` the gradient behind an activation:
//!
//! 1. projection: tile by tile `d(active) = Wᵀ d(narrow)`, `dW += d(narrow) activeᵀ`;
//! 2. the gate, from sums over each channel;
//! 3. for a group of channels at a time, which are expanded again: the depthwise convolution's
//!    gradients and `dz` of the expansion, written over the expanded activation;
//! 4. expansion: tile by tile `dx += (scale W)ᵀ dz`, `dW += dz xᵀ`.
//!
//! What flows through the expansion's batch statistics is linear in `x`, so that it needs no
//! second pass over the channels: with `h = W x` and the gradient of `h` being
//! `scale dz + p h + q` per channel, `dx` gains `(Σ p w wᵀ) x + Σ q w` and `dW` gains
//! `p w (x xᵀ) + q (Σ x)ᵀ`.

use rayon::prelude::*;

use super::channels::ChannelScratch;
use super::forward::{Saved, activated, cached_columns, expanded, groups};
use super::moments::quadratic_form;
use super::plan::{Places, Plan};
use super::tiles::{Tile, tiles};
use crate::batch_norm::maps::{Slope, norm_silu_gradient, silu_back, silu_sums};
use crate::depthwise::Phases;
use crate::gemm::{Mat, gemm, gemm_into};
use crate::memory::Scratch;
use crate::parallel::{SharedMut, accumulate_init};
use crate::simd::{Simd, affine2, sum_and_dot};

/// What a thread's tiles need, one after the other.
type Buffers = [Vec<f32>; 2];

/// A block, its parameters, its input and what forward kept.
pub(super) struct Backward<'a> {
    pub(super) plan: &'a Plan,
    pub(super) places: &'a Places,
    pub(super) weights: &'a [f32],
    pub(super) x: &'a [f32],
    pub(super) saved: &'a Saved,
}

impl Backward<'_> {
    /// The input's gradient; writes the parameters' to `grads`, which must be zeros.
    pub(super) fn run(&self, dy: Scratch, grads: &mut [f32]) -> Scratch {
        let mut dwide = self.project(&dy, grads);
        self.excite(&mut dwide, grads);
        let mut dx = if self.plan.residual {
            dy
        } else {
            Scratch::zeroed(self.plan.c_in * self.plan.in_columns())
        };
        match self.places.expand {
            Some(_) => self.expand(&dwide, &mut dx, grads),
            None => self.depthwise_alone(&dwide, &mut dx, grads),
        }
        dx
    }

    /// Step 1; returns the gradient of the activated channels, `[mid, B, voxels]`.
    fn project(&self, dy: &[f32], grads: &mut [f32]) -> Scratch {
        let (plan, saved) = (self.plan, self.saved);
        let (m, k, columns) = (plan.c_out, plan.mid, plan.out_columns());
        let through = self.project_norm(dy, grads);
        let w = Mat::rows(&self.weights[self.places.project.weight.clone()], m, k, k);
        let tiles = tiles(plan.batch, plan.geometry.out_voxels(), cached_columns(k));
        let mut dactive = Scratch::new(k * columns);
        let out = SharedMut::new(&mut dactive);
        let add = |[active, dnarrow]: &mut Buffers, i: usize, dw: &mut [f32]| {
            let tile = &tiles[i];
            self.narrow_gradient(dy, &through, tile, dnarrow);
            let dnarrow = Mat::rows(dnarrow, m, tile.columns(), tile.columns());
            let (norm, excite) = (&saved.depthwise, &saved.excite);
            activated(plan, norm, excite, &saved.wide, tile, active);
            let active = Mat::rows(active, k, tile.columns(), tile.columns());
            gemm(dnarrow, active.t(), dw, k, true, false);
            // SAFETY: the tile's columns of all rows belong to this task alone.
            unsafe { gemm_into(w.t(), dnarrow, out.at(tile.first()), columns, false, false) };
        };
        let dw = accumulate_init(m * k, tiles.len(), Buffers::default, add);
        grads[self.places.project.weight.clone()].copy_from_slice(&dw);
        dactive
    }

    /// The last norm's parameters, and what flows through its statistics.
    fn project_norm(&self, dy: &[f32], grads: &mut [f32]) -> Vec<(f32, f32)> {
        let simd = Simd::detect();
        let (plan, norm) = (self.plan, &self.saved.project);
        let voxels = plan.geometry.out_voxels();
        let sums = (0..plan.c_out).into_par_iter().map(|c| {
            let (mut plain, mut along) = (0.0, 0.0);
            for b in 0..plan.batch {
                let dy = &dy[(b * plan.c_out + c) * voxels..][..voxels];
                let x = &self.saved.narrow[(c * plan.batch + b) * voxels..][..voxels];
                let [s, d] = sum_and_dot(simd, dy, x, norm.mean[c]);
                plain += s;
                along += d * f64::from(norm.inv_std[c]);
            }
            (along, plain)
        });
        let sums: Vec<(f64, f64)> = sums.collect();
        let layer = &self.places.project;
        for (c, (along, plain)) in sums.iter().enumerate() {
            grads[layer.gamma.start + c] = *along as f32;
            grads[layer.beta.start + c] = *plain as f32;
        }
        let through = sums.iter().enumerate().map(|(c, (along, plain))| {
            let (p, q) = norm.through_statistics(c, *along, *plain);
            (p as f32, q as f32)
        });
        through.collect()
    }

    /// A tile of the gradient of the projection before its norm, `[c_out, columns]`.
    fn narrow_gradient(&self, dy: &[f32], through: &[(f32, f32)], tile: &Tile, out: &mut Vec<f32>) {
        let simd = Simd::detect();
        let (plan, columns) = (self.plan, tile.columns());
        out.resize(plan.c_out * columns, 0.0);
        for (c, out) in out.chunks_exact_mut(columns).enumerate() {
            let x = &self.saved.narrow[c * plan.out_columns() + tile.first()..][..columns];
            let (p, q) = through[c];
            for (b, at) in tile.parts() {
                let dy = &dy[tile.place(plan.c_out, b, c)..][..tile.len];
                let scale = self.saved.project.scale[c];
                affine2(simd, &mut out[at.clone()], dy, &x[at], scale, p, q);
            }
        }
    }

    /// Step 2: from the gradient of the activated channels to that of the depthwise
    /// convolution's output, in place.
    fn excite(&self, dwide: &mut [f32], grads: &mut [f32]) {
        let simd = Simd::detect();
        let (plan, saved, norm) = (self.plan, self.saved, &self.saved.depthwise);
        let (batch, mid, voxels) = (plan.batch, plan.mid, plan.geometry.out_voxels());
        // [mid, B]
        let sums: Vec<[f64; 5]> = dwide
            .par_chunks(voxels)
            .zip(saved.wide.par_chunks(voxels))
            .enumerate()
            .map(|(i, (u, x))| {
                let c = i / batch;
                silu_sums(simd, u, x, norm.scale[c], norm.shift[c], norm.mean[c])
            })
            .collect();
        let sample_major = |i: usize| sums[i % mid * batch + i / mid][0] as f32;
        let dgate: Vec<f32> = (0..batch * mid).map(sample_major).collect();
        let dmean = saved
            .excite
            .backward(plan, self.places, self.weights, &dgate, grads);
        let shares = |c: usize, b: usize| {
            let gate = saved.excite.gate[b * mid + c];
            (gate, dmean[b * mid + c] / voxels as f32)
        };
        let mut through = Vec::new();
        for c in 0..mid {
            let (mut along, mut plain) = (0.0, 0.0);
            for b in 0..batch {
                let (gain, add) = shares(c, b);
                let (gain, add) = (f64::from(gain), f64::from(add));
                let [_, steep, steep_x, slope, slope_x] = sums[c * batch + b];
                plain += gain * steep + add * slope;
                along += (gain * steep_x + add * slope_x) * f64::from(norm.inv_std[c]);
            }
            grads[self.places.depthwise.gamma.start + c] = along as f32;
            grads[self.places.depthwise.beta.start + c] = plain as f32;
            through.push(norm.through_statistics(c, along, plain));
        }
        dwide
            .par_chunks_mut(voxels)
            .zip(saved.wide.par_chunks(voxels))
            .enumerate()
            .for_each(|(i, (u, x))| {
                let (c, b) = (i / batch, i % batch);
                let (gain, add) = shares(c, b);
                let slope = Slope {
                    scale: norm.scale[c],
                    shift: norm.shift[c],
                    gain,
                    add,
                    p: through[c].0 as f32,
                    q: through[c].1 as f32,
                };
                norm_silu_gradient(simd, u, x, &slope);
            });
    }

    /// Step 3 for a block without expansion: adds to the gradient of the input.
    fn depthwise_alone(&self, dwide: &[f32], dx: &mut [f32], grads: &mut [f32]) {
        let simd = Simd::detect();
        let plan = self.plan;
        let layout = Phases::new(&plan.geometry, true);
        let (voxels, taps) = (plan.geometry.in_voxels(), plan.geometry.taps());
        let out = SharedMut::new(dx);
        let dw = &mut grads[self.places.depthwise.weight.clone()];
        dw.par_chunks_mut(taps).enumerate().for_each_init(
            || ChannelScratch::new(plan, &layout),
            |scratch, (c, dw)| {
                let mut sums = vec![0.0; taps];
                for b in 0..plan.batch {
                    let at = (b * plan.c_in + c) * voxels;
                    scratch.load(simd, &layout, &self.x[at..][..voxels], None);
                    scratch.load_gradient(&layout, self.channel_gradient(dwide, c, b));
                    scratch.add_weight_gradient(simd, &layout, &mut sums);
                    // SAFETY: channel `c` of every sample belongs to this task alone.
                    let dx = unsafe { std::slice::from_raw_parts_mut(out.at(at), voxels) };
                    scratch.planes(simd, &layout, self.kernel(c), |range, da| {
                        let dx = dx[range].iter_mut();
                        dx.zip(da).for_each(|(dx, da)| *dx += *da);
                    });
                }
                dw.iter_mut().zip(sums).for_each(|(dw, s)| *dw = s as f32);
            },
        );
    }

    fn channel_gradient<'a>(&self, dwide: &'a [f32], c: usize, b: usize) -> &'a [f32] {
        let voxels = self.plan.geometry.out_voxels();
        &dwide[(c * self.plan.batch + b) * voxels..][..voxels]
    }

    fn kernel(&self, c: usize) -> &[f32] {
        let taps = self.plan.geometry.taps();
        &self.weights[self.places.depthwise.weight.clone()][c * taps..][..taps]
    }

    /// Steps 3 and 4 for a block with expansion.
    fn expand(&self, dwide: &[f32], dx: &mut [f32], grads: &mut [f32]) {
        let (Some(layer), Some(norm)) = (&self.places.expand, &self.saved.expand) else {
            return;
        };
        let (plan, c_in) = (self.plan, self.plan.c_in);
        let mut scaled = self.weights[layer.weight.clone()].to_vec();
        for (w, scale) in scaled.chunks_exact_mut(c_in).zip(&norm.scale) {
            w.iter_mut().for_each(|w| *w *= scale);
        }
        let mut through = Vec::with_capacity(plan.mid);
        for group in groups(plan) {
            let rows = group.start * c_in..group.end * c_in;
            let w = &self.weights[layer.weight.clone()][rows.clone()];
            let mut expansion = Scratch::new(group.len() * plan.in_columns());
            expanded(plan, w, self.x, &mut expansion);
            let sums = self.widening(dwide, group.clone(), &mut expansion, grads);
            let dw = self.widening_products(&expansion, &scaled[rows.clone()], dx);
            for (i, c) in group.enumerate() {
                let (along, plain) = (sums[i][1] * f64::from(norm.inv_std[c]), sums[i][0]);
                grads[layer.gamma.start + c] = along as f32;
                grads[layer.beta.start + c] = plain as f32;
                through.push(norm.through_statistics(c, along, plain));
                let to = &mut grads[layer.weight.clone()][c * c_in..][..c_in];
                let dw = &dw[i * c_in..][..c_in];
                to.iter_mut()
                    .zip(dw)
                    .for_each(|(to, dw)| *to = norm.scale[c] * dw);
            }
        }
        if let Some(moments) = &self.saved.moments {
            let w = &self.weights[layer.weight.clone()];
            moments.add_products(w, &through, &mut grads[layer.weight.clone()]);
            let (form, constant) = quadratic_form(w, &through);
            self.add_through_statistics(&form, &constant, dx);
        }
    }

    /// Step 3: the depthwise convolution's weight gradient, and `dz` of the expansion over
    /// `expansion`; returns the sums of `dz` and of `dz (h - mean)` of each channel.
    fn widening(
        &self,
        dwide: &[f32],
        group: std::ops::Range<usize>,
        expansion: &mut [f32],
        grads: &mut [f32],
    ) -> Vec<[f64; 2]> {
        let simd = Simd::detect();
        let plan = self.plan;
        let Some(norm) = &self.saved.expand else {
            return Vec::new();
        };
        let layout = Phases::new(&plan.geometry, true);
        let (voxels, taps) = (plan.geometry.in_voxels(), plan.geometry.taps());
        let dw = &mut grads[self.places.depthwise.weight.clone()];
        let dw = &mut dw[group.start * taps..group.end * taps];
        expansion
            .par_chunks_mut(plan.in_columns())
            .zip(dw.par_chunks_mut(taps))
            .enumerate()
            .map_init(
                || ChannelScratch::new(plan, &layout),
                |scratch, (i, (rows, dw))| {
                    let c = group.start + i;
                    let (scale, shift, mean) = (norm.scale[c], norm.shift[c], norm.mean[c]);
                    let mut total = [0.0; 2];
                    let mut sums = vec![0.0; taps];
                    for (b, row) in rows.chunks_exact_mut(voxels).enumerate() {
                        scratch.load(simd, &layout, row, Some((scale, shift)));
                        scratch.load_gradient(&layout, self.channel_gradient(dwide, c, b));
                        scratch.add_weight_gradient(simd, &layout, &mut sums);
                        scratch.planes(simd, &layout, self.kernel(c), |range, da| {
                            let [plain, along] =
                                silu_back(simd, &mut row[range], da, scale, shift, mean);
                            total[0] += plain;
                            total[1] += along;
                        });
                    }
                    dw.iter_mut().zip(sums).for_each(|(dw, s)| *dw = s as f32);
                    total
                },
            )
            .collect()
    }

    /// Step 4 for a group of channels: adds to `dx`, returns `dz xᵀ`.
    fn widening_products(&self, dz: &[f32], scaled: &[f32], dx: &mut [f32]) -> Vec<f32> {
        let (plan, columns, c_in) = (self.plan, self.plan.in_columns(), self.plan.c_in);
        let rows = scaled.len() / c_in;
        let w = Mat::rows(scaled, rows, c_in, c_in);
        let tiles = tiles(plan.batch, plan.geometry.in_voxels(), usize::MAX);
        let out = SharedMut::new(dx);
        let add = |[copy, product]: &mut Buffers, i: usize, dw: &mut [f32]| {
            let tile = &tiles[i];
            let dz = Mat::rows(&dz[tile.first()..], rows, tile.columns(), columns);
            let x = tile.of(self.x, c_in, copy);
            gemm(dz, x.t(), dw, c_in, true, false);
            // SAFETY: `out` is `dx`, and no other task has this tile.
            unsafe { tile.add_product(w.t(), dz, c_in, out, product) };
        };
        accumulate_init(scaled.len(), tiles.len(), Buffers::default, add)
    }

    /// `dx += form x + constant`.
    fn add_through_statistics(&self, form: &[f64], constant: &[f64], dx: &mut [f32]) {
        let (plan, c_in) = (self.plan, self.plan.c_in);
        let voxels = plan.geometry.in_voxels();
        dx.par_chunks_mut(voxels).enumerate().for_each(|(i, dx)| {
            let constant = constant[i % c_in] as f32;
            dx.iter_mut().for_each(|dx| *dx += constant);
        });
        let form: Vec<f32> = form.iter().map(|v| *v as f32).collect();
        let form = Mat::rows(&form, c_in, c_in, c_in);
        let out = SharedMut::new(dx);
        let tiles = tiles(plan.batch, voxels, usize::MAX);
        let add = |[copy, product]: &mut Buffers, tile: Tile| {
            let x = tile.of(self.x, c_in, copy);
            // SAFETY: `out` is `dx`, and no other task has this tile.
            unsafe { tile.add_product(form, x, c_in, out, product) };
        };
        tiles.into_par_iter().for_each_init(Buffers::default, add);
    }
}
