//! One layer of the transformer.

use std::ops::Range;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use uniferum_kernels as kernels;

use super::attention::SelfAttention;
use crate::config::{BertConfig, NormPlacement};
use crate::error::Result;
use crate::layers::{LayerNorm, Linear, Pass};

/// Self-attention and feed-forward part, each with a residual sum and a norm.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    placement: NormPlacement,
}

impl Layer {
    pub(super) fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
        // Megatron's norms come before their sublayer and are named after it.
        let (attention_norm, output_norm) = match cfg.norm {
            NormPlacement::Post => ("attention.output.LayerNorm", "output.LayerNorm"),
            NormPlacement::Pre => ("attention.ln", "ln"),
        };
        let (hidden, wide) = (cfg.hidden, cfg.intermediate);
        Ok(Self {
            attention: SelfAttention::new(cfg, vb.pp("attention"))?,
            attention_norm: LayerNorm::new(hidden, cfg.eps, vb.pp(attention_norm))?,
            intermediate: Linear::new(hidden, wide, vb.pp("intermediate").pp("dense"))?,
            output: Linear::new(wide, hidden, vb.pp("output").pp("dense"))?,
            output_norm: LayerNorm::new(hidden, cfg.eps, vb.pp(output_norm))?,
            placement: cfg.norm,
        })
    }

    /// The layer's output for sequences `x` `[B, T, E]`, of which `mask` `[B, T]` tells padding.
    pub(super) fn forward(&self, x: &Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        let inner = self.attention_input(x, pass)?;
        let attended = self.attention.forward(&inner, mask, pass)?;
        self.behind_attention((attended + x)?, pass)
    }

    /// Keys and values of some positions.
    pub(crate) fn keys_and_values(&self, x: &Tensor, pass: &Pass) -> Result<[Tensor; 2]> {
        let x = self.attention_input(x, pass)?;
        self.attention.keys_and_values(&x, pass)
    }

    /// Queries of some positions.
    pub(crate) fn queries(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.attention_input(x, pass)?;
        self.attention.queries(&x, pass)
    }

    fn attention_input(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self.placement {
            NormPlacement::Post => Ok(x.clone()),
            NormPlacement::Pre => self.attention_norm.forward(x, pass),
        }
    }

    /// The layer's output for the positions `x` `[T, E]` that ask with `q` within `spans`.
    pub(crate) fn forward_packed(
        &self,
        x: &Tensor,
        q: &Tensor,
        [k, v]: &[Tensor; 2],
        spans: &[kernels::Span],
        pass: &Pass,
    ) -> Result<Tensor> {
        let attended = self.attention.packed([q, k, v], spans, pass)?;
        self.behind_attention((attended + x)?, pass)
    }

    /// The layer's output for one position `x` `[B, E]` of each sequence, whose rows among `all`
    /// are `sequences`.
    pub(crate) fn forward_single(
        &self,
        x: &Tensor,
        all: &Tensor,
        sequences: &[Range<usize>],
        pass: &Pass,
    ) -> Result<Tensor> {
        let q = self.queries(x, pass)?;
        let all = self.attention_input(all, pass)?;
        let attended = self.attention.single(&q, &all, sequences, pass)?;
        self.behind_attention((attended + x)?, pass)
    }

    /// All that follows the residual sum behind the attention.
    fn behind_attention(&self, attended: Tensor, pass: &Pass) -> Result<Tensor> {
        match self.placement {
            NormPlacement::Post => {
                let x = self.attention_norm.forward(&attended, pass)?;
                let fed = (self.feed_forward(&x, pass)? + &x)?;
                self.output_norm.forward(&fed, pass)
            }
            NormPlacement::Pre => {
                let normed = self.output_norm.forward(&attended, pass)?;
                Ok((self.feed_forward(&normed, pass)? + attended)?)
            }
        }
    }

    fn feed_forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let inner = pass.inner(x)?;
        let y = self.intermediate.forward_gelu(&self.output, &inner, pass)?;
        Ok(pass.dropout(y)?.to_dtype(x.dtype())?)
    }
}
