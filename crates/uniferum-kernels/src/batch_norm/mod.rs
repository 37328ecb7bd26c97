//! Batch normalisation over `[B, C, ...]`.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod maps;
mod silu;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, Var};

use crate::error::invalid;
use crate::host;

pub(crate) use silu::NormSilu;
pub use silu::batch_norm_silu;

const OP: &str = "batch_norm";

/// Batch normalisation with running statistics (evaluation, or frozen in training), with
/// backward to `x`, `gamma` and `beta`.
///
/// `y = gamma * (x - running_mean) / sqrt(running_var + eps) + beta`.
///
/// # Shapes
/// `x` and the result are `[B, C, ...]` with any number of trailing axes; the others `[C]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn batch_norm(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    running_mean: &Tensor,
    running_var: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    let plan = Plan::new(x.dims())?;
    for (what, t) in [
        ("running mean", running_mean),
        ("running variance", running_var),
    ] {
        check_channels(what, t, plan.channels)?;
    }
    on_cuda!(x => {
        check_channels("gamma", gamma, plan.channels)?;
        check_channels("beta", beta, plan.channels)?;
        let running = Some((running_mean, running_var));
        cuda::batch_norm(x, (gamma, beta), running, eps, false).map(|(y, _)| y)
    });
    let mean = vector(running_mean)?;
    let var = vector(running_var)?;
    apply(x, gamma, beta, BatchNorm::new(plan, mean, &var, eps, false))
}

/// Batch normalisation with the statistics of this batch, with backward through them.
///
/// Returns the normalised tensor, the mean and the **biased** variance of each channel; the
/// last two are outside the autograd graph. Running averages conventionally take the unbiased
/// variance: see [`unbiased_variance`].
///
/// # Shapes
/// `x` and the result are `[B, C, ...]` with any number of trailing axes; the others `[C]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use uniferum_kernels::batch_norm_train;
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::new(&[[1f32, 5.0], [3.0, 9.0]], &Device::Cpu)?;
/// let (one, zero) = (Tensor::new(&[1f32; 2], &Device::Cpu)?, Tensor::new(&[0f32; 2], &Device::Cpu)?);
/// let (y, mean, var) = batch_norm_train(&x, &one, &zero, 0.0)?;
/// assert_eq!(mean.to_vec1::<f32>()?, [2.0, 7.0]);
/// assert_eq!(var.to_vec1::<f32>()?, [1.0, 4.0]);
/// assert_eq!(y.to_vec2::<f32>()?, [[-1.0, -1.0], [1.0, 1.0]]);
/// # Ok(()) }
/// ```
pub fn batch_norm_train(
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor, Tensor)> {
    let plan = Plan::new(x.dims())?;
    on_cuda!(x => {
        check_channels("gamma", gamma, plan.channels)?;
        check_channels("beta", beta, plan.channels)?;
        let (y, made) = cuda::batch_norm(x, (gamma, beta), None, eps, false)?;
        let none = || invalid(OP, "statistics", "those of the batch", "none").into();
        made.map(|(mean, var)| (y, mean, var)).ok_or_else(none)
    });
    let x = x.contiguous()?;
    let (mean, var) = host::with_f32(OP, &x, |x| cpu::statistics(&plan, x))?;
    let stats = (mean.clone(), var.clone());
    let y = apply(&x, gamma, beta, BatchNorm::new(plan, mean, &var, eps, true))?;
    let channels = plan.channels;
    Ok((
        y,
        host::tensor(stats.0, channels),
        host::tensor(stats.1, channels),
    ))
}

/// The unbiased variance from the biased one of `count` values (voxels times samples).
///
/// # Errors
/// When the tensor's arithmetic fails on its device.
pub fn unbiased_variance(biased: &Tensor, count: usize) -> Result<Tensor> {
    biased.affine(unbiased(count), 0.0)
}

/// From the biased to the unbiased variance of `count` values.
fn unbiased(count: usize) -> f64 {
    count as f64 / count.saturating_sub(1).max(1) as f64
}

/// Moves the running mean and variance towards those of a batch of `count` values per channel, whose
/// variance is biased: `running += momentum * (batch - running)`, with the unbiased variance.
///
/// In place, and one kernel on a GPU.
///
/// # Shapes
/// All `[C]`.
///
/// # Errors
/// When the shapes do not fit together, or for tensors that are not `f32`.
pub fn move_statistics(
    running: [&Var; 2],
    batch: [&Tensor; 2],
    count: usize,
    momentum: f64,
) -> Result<()> {
    let channels = running[0].elem_count();
    check_channels("running variance", running[1], channels)?;
    check_channels("mean", batch[0], channels)?;
    check_channels("variance", batch[1], channels)?;
    on_cuda!(running[0] => cuda::move_statistics(running, batch, unbiased(count), momentum));
    let batch = [
        batch[0].detach(),
        unbiased_variance(&batch[1].detach(), count)?,
    ];
    for (running, batch) in running.into_iter().zip(batch) {
        let kept = running.detach().affine(1.0 - momentum, 0.0)?;
        running.set(&(kept + batch.affine(momentum, 0.0)?)?)?;
    }
    Ok(())
}

fn apply(x: &Tensor, gamma: &Tensor, beta: &Tensor, op: BatchNorm) -> Result<Tensor> {
    check_channels("gamma", gamma, op.plan.channels)?;
    check_channels("beta", beta, op.plan.channels)?;
    x.contiguous()?
        .apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)
}

fn check_channels(what: &'static str, t: &Tensor, channels: usize) -> Result<()> {
    if t.dims() == [channels] {
        return Ok(());
    }
    Err(invalid(
        OP,
        what,
        format!("shape [{channels}]"),
        format!("{:?}", t.dims()),
    )
    .into())
}

fn vector(t: &Tensor) -> Result<Vec<f32>> {
    host::with_f32(OP, &t.contiguous()?, <[f32]>::to_vec)
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    batch: usize,
    channels: usize,
    voxels: usize,
}

impl Plan {
    pub(crate) fn new(dims: &[usize]) -> Result<Self> {
        match *dims {
            [batch, channels, ref rest @ ..] if dims.iter().all(|n| *n > 0) => Ok(Self {
                batch,
                channels,
                voxels: rest.iter().product(),
            }),
            _ => {
                let got = format!("{dims:?}");
                Err(invalid(OP, "input shape", "non-empty [B, C, ...]", got).into())
            }
        }
    }
}

pub(crate) struct BatchNorm {
    plan: Plan,
    mean: Vec<f32>,
    inv_std: Vec<f32>,
    /// Whether the statistics are those of the batch, so that gradients flow through them.
    of_batch: bool,
}

impl BatchNorm {
    pub(crate) fn new(plan: Plan, mean: Vec<f32>, var: &[f32], eps: f64, of_batch: bool) -> Self {
        let inv_std = var
            .iter()
            .map(|v| (1.0 / (f64::from(*v) + eps).sqrt()) as f32)
            .collect();
        Self {
            plan,
            mean,
            inv_std,
            of_batch,
        }
    }

    /// `(p, q)` such that the gradient of the input is `scale dy + p x + q`: what flows through
    /// the statistics, nothing when these are constants.
    fn through_statistics(&self, scale: f32, c: usize, dgamma: f64, dbeta: f64) -> (f32, f32) {
        if !self.of_batch {
            return (0.0, 0.0);
        }
        let (scale, n) = (f64::from(scale), self.plan.count());
        let p = -scale * f64::from(self.inv_std[c]) * dgamma / n;
        let q = -scale * dbeta / n - p * f64::from(self.mean[c]);
        (p as f32, q as f32)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        OP
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
        let (gamma, beta) = (
            host::f32_slice(OP, gamma, lg)?,
            host::f32_slice(OP, beta, lb)?,
        );
        let y = cpu::forward(self, host::f32_slice(OP, x, lx)?, gamma, beta);
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
        let grads = host::with_f32(OP, x, |xs| {
            host::with_f32(OP, &dy, |dy| {
                host::with_f32(OP, gamma, |g| cpu::backward(self, xs, g, dy, x.track_op()))
            })
        })???;
        let dx = grads.x.map(|dx| host::tensor(dx, x.shape()));
        let channels = self.plan.channels;
        let dgamma = gamma
            .track_op()
            .then(|| host::tensor(grads.gamma, channels));
        let dbeta = beta.track_op().then(|| host::tensor(grads.beta, channels));
        Ok((dx, dgamma, dbeta))
    }
}
