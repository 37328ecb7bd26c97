//! Batch normalisation with running statistics that live among the checkpoint's variables.

use candle_core::{DType, Tensor, Var};
use candle_nn::{Init, VarBuilder};
use uniferum_kernels as kernels;

use crate::error::{Error, Result};

/// TensorFlow's epsilon for EfficientNet.
pub(crate) const EPS: f64 = 1e-3;
/// Weight of the newest batch in the running statistics.
const MOMENTUM: f64 = 0.1;

/// What a forward pass does with weights and statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Running statistics; weights are constants and no graph is kept for them.
    Eval,
    /// Batch statistics, running statistics updated, weights differentiable.
    Train,
    /// Running statistics left alone, weights differentiable.
    TrainFrozenStatistics,
}

impl Mode {
    /// The weight as this pass should see it.
    pub(crate) fn weight(self, tensor: &Tensor) -> Tensor {
        match self {
            Self::Eval => tensor.detach(),
            Self::Train | Self::TrainFrozenStatistics => tensor.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    batches: Var,
}

impl BatchNorm {
    pub(crate) fn new(channels: usize, vb: VarBuilder) -> Result<Self> {
        let get = |name, value| vb.get_with_hints(channels, name, Init::Const(value));
        // Weights converted from other frameworks often lack the counter.
        let batches = vb
            .get_with_hints_dtype((), "num_batches_tracked", Init::Const(0.0), DType::I64)
            .or_else(|_| Tensor::zeros((), DType::I64, vb.device()))?;
        Ok(Self {
            weight: get("weight", 1.0)?,
            bias: get("bias", 0.0)?,
            running_mean: Var::from_tensor(&get("running_mean", 0.0)?)?,
            running_var: Var::from_tensor(&get("running_var", 1.0)?)?,
            batches: Var::from_tensor(&batches)?,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (weight, bias) = (mode.weight(&self.weight), mode.weight(&self.bias));
        if mode == Mode::Train {
            self.check_count(x)?;
            let (y, mean, var) = kernels::batch_norm_train(x, &weight, &bias, EPS)?;
            self.record(&mean, &var, self.count(x))?;
            return Ok(y);
        }
        let (mean, var) = self.running();
        Ok(kernels::batch_norm(x, &weight, &bias, &mean, &var, EPS)?)
    }

    /// The norm and SiLU behind it.
    pub(crate) fn forward_silu(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let (weight, bias) = (mode.weight(&self.weight), mode.weight(&self.bias));
        let (mean, var) = self.running();
        let running = (mode != Mode::Train).then_some((&mean, &var));
        if running.is_none() {
            self.check_count(x)?;
        }
        let (y, made) = kernels::batch_norm_silu(x, &weight, &bias, running, EPS)?;
        if let Some((mean, var)) = made {
            self.record(&mean, &var, self.count(x))?;
        }
        Ok(y)
    }

    /// Scale and shift as a pass should see them.
    pub(crate) fn parameters(&self, mode: Mode) -> (Tensor, Tensor) {
        (mode.weight(&self.weight), mode.weight(&self.bias))
    }

    /// Running mean and variance.
    pub(crate) fn running(&self) -> (Tensor, Tensor) {
        (self.running_mean.detach(), self.running_var.detach())
    }

    /// Values per channel.
    fn count(&self, x: &Tensor) -> usize {
        x.elem_count() / self.weight.elem_count().max(1)
    }

    fn check_count(&self, x: &Tensor) -> Result<()> {
        if self.count(x) > 1 {
            return Ok(());
        }
        Err(too_few_values(x.dims()))
    }

    /// Moves the running statistics towards a batch's, of `count` values per channel.
    pub(crate) fn record(&self, mean: &Tensor, var: &Tensor, count: usize) -> Result<()> {
        let running = [&self.running_mean, &self.running_var];
        kernels::move_statistics(running, [mean, var], count, MOMENTUM)?;
        let batches = self.batches.detach();
        if !batches.device().is_cpu() {
            // Counted where it lies: reading it would wait for all work before.
            self.batches.set(&(batches + 1.0)?)?;
            return Ok(());
        }
        let counted = batches.to_vec0::<i64>()?.wrapping_add(1);
        self.batches.set(&Tensor::new(counted, batches.device())?)?;
        Ok(())
    }

    /// The affine map that evaluation applies to each channel.
    pub(crate) fn scale_and_shift(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let numbers = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec1::<f64>();
        let (weight, bias) = (numbers(&self.weight)?, numbers(&self.bias)?);
        let (mean, var) = (numbers(&self.running_mean)?, numbers(&self.running_var)?);
        let scale: Vec<f64> = weight
            .iter()
            .zip(&var)
            .map(|(w, v)| w / (v + EPS).sqrt())
            .collect();
        let shift = (0..bias.len())
            .map(|c| bias[c] - mean[c] * scale[c])
            .collect();
        Ok((scale, shift))
    }

    /// Every tensor that evaluation depends on.
    pub(crate) fn tensors(&self) -> [&Tensor; 4] {
        [
            &self.weight,
            &self.bias,
            &self.running_mean,
            &self.running_var,
        ]
    }
}

/// Batch statistics of a single value are no statistics.
pub(crate) fn too_few_values(dims: &[usize]) -> Error {
    Error::Input {
        expected: "more than one voxel per channel at every depth in training \
            (a larger batch or volume, or frozen statistics)"
            .into(),
        got: format!("a feature map of shape {dims:?}"),
    }
}
