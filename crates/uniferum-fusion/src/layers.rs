//! Linear maps, norms and dropout that know whether their weights are being trained.

use std::cell::Cell;

use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use uniferum_kernels as kernels;
use uniferum_kernels::infer::{DenseLayer, Precision, dense};

use crate::error::Result;

/// Standard deviation of BERT's initial weights.
pub(crate) const BERT_STD: f64 = 0.02;
/// Width of the model that [`BERT_STD`] is meant for; maps of fewer inputs start with larger weights, so
/// that their outputs vary as much.
const BERT_WIDTH: f64 = 768.0;

/// One forward pass.
pub(crate) struct Pass {
    differentiable: bool,
    /// The format of the maps' inputs and weights where no graph is wanted and many rows come.
    packed: Option<Precision>,
    /// Whether what is between the residual sums is bf16.
    half: bool,
    dropout: f64,
    /// Base of the seeds of this pass's dropout masks, one for each place that drops.
    seed: Cell<u64>,
}

impl Pass {
    pub(crate) fn eval() -> Self {
        Self {
            differentiable: false,
            packed: None,
            half: false,
            dropout: 0.0,
            seed: Cell::new(0),
        }
    }

    /// Evaluation on the CPU of many positions at a time, without any graph.
    pub(crate) fn packed(precision: Precision) -> Self {
        Self {
            packed: Some(precision),
            ..Self::eval()
        }
    }

    pub(crate) fn train(differentiable: bool, dropout: f64, seed: u64) -> Self {
        Self {
            differentiable,
            packed: None,
            half: false,
            dropout,
            seed: Cell::new(seed),
        }
    }

    /// The same pass over tokens of a type: with those of bf16, maps and attention compute on bf16,
    /// and norms and residual sums in single precision.
    pub(crate) fn over(mut self, tokens: DType) -> Self {
        self.half = tokens == DType::BF16;
        self
    }

    /// What a sublayer computes on.
    pub(crate) fn inner(&self, x: &Tensor) -> Result<Tensor> {
        if self.half {
            return Ok(x.to_dtype(DType::BF16)?);
        }
        Ok(x.clone())
    }

    /// The weight as this pass should see it: constants keep no graph.
    pub(crate) fn weight(&self, tensor: &Tensor) -> Tensor {
        if self.differentiable {
            tensor.clone()
        } else {
            tensor.detach()
        }
    }

    pub(crate) fn dropout(&self, x: Tensor) -> Result<Tensor> {
        match self.next_dropout() {
            Some((p, seed)) => Ok(kernels::dropout(&x, p, seed)?),
            None => Ok(x),
        }
    }

    /// Probability and seed for the next place that drops.
    pub(crate) fn next_dropout(&self) -> Option<(f32, u64)> {
        if self.dropout == 0.0 {
            return None;
        }
        let seed = self.seed.get();
        self.seed.set(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        Some((self.dropout as f32, seed))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Linear {
    pub(crate) fn new(c_in: usize, c_out: usize, vb: VarBuilder) -> Result<Self> {
        let normal = Init::Randn {
            mean: 0.0,
            stdev: BERT_STD * (BERT_WIDTH / c_in as f64).sqrt().max(1.0),
        };
        Ok(Self {
            weight: vb.get_with_hints((c_out, c_in), "weight", normal)?,
            bias: vb.get_with_hints(c_out, "bias", Init::Const(0.0))?,
        })
    }

    /// Maps the last axis, whatever the leading ones.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        if let Some(precision) = pass.packed {
            return Ok(dense(x, &[self.layer()], precision)?);
        }
        let (weight, bias) = (pass.weight(&self.weight), pass.weight(&self.bias));
        Ok(kernels::linear(x, &weight, &bias)?)
    }

    /// This map, [`gelu_erf`](kernels::gelu_erf) and the map `next`.
    pub(crate) fn forward_gelu(&self, next: &Self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        if let Some(precision) = pass.packed {
            return Ok(dense(x, &[self.layer(), next.layer()], precision)?);
        }
        next.forward(&kernels::gelu_erf(&self.forward(x, pass)?)?, pass)
    }

    fn layer(&self) -> DenseLayer<'_> {
        DenseLayer {
            weight: &self.weight,
            bias: &self.bias,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(width: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(width, "bias", Init::Const(0.0))?,
            eps,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (pass.weight(&self.weight), pass.weight(&self.bias));
        Ok(kernels::layer_norm(x, &weight, &bias, self.eps)?)
    }
}
