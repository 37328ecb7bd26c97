//! Multi-head self-attention: over padded sequences, packed ones, and for one query of each.

use std::ops::Range;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use uniferum_kernels as kernels;

use crate::config::BertConfig;
use crate::error::Result;
use crate::layers::{Linear, Pass};

/// The maps to queries, keys and values, and the one behind the heads.
#[derive(Debug, Clone)]
pub(super) struct SelfAttention {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl SelfAttention {
    pub(super) fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
        let hidden = cfg.hidden;
        let linear = |vb: VarBuilder| Linear::new(hidden, hidden, vb);
        let own = vb.pp("self");
        Ok(Self {
            heads: cfg.heads,
            query: linear(own.pp("query"))?,
            key: linear(own.pp("key"))?,
            value: linear(own.pp("value"))?,
            output: linear(vb.pp("output").pp("dense"))?,
        })
    }

    /// The attention of sequences `x` `[B, T, E]`, of which `mask` `[B, T]` tells padding.
    pub(super) fn forward(&self, x: &Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (batch, length, hidden) = x.dims3()?;
        let outer = x.dtype();
        let x = &pass.inner(x)?;
        let split = |linear: &Linear| -> Result<Tensor> {
            let heads = (batch, length, self.heads, hidden / self.heads);
            let y = linear.forward(x, pass)?.reshape(heads)?;
            Ok(y.transpose(1, 2)?.contiguous()?)
        };
        let (q, k, v) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let mixed = kernels::attention(&q, &k, &v, Some(mask), pass.next_dropout())?;
        let joined = mixed.transpose(1, 2)?.reshape((batch, length, hidden))?;
        let y = pass.dropout(self.output.forward(&joined, pass)?)?;
        Ok(y.to_dtype(outer)?)
    }

    /// Keys and values of some positions.
    pub(super) fn keys_and_values(&self, x: &Tensor, pass: &Pass) -> Result<[Tensor; 2]> {
        Ok([self.key.forward(x, pass)?, self.value.forward(x, pass)?])
    }

    /// Queries of some positions.
    pub(super) fn queries(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.query.forward(x, pass)
    }

    /// The attention of queries `[T, E]` to keys and values `[S, E]` within `spans`, in evaluation.
    pub(super) fn packed(
        &self,
        [q, k, v]: [&Tensor; 3],
        spans: &[kernels::Span],
        pass: &Pass,
    ) -> Result<Tensor> {
        let mixed = kernels::attention_packed(q, k, v, spans, self.heads)?;
        self.output.forward(&mixed, pass)
    }

    /// The attention of one query `q` `[B, E]` of each sequence of `x`, in evaluation, without the
    /// keys and values of any position.
    ///
    /// A score is `q (W x + b)`, that is `(q W) x` and a constant that the softmax cancels; a mean
    /// of values is the value of the mean. So each head asks `x` itself with `q W`, and its values'
    /// map sees one row for each sequence instead of every position.
    pub(super) fn single(
        &self,
        q: &Tensor,
        x: &Tensor,
        sequences: &[Range<usize>],
        pass: &Pass,
    ) -> Result<Tensor> {
        let (batch, hidden) = q.dims2()?;
        let (heads, own) = (self.heads, hidden / self.heads);
        let by_head = |weight: &Tensor| pass.weight(weight).reshape((heads, own, hidden));
        let q = q.reshape((batch, heads, own))?.transpose(0, 1)?;
        let q = q.contiguous()?.matmul(&by_head(&self.key.weight)?)?;
        // One head of the whole width divides by the root of that, and not of a head's own.
        let q = (q.transpose(0, 1)?.flatten_to(1)? * (heads as f64).sqrt())?;
        let spans = sequences.iter().enumerate().map(|(b, keys)| kernels::Span {
            queries: b * heads..(b + 1) * heads,
            keys: keys.clone(),
        });
        let mean = kernels::attention_packed(&q, x, x, &spans.collect::<Vec<_>>(), 1)?;
        let mean = mean.reshape((batch, heads, hidden))?.transpose(0, 1)?;
        let values = by_head(&self.value.weight)?.transpose(1, 2)?;
        let values = mean.contiguous()?.matmul(&values)?.transpose(0, 1)?;
        let bias = pass.weight(&self.value.bias);
        let mixed = values.flatten_from(1)?.broadcast_add(&bias)?;
        self.output.forward(&mixed, pass)
    }
}
