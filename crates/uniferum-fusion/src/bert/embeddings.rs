//! Words to vectors.

use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::config::{BertConfig, NormPlacement};
use crate::error::{Result, input};
use crate::layers::{BERT_STD, LayerNorm, Pass};

/// Tables of words, positions and types, and the norm behind their sum if there is one.
#[derive(Debug, Clone)]
pub(super) struct Embeddings {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    norm: Option<LayerNorm>,
}

impl Embeddings {
    pub(super) fn new(cfg: &BertConfig, vb: VarBuilder) -> Result<Self> {
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

    /// The vectors of `ids` `[B, T]`, `[B, T, E]`.
    pub(super) fn words(&self, ids: &Tensor, pass: &Pass) -> Result<Tensor> {
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

    /// Adds positions from `first` and type 0 to `x` `[B, T, E]`, and normalises.
    pub(super) fn forward(
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
