//! BERT, trainable, with either placement of the layer norms.

use std::ops::Range;

use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};
use uniferum_kernels as kernels;

use crate::config::{BertConfig, NormPlacement};
use crate::error::{Result, input};
use crate::layers::{BERT_STD, LayerNorm, Linear, Pass};

/// A BERT encoder whose weights have Hugging Face's names (`embeddings.*`,
/// `encoder.layer.N.*`, `pooler.dense.*`).
///
/// Inside [`Uniferum`](crate::Uniferum) it fuses vision tokens and words; alone it encodes
/// text.
#[derive(Debug, Clone)]
pub struct Bert {
    cfg: BertConfig,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    final_norm: Option<LayerNorm>,
    pooler: Linear,
}

impl Bert {
    /// Builds the encoder from a builder's weights, or lets the builder create them.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for impossible sizes,
    /// [`Error::Candle`](crate::Error::Candle) for a missing weight or one of the wrong
    /// shape.
    pub fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
        cfg.validate()?;
        let encoder = vb.pp("encoder");
        let layers = (0..cfg.layers)
            .map(|i| Layer::new(cfg, encoder.pp("layer").pp(i)))
            .collect::<Result<_>>()?;
        let final_norm = match cfg.norm {
            NormPlacement::Post => None,
            NormPlacement::Pre => Some(LayerNorm::new(cfg.hidden, cfg.eps, encoder.pp("ln"))?),
        };
        Ok(Self {
            embeddings: Embeddings::new(cfg, vb.pp("embeddings"))?,
            layers,
            final_norm,
            pooler: Linear::new(cfg.hidden, cfg.hidden, vb.pp("pooler").pp("dense"))?,
            cfg: cfg.clone(),
        })
    }

    /// The configuration that the encoder was built from.
    pub fn config(&self) -> &BertConfig {
        &self.cfg
    }

    /// Last hidden states of a batch of texts, in evaluation.
    ///
    /// # Shapes
    /// `ids` and `mask` are `[B, T]` (mask 1 for a token, 0 for padding); the result is
    /// `[B, T, E]`.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when the shapes do not fit together or a text
    /// is too long.
    pub fn forward(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let pass = Pass::eval();
        let x = self.embed_ids(ids, &pass)?;
        self.encode(x, mask, &pass)
    }

    /// The pooler's output for the first token of each sequence.
    ///
    /// # Shapes
    /// `[B, T, E]` to `[B, E]`.
    ///
    /// # Errors
    /// When `hidden` has another shape.
    pub fn pool(&self, hidden: &Tensor) -> Result<Tensor> {
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?;
        Ok(self.pooler.forward(&first, &Pass::eval())?.tanh()?)
    }

    /// Words to vectors, with positions and types.
    pub(crate) fn embed_ids(&self, ids: &Tensor, pass: &Pass) -> Result<Tensor> {
        let words = self.embeddings.words(ids, pass)?;
        self.embed(words, pass)
    }

    /// Adds positions from 0 and type 0 to a sequence of vectors, and normalises.
    pub(crate) fn embed(&self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        self.embed_from(x, 0, pass)
    }

    /// As [`embed`](Self::embed), with positions from `first`.
    pub(crate) fn embed_from(&self, x: Tensor, first: usize, pass: &Pass) -> Result<Tensor> {
        self.embeddings
            .forward(x, first, self.cfg.max_positions, pass)
    }

    /// The layers, and the norm behind the last if there is one.
    pub(crate) fn stack(&self) -> (&[Layer], Option<&LayerNorm>) {
        (&self.layers, self.final_norm.as_ref())
    }

    /// The layers.
    pub(crate) fn encode(&self, mut x: Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (batch, length, _) = x.dims3()?;
        if mask.dims() != [batch, length] {
            let expected = format!("[{batch}, {length}]");
            return Err(input("attention mask", expected, mask.dims()));
        }
        let mask = mask.to_dtype(DType::F32)?;
        for layer in &self.layers {
            x = layer.forward(&x, &mask, pass)?;
        }
        match &self.final_norm {
            Some(norm) => norm.forward(&x, pass),
            None => Ok(x),
        }
    }
}

#[derive(Debug, Clone)]
struct Embeddings {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: Option<LayerNorm>,
}

impl Embeddings {
    fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
        let table = |rows: usize, name: &str| {
            let normal = Init::Randn {
                mean: 0.0,
                stdev: BERT_STD,
            };
            vb.pp(name)
                .get_with_hints((rows, cfg.hidden), "weight", normal)
        };
        let norm = match cfg.norm {
            NormPlacement::Post => Some(LayerNorm::new(cfg.hidden, cfg.eps, vb.pp("LayerNorm"))?),
            NormPlacement::Pre => None,
        };
        Ok(Self {
            words: table(cfg.vocab, "word_embeddings")?,
            positions: table(cfg.max_positions, "position_embeddings")?,
            types: table(cfg.type_vocab, "token_type_embeddings")?,
            norm,
        })
    }

    fn words(&self, ids: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (batch, length) = ids
            .dims2()
            .map_err(|_| input("token ids", "[B, T]", ids.dims()))?;
        let flat = ids.flatten_all()?.to_dtype(DType::U32)?;
        let vocab = self.words.dim(0)?;
        if flat.elem_count() == 0 {
            return Err(input("token ids", "at least one token", ids.dims()));
        }
        // On a GPU the selection itself refuses ids that are too large: reading them here would wait
        // for all work before.
        if flat.device().is_cpu() {
            let largest = flat.max(0)?.to_scalar::<u32>()? as usize;
            if largest >= vocab {
                return Err(input("token ids", format!("ids below {vocab}"), largest));
            }
        }
        let rows = pass.weight(&self.words).index_select(&flat, 0)?;
        Ok(rows.reshape((batch, length, ()))?)
    }

    fn forward(
        &self,
        x: Tensor,
        first: usize,
        max_positions: usize,
        pass: &Pass,
    ) -> Result<Tensor> {
        let length = x.dim(1)?;
        if first + length > max_positions {
            let expected = format!("at most {max_positions} positions, image and text together");
            return Err(input("sequence", expected, first + length));
        }
        let positions = pass.weight(&self.positions).narrow(0, first, length)?;
        let types = pass.weight(&self.types).narrow(0, 0, 1)?;
        let x = x.broadcast_add(&positions.broadcast_add(&types)?)?;
        let x = match &self.norm {
            Some(norm) => norm.forward(&x, pass)?,
            None => x,
        };
        pass.dropout(x)
    }
}

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
    fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
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

    fn forward(&self, x: &Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self.placement {
            NormPlacement::Post => {
                let attended = (self.attention.forward(x, mask, pass)? + x)?;
                let x = self.attention_norm.forward(&attended, pass)?;
                let fed = (self.feed_forward(&x, pass)? + &x)?;
                self.output_norm.forward(&fed, pass)
            }
            NormPlacement::Pre => {
                let normed = self.attention_norm.forward(x, pass)?;
                let x = (self.attention.forward(&normed, mask, pass)? + x)?;
                let normed = self.output_norm.forward(&x, pass)?;
                Ok((self.feed_forward(&normed, pass)? + x)?)
            }
        }
    }

    /// Keys and values of some positions.
    pub(crate) fn keys_and_values(&self, x: &Tensor, pass: &Pass) -> Result<[Tensor; 2]> {
        let x = self.attention_input(x, pass)?;
        let key = self.attention.key.forward(&x, pass)?;
        Ok([key, self.attention.value.forward(&x, pass)?])
    }

    /// Queries of some positions.
    pub(crate) fn queries(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.attention_input(x, pass)?;
        self.attention.query.forward(&x, pass)
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
        let mixed = kernels::attention_packed(q, k, v, spans, self.attention.heads)?;
        self.behind_attention(x, &mixed, pass)
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
        let mixed = self.attention.single(&q, &all, sequences, pass)?;
        self.behind_attention(x, &mixed, pass)
    }

    /// All that follows the attention, whose input was `x` and whose heads gave `mixed`.
    fn behind_attention(&self, x: &Tensor, mixed: &Tensor, pass: &Pass) -> Result<Tensor> {
        let attended = (self.attention.output.forward(mixed, pass)? + x)?;
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

#[derive(Debug, Clone)]
struct SelfAttention {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
}

impl SelfAttention {
    fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
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

    fn forward(&self, x: &Tensor, mask: &Tensor, pass: &Pass) -> Result<Tensor> {
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

    /// What the heads give for one query `q` `[B, E]` of each sequence of `x`, without the keys and
    /// values of any position.
    ///
    /// A score is `q (W x + b)`, that is `(q W) x` and a constant that the softmax cancels; a mean
    /// of values is the value of the mean. So each head asks `x` itself with `q W`, and its values'
    /// map sees one row for each sequence instead of every position.
    fn single(
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
        Ok(values.flatten_from(1)?.broadcast_add(&bias)?)
    }
}
