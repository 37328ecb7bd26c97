//! Batch normalisation and SiLU in one pass, of which only the input is kept.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::maps::{Slope, norm_silu, norm_silu_gradient, norm_silu_gradient_of, silu_sums};
use super::{BatchNorm, OP, Plan, check_channels, cpu, vector};
use crate::host;
use crate::memory::zeros;
use crate::parallel::SharedMut;
use crate::simd::Simd;

/// [`silu`](crate::silu) of a batch norm in one pass, with backward, keeping its input only.
///
/// With `running`, mean and variance are constants as in [`batch_norm`](crate::batch_norm);
/// without, they are the batch's, as in [`batch_norm_train`](crate::batch_norm_train), and
/// returned: the mean and the **biased** variance of each channel.
///
/// # Shapes
/// `x` and the result are `[B, C, ...]` with any number of trailing axes; the others `[C]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn batch_norm_silu(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running: Option<(&Tensor, &Tensor)>,
    eps: f64,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let plan = Plan::new(x.dims())?;
    let channels = plan.channels;
    for (what, t) in [("gamma", gamma), ("beta", beta)] {
        check_channels(what, t, channels)?;
    }
    if let Some((mean, var)) = running {
        check_channels("running mean", mean, channels)?;
        check_channels("running variance", var, channels)?;
    }
    on_cuda!(x => super::cuda::batch_norm(x, (gamma, beta), running, eps, true));
    let x = x.contiguous()?;
    let (mean, var) = match running {
        Some((mean, var)) => (vector(mean)?, vector(var)?),
        None => host::with_f32(OP, &x, |x| cpu::statistics(&plan, x))?,
    };
    let made = running.is_none().then(|| (mean.clone(), var.clone()));
    let norm = BatchNorm::new(plan, mean, &var, eps, running.is_none());
    let y = x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, NormSilu(norm))?;
    let made = made.map(|(m, v)| (host::tensor(m, channels), host::tensor(v, channels)));
    Ok((y, made))
}

pub(crate) struct NormSilu(pub(crate) BatchNorm);

impl NormSilu {
    /// Scale and shift of a channel.
    fn affine(&self, c: usize, gamma: &[f32], beta: &[f32]) -> (f32, f32) {
        let scale = gamma[c] * self.0.inv_std[c];
        (scale, beta[c] - self.0.mean[c] * scale)
    }

    fn forward(&self, x: &[f32], gamma: &[f32], beta: &[f32]) -> Vec<f32> {
        let mut y = zeros(x.len());
        self.forward_into(x, gamma, beta, &mut y);
        y
    }

    pub(crate) fn forward_into(&self, x: &[f32], gamma: &[f32], beta: &[f32], y: &mut [f32]) {
        let simd = Simd::detect();
        let plan = &self.0.plan;
        y.par_chunks_mut(plan.voxels)
            .zip(x.par_chunks(plan.voxels))
            .enumerate()
            .for_each(|(i, (y, x))| {
                let (scale, shift) = self.affine(i % plan.channels, gamma, beta);
                norm_silu(simd, y, x, scale, shift, 1.0);
            });
    }

    /// Gradients of input (if wanted), gamma and beta.
    fn backward(
        &self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        dy: &[f32],
        want_dx: bool,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let simd = Simd::detect();
        let (channels, voxels) = (self.0.plan.channels, self.0.plan.voxels);
        let mut dx = zeros(if want_dx { x.len() } else { 0 });
        let out = SharedMut::new(&mut dx);
        let sums = (0..channels).into_par_iter().map(|c| {
            let row = |at: usize| (&x[at..][..voxels], &dy[at..][..voxels]);
            let (slope, dgamma, dbeta) = self.channel(c, gamma, beta, row);
            for at in self.rows(c).filter(|_| want_dx) {
                // SAFETY: the rows of this channel belong to this task alone.
                let dx = unsafe { std::slice::from_raw_parts_mut(out.at(at), voxels) };
                let (x, dy) = row(at);
                norm_silu_gradient_of(simd, dx, dy, x, &slope);
            }
            (dgamma, dbeta)
        });
        let (dgamma, dbeta) = sums.unzip();
        (dx, dgamma, dbeta)
    }

    /// Replaces `dy` by the input's gradient; returns those of gamma and beta.
    pub(crate) fn backward_in_place(
        &self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        dy: &mut [f32],
    ) -> (Vec<f32>, Vec<f32>) {
        let simd = Simd::detect();
        let (channels, voxels) = (self.0.plan.channels, self.0.plan.voxels);
        let out = SharedMut::new(dy);
        let sums = (0..channels).into_par_iter().map(|c| {
            // SAFETY: the rows of this channel belong to this task alone, which only reads them
            // until the loop below.
            let of = |at: usize| unsafe { std::slice::from_raw_parts(out.at(at), voxels) };
            let row = |at: usize| (&x[at..][..voxels], of(at));
            let (slope, dgamma, dbeta) = self.channel(c, gamma, beta, row);
            for at in self.rows(c) {
                // SAFETY: as above; nothing else refers to this row now.
                let dy = unsafe { std::slice::from_raw_parts_mut(out.at(at), voxels) };
                norm_silu_gradient(simd, dy, &x[at..][..voxels], &slope);
            }
            (dgamma, dbeta)
        });
        sums.unzip()
    }

    /// Where the rows of a channel begin.
    fn rows(&self, c: usize) -> impl Iterator<Item = usize> + use<> {
        let Plan {
            batch,
            channels,
            voxels,
        } = self.0.plan;
        (0..batch).map(move |b| (b * channels + c) * voxels)
    }

    /// How a channel's gradient comes from `row(start)` = (input, output's gradient), and the
    /// gradients of gamma and beta.
    fn channel<'a>(
        &self,
        c: usize,
        gamma: &[f32],
        beta: &[f32],
        row: impl Fn(usize) -> (&'a [f32], &'a [f32]),
    ) -> (Slope, f32, f32) {
        let simd = Simd::detect();
        let (scale, shift) = self.affine(c, gamma, beta);
        let (mean, inv) = (self.0.mean[c], f64::from(self.0.inv_std[c]));
        let (mut dgamma, mut dbeta) = (0.0, 0.0);
        for at in self.rows(c) {
            let (x, dy) = row(at);
            let [_, steep, steep_x, ..] = silu_sums(simd, dy, x, scale, shift, mean);
            dbeta += steep;
            dgamma += steep_x * inv;
        }
        let (p, q) = self.0.through_statistics(scale, c, dgamma, dbeta);
        let slope = Slope {
            scale,
            shift,
            gain: 1.0,
            add: 0.0,
            p,
            q,
        };
        (slope, dgamma as f32, dbeta as f32)
    }
}

impl CustomOp3 for NormSilu {
    fn name(&self) -> &'static str {
        "batch_norm_silu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gamma: &CpuStorage,
        lg: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gamma = host::f32_slice(OP, gamma, lg)?;
        let beta = host::f32_slice(OP, beta, lb)?;
        let x = host::f32_slice(OP, x, lx)?;
        let y = self.forward(x, gamma, beta);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gamma: &Tensor,
        beta: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, dgamma, dbeta) = host::with_f32(OP, x, |xs| {
            host::with_f32(OP, gamma, |g| {
                host::with_f32(OP, beta, |b| {
                    host::with_f32(OP, &dy, |dy| self.backward(xs, g, b, dy, x.track_op()))
                })
            })
        })????;
        let channels = self.0.plan.channels;
        let of = |t: &Tensor, v: Vec<f32>| t.track_op().then(|| host::tensor(v, channels));
        let dx = x.track_op().then(|| host::tensor(dx, x.shape()));
        Ok((dx, of(gamma, dgamma), of(beta, dbeta)))
    }
}
