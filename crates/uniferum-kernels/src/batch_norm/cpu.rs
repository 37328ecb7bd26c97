//! Batch normalisation on the host, one task for each channel.

use rayon::prelude::*;

use super::{BatchNorm, Plan};
use crate::memory::zeros;
use crate::parallel::SharedMut;
use crate::simd::{Simd, affine, affine2, sum, sum_and_dot, sum_squares};

impl Plan {
    fn rows<'a>(&self, data: &'a [f32], channel: usize) -> impl Iterator<Item = &'a [f32]> {
        let &Self {
            batch,
            channels,
            voxels,
        } = self;
        (0..batch).map(move |b| &data[(b * channels + channel) * voxels..][..voxels])
    }

    pub(super) fn count(&self) -> f64 {
        (self.batch * self.voxels) as f64
    }
}

/// Mean and biased variance of each channel, in two passes.
pub(crate) fn statistics(plan: &Plan, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let simd = Simd::detect();
    (0..plan.channels)
        .into_par_iter()
        .map(|c| {
            let mean = plan.rows(x, c).map(|row| sum(simd, row)).sum::<f64>() / plan.count();
            let mean = mean as f32;
            let squares: f64 = plan
                .rows(x, c)
                .map(|row| sum_squares(simd, row, mean))
                .sum();
            (mean, (squares / plan.count()) as f32)
        })
        .unzip()
}

pub(super) fn forward(op: &BatchNorm, x: &[f32], gamma: &[f32], beta: &[f32]) -> Vec<f32> {
    let simd = Simd::detect();
    let Plan {
        channels, voxels, ..
    } = op.plan;
    let mut y = zeros(x.len());
    y.par_chunks_mut(voxels)
        .zip(x.par_chunks(voxels))
        .enumerate()
        .for_each(|(i, (y, x))| {
            let c = i % channels;
            let scale = gamma[c] * op.inv_std[c];
            affine(simd, y, x, scale, beta[c] - op.mean[c] * scale);
        });
    y
}

pub(super) struct Grads {
    pub(super) x: Option<Vec<f32>>,
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

/// With `x' = (x - mean) / std`: `dbeta = sum dy`, `dgamma = sum dy x'`, and
/// `dx = gamma / std * (dy - dbeta / n - x' dgamma / n)`, without the last two terms when the
/// statistics are constants.
pub(super) fn backward(
    op: &BatchNorm,
    x: &[f32],
    gamma: &[f32],
    dy: &[f32],
    want_dx: bool,
) -> Grads {
    let simd = Simd::detect();
    let Plan {
        batch,
        channels,
        voxels,
    } = op.plan;
    let mut dx = zeros(if want_dx { x.len() } else { 0 });
    let out = SharedMut::new(&mut dx);
    let sums = (0..channels).into_par_iter().map(|c| {
        let (mean, inv) = (op.mean[c], op.inv_std[c]);
        let (mut dbeta, mut dgamma) = (0.0, 0.0);
        for (x, dy) in op.plan.rows(x, c).zip(op.plan.rows(dy, c)) {
            let [s, d] = sum_and_dot(simd, dy, x, mean);
            dbeta += s;
            dgamma += d * f64::from(inv);
        }
        if want_dx {
            let scale = gamma[c] * inv;
            let (p, q) = op.through_statistics(scale, c, dgamma, dbeta);
            for (b, (x, dy)) in op.plan.rows(x, c).zip(op.plan.rows(dy, c)).enumerate() {
                // SAFETY: the rows of this channel belong to this task alone.
                let dx = unsafe {
                    let row = out.at((b * channels + c) * voxels);
                    std::slice::from_raw_parts_mut(row, voxels)
                };
                affine2(simd, dx, dy, x, scale, p, q);
            }
        }
        (dgamma as f32, dbeta as f32)
    });
    let (dgamma, dbeta): (Vec<_>, Vec<_>) = sums.unzip();
    debug_assert_eq!(dgamma.len(), channels.min(batch * channels));
    Grads {
        x: want_dx.then_some(dx),
        gamma: dgamma,
        beta: dbeta,
    }
}
