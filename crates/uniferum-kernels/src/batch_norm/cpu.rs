//! Batch normalisation on the host, with SiLU behind it or without, one task for each channel.

use rayon::prelude::*;

use super::Plan;
use super::maps::{Slope, norm_silu, norm_silu_gradient, norm_silu_gradient_of, silu_sums};
use super::norm::{Norm, Statistics, statistics_of};
use crate::memory::zeros;
use crate::parallel::SharedMut;
use crate::simd::{Simd, affine, affine2, sum_and_dot};

impl Plan {
    /// Where the rows of a channel begin.
    fn starts(&self, channel: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let Self {
            batch,
            channels,
            voxels,
        } = *self;
        (0..batch).map(move |b| (b * channels + channel) * voxels)
    }
}

/// Mean and biased variance of each channel of `x`.
pub(crate) fn statistics(plan: &Plan, x: &[f32]) -> Statistics {
    let of_channel = |c: usize| {
        let rows = plan.starts(c).map(|at| &x[at..][..plan.voxels]);
        statistics_of(rows)
    };
    let channels = (0..plan.channels).into_par_iter();
    let (mean, var) = channels.map(of_channel).unzip();
    Statistics { mean, var }
}

/// A norm of `[B, C, voxels]` whose statistics and parameters are known.
pub(crate) struct NormLayer {
    plan: Plan,
    norm: Norm,
    /// Whether SiLU follows.
    silu: bool,
}

impl NormLayer {
    pub(crate) fn new(plan: Plan, norm: Norm, silu: bool) -> Self {
        Self { plan, norm, silu }
    }

    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = zeros(x.len());
        self.forward_into(x, &mut y);
        y
    }

    pub(crate) fn forward_into(&self, x: &[f32], y: &mut [f32]) {
        let simd = Simd::detect();
        let Plan {
            channels, voxels, ..
        } = self.plan;
        y.par_chunks_mut(voxels)
            .zip(x.par_chunks(voxels))
            .enumerate()
            .for_each(|(i, (y, x))| {
                let c = i % channels;
                let (scale, shift) = (self.norm.scale[c], self.norm.shift[c]);
                if self.silu {
                    norm_silu(simd, y, x, scale, shift, 1.0);
                } else {
                    affine(simd, y, x, scale, shift);
                }
            });
    }

    /// Gradients of input (if wanted), gamma and beta.
    pub(super) fn backward(
        &self,
        x: &[f32],
        dy: &[f32],
        want_dx: bool,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let simd = Simd::detect();
        let voxels = self.plan.voxels;
        let mut dx = zeros(if want_dx { x.len() } else { 0 });
        let out = SharedMut::new(&mut dx);
        let sums = (0..self.plan.channels).into_par_iter().map(|c| {
            let row = |at: usize| (&x[at..][..voxels], &dy[at..][..voxels]);
            let (slope, dgamma, dbeta) = self.channel(c, row);
            for at in self.plan.starts(c).filter(|_| want_dx) {
                // SAFETY: the rows of this channel belong to this task alone.
                let dx = unsafe { std::slice::from_raw_parts_mut(out.at(at), voxels) };
                let (x, dy) = row(at);
                if self.silu {
                    norm_silu_gradient_of(simd, dx, dy, x, &slope);
                } else {
                    affine2(simd, dx, dy, x, slope.scale, slope.p, slope.q);
                }
            }
            (dgamma, dbeta)
        });
        let (dgamma, dbeta) = sums.unzip();
        (dx, dgamma, dbeta)
    }

    /// Of a norm with SiLU: replaces `dy` by the input's gradient; returns those of gamma and beta.
    pub(crate) fn backward_in_place(&self, x: &[f32], dy: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
        debug_assert!(self.silu);
        let simd = Simd::detect();
        let voxels = self.plan.voxels;
        let out = SharedMut::new(dy);
        let sums = (0..self.plan.channels).into_par_iter().map(|c| {
            // SAFETY: the rows of this channel belong to this task alone, which only reads them
            // until the loop below.
            let of = |at: usize| unsafe { std::slice::from_raw_parts(out.at(at), voxels) };
            let row = |at: usize| (&x[at..][..voxels], of(at));
            let (slope, dgamma, dbeta) = self.channel(c, row);
            for at in self.plan.starts(c) {
                // SAFETY: as above; nothing else refers to this row now.
                let dy = unsafe { std::slice::from_raw_parts_mut(out.at(at), voxels) };
                norm_silu_gradient(simd, dy, &x[at..][..voxels], &slope);
            }
            (dgamma, dbeta)
        });
        sums.unzip()
    }

    /// How a channel's gradient comes from `row(start)` = (input, output's gradient), and the
    /// gradients of gamma and beta.
    ///
    /// With `x' = (x - mean) / std` and `dz` the gradient of the norm's result: `dbeta = sum dz`,
    /// `dgamma = sum dz x'`, and `dx = gamma / std * (dz - dbeta / n - x' dgamma / n)`, without the
    /// last two terms when the statistics are constants.
    fn channel<'a>(
        &self,
        c: usize,
        row: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    ) -> (Slope, f32, f32) {
        let simd = Simd::detect();
        let norm = &self.norm;
        let (mean, scale, shift) = (norm.mean[c], norm.scale[c], norm.shift[c]);
        let (mut dgamma, mut dbeta) = (0.0, 0.0);
        for at in self.plan.starts(c) {
            let (x, dy) = row(at);
            let [plain, along] = if self.silu {
                let [_, steep, steep_x, ..] = silu_sums(simd, dy, x, scale, shift, mean);
                [steep, steep_x]
            } else {
                sum_and_dot(simd, dy, x, mean)
            };
            dbeta += plain;
            dgamma += along * f64::from(norm.inv_std[c]);
        }
        let (p, q) = norm.through_statistics(c, dgamma, dbeta);
        let slope = Slope {
            scale,
            shift,
            gain: 1.0,
            add: 0.0,
            p: p as f32,
            q: q as f32,
        };
        (slope, dgamma as f32, dbeta as f32)
    }
}
