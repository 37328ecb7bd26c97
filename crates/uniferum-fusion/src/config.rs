//! What a model is made of, as `model.json` keeps it.

use serde::{Deserialize, Serialize};
use uniferum_encoder::EncoderConfig;

use crate::error::{Result, config};

/// Where a transformer layer normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// After each residual sum, as BERT does.
    #[default]
    Post,
    /// Before each sublayer and once at the end, as Megatron's BERT (GatorTron) does.
    Pre,
}

/// Sizes of the fusion transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BertConfig {
    /// Width of a token.
    pub hidden: usize,
    /// Attention heads; they share the width equally.
    pub heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of word pieces.
    pub vocab: usize,
    /// Longest sequence, vision tokens included.
    pub max_positions: usize,
    /// Number of token types; only the first is used.
    pub type_vocab: usize,
    /// Epsilon of the layer norms.
    pub eps: f64,
    /// Probability with which training drops hidden values and attention weights.
    pub dropout: f64,
    /// Where the layers normalise.
    pub norm: NormPlacement,
}

impl Default for BertConfig {
    /// The first four layers of BERT-base.
    ///
    /// # Reference
    /// Section 3.1 of the paper.
    fn default() -> Self {
        Self {
            hidden: 768,
            heads: 12,
            intermediate: 3072,
            layers: 4,
            vocab: 30522,
            max_positions: 512,
            type_vocab: 2,
            eps: 1e-12,
            dropout: 0.1,
            norm: NormPlacement::Post,
        }
    }
}

impl BertConfig {
    /// Checks that the sizes describe a transformer.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the field.
    pub fn validate(&self) -> Result<()> {
        for (field, size) in [
            ("bert.hidden", self.hidden),
            ("bert.heads", self.heads),
            ("bert.intermediate", self.intermediate),
            ("bert.layers", self.layers),
            ("bert.vocab", self.vocab),
            ("bert.max_positions", self.max_positions),
            ("bert.type_vocab", self.type_vocab),
        ] {
            if size == 0 {
                return Err(config(field, "at least 1", size));
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let expected = format!("a divisor of hidden ({})", self.hidden);
            return Err(config("bert.heads", expected, self.heads));
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(config("bert.eps", "a positive number", self.eps));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let expected = "a probability of at least 0 and below 1";
            return Err(config("bert.dropout", expected, self.dropout));
        }
        Ok(())
    }
}

/// The whole model: image encoder, fusion transformer and heads.
///
/// ```
/// use uniferum_fusion::UniferumConfig;
/// let cfg: UniferumConfig = serde_json::from_str(r#"{"bert": {"hidden": 96, "heads": 4}}"#)?;
/// assert_eq!(cfg.bert.layers, 4);
/// assert_eq!(cfg.mask_voxels_per_token(), 64);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UniferumConfig {
    /// The image encoder.
    pub encoder: EncoderConfig,
    /// The fusion transformer.
    pub bert: BertConfig,
    /// Side of the cube of mask logits that each vision token predicts.
    pub patch: usize,
}

impl Default for UniferumConfig {
    /// The paper's model.
    fn default() -> Self {
        Self {
            encoder: EncoderConfig::default(),
            bert: BertConfig::default(),
            patch: 4,
        }
    }
}

impl UniferumConfig {
    /// Number of mask logits of each vision token.
    pub fn mask_voxels_per_token(&self) -> usize {
        self.patch.pow(3)
    }

    /// Checks that the configuration describes a model.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) or
    /// [`uniferum_encoder::Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        self.encoder.validate()?;
        self.bert.validate()?;
        if !(1..=32).contains(&self.patch) {
            return Err(config("patch", "between 1 and 32", self.patch));
        }
        Ok(())
    }
}
