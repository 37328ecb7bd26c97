//! Batch normalisation over `[B, C, ...]`.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub(crate) mod maps;
pub(crate) mod norm;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, Var};

use self::cpu::NormLayer;
use self::norm::{Norm, Statistics};
use crate::error::{check_shape, invalid};
use crate::host;

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
    let running = Some((running_mean, running_var));
    Ok(normalise(x, (gamma, beta), running, eps, false)?.0)
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
    let (y, made) = normalise(x, (gamma, beta), None, eps, false)?;
    let none = || invalid(OP, "statistics", "those of the batch", "none");
    let (mean, var) = made.ok_or_else(none)?;
    Ok((y, mean, var))
}

/// [`silu`](crate::silu) of a batch norm in one pass, with backward, keeping its input only.
///
/// With `running`, mean and variance are constants as in [`batch_norm`]; without, they are the
/// batch's, as in [`batch_norm_train`], and returned: the mean and the **biased** variance of each
/// channel.
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
    normalise(x, (gamma, beta), running, eps, true)
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
    check_shape(OP, "running variance", running[1], &[channels])?;
    check_shape(OP, "mean", batch[0], &[channels])?;
    check_shape(OP, "variance", batch[1], &[channels])?;
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

/// The norm, with SiLU behind it if `silu`, and the batch's mean and biased variance where these are
/// used.
fn normalise(
    x: &Tensor,
    (gamma, beta): (&Tensor, &Tensor),
    running: Option<(&Tensor, &Tensor)>,
    eps: f64,
    silu: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let plan = Plan::new(x.dims())?;
    let channels = [plan.channels];
    check_shape(OP, "gamma", gamma, &channels)?;
    check_shape(OP, "beta", beta, &channels)?;
    if let Some((mean, var)) = running {
        check_shape(OP, "running mean", mean, &channels)?;
        check_shape(OP, "running variance", var, &channels)?;
    }
    on_cuda!(x => cuda::batch_norm(x, (gamma, beta), running, eps, silu));
    let x = x.contiguous()?;
    let statistics = match running {
        Some((mean, var)) => Statistics::read(OP, mean, var)?,
        None => host::with_f32(OP, [&x], |[x]| cpu::statistics(&plan, x))?,
    };
    let of_batch = running.is_none();
    let made = of_batch.then(|| statistics.clone().into_tensors());
    let op = BatchNorm {
        plan,
        statistics,
        of_batch,
        eps,
        silu,
    };
    let y = x.apply_op3(&gamma.contiguous()?, &beta.contiguous()?, op)?;
    Ok((y, made))
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

    /// Values per channel.
    pub(crate) fn count(&self) -> usize {
        self.batch * self.voxels
    }
}

/// A norm on the host as a node of candle's graph, of which only the input is kept.
struct BatchNorm {
    plan: Plan,
    statistics: Statistics,
    /// Whether the statistics are those of the batch, so that gradients flow through them.
    of_batch: bool,
    eps: f64,
    /// Whether SiLU follows.
    silu: bool,
}

impl BatchNorm {
    fn layer(&self, gamma: &[f32], beta: &[f32]) -> NormLayer {
        let count = self.of_batch.then(|| self.plan.count());
        let norm = Norm::new(&self.statistics, gamma, beta, self.eps, count);
        NormLayer::new(self.plan, norm, self.silu)
    }
}

impl CustomOp3 for BatchNorm {
    fn name(&self) -> &'static str {
        if self.silu { "batch_norm_silu" } else { OP }
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
        let y = self.layer(gamma, beta).forward(host::f32_slice(OP, x, lx)?);
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
        let want_dx = x.track_op();
        let inputs = [x, gamma, beta, &dy.contiguous()?];
        let (dx, dgamma, dbeta) = host::with_f32(OP, inputs, |[x, gamma, beta, dy]| {
            self.layer(gamma, beta).backward(x, dy, want_dx)
        })?;
        let of = |t: &Tensor, v: Vec<f32>| t.track_op().then(|| host::tensor(v, t.shape()));
        Ok((of(x, dx), of(gamma, dgamma), of(beta, dbeta)))
    }
}
