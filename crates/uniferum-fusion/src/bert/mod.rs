//! BERT, trainable, with either placement of the layer norms.

mod attention;
mod embeddings;
mod layer;

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

use self::embeddings::Embeddings;
use crate::config::{BertConfig, NormPlacement};
use crate::error::{Result, input};
use crate::layers::{LayerNorm, Linear, Pass};

pub(crate) use self::layer::Layer;

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
