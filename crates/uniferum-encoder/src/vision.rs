//! Feature map to token sequence.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::config::EncoderConfig;
use crate::efficientnet::EfficientNet3d;
use crate::error::Result;
use crate::inference::Precision;

/// An [`EfficientNet3d`] whose feature map becomes a sequence of tokens for a transformer.
///
/// Each voxel of the feature map passes a linear adaptor; a learnt vector opens the sequence
/// and another closes it. Weight names are `model.*`, `lm_adaptor.0.*`, `emb_start` and
/// `emb_end`.
///
/// # Reference
/// Section 3.1 of the paper.
#[derive(Debug, Clone)]
pub struct VisionEncoder {
    model: EfficientNet3d,
    adaptor_weight: Tensor,
    adaptor_bias: Tensor,
    start: Tensor,
    end: Tensor,
}

impl VisionEncoder {
    /// Builds the encoder for tokens of `token_dim` numbers.
    ///
    /// # Errors
    /// As [`EfficientNet3d::new`].
    pub fn new(cfg: &EncoderConfig, token_dim: usize, vb: VarBuilder) -> Result<Self> {
        let channels = cfg.out_channels();
        let adaptor = vb.pp("lm_adaptor").pp("0");
        let bound = 1.0 / (channels as f64).sqrt();
        let uniform = Init::Uniform {
            lo: -bound,
            up: bound,
        };
        let normal = Init::Randn {
            mean: 0.0,
            stdev: 1.0,
        };
        Ok(Self {
            model: EfficientNet3d::new(cfg, vb.pp("model"))?,
            adaptor_weight: adaptor.get_with_hints((token_dim, channels), "weight", uniform)?,
            adaptor_bias: adaptor.get_with_hints(token_dim, "bias", uniform)?,
            start: vb.get_with_hints((1, 1, token_dim), "emb_start", normal)?,
            end: vb.get_with_hints((1, 1, token_dim), "emb_end", normal)?,
        })
    }

    /// The network in front of the adaptor.
    pub fn model(&self) -> &EfficientNet3d {
        &self.model
    }

    /// See [`EfficientNet3d::freeze_statistics`].
    pub fn freeze_statistics(&mut self, frozen: bool) {
        self.model.freeze_statistics(frozen);
    }

    /// See [`EfficientNet3d::set_inference_precision`].
    pub fn set_inference_precision(&mut self, precision: Precision) {
        self.model.set_inference_precision(precision);
    }

    /// The token sequences of a batch of volumes; `train` as in
    /// [`EfficientNet3d::forward_t`].
    ///
    /// # Shapes
    /// `[B, C, D, H, W]` to `[B, L + 2, E]` with `L = ⌈D/32⌉ ⌈H/32⌉ ⌈W/32⌉` tokens in the
    /// order of the volume's axes (the last runs fastest) between the two learnt ones. Tokens are of
    /// the volumes' type; between features of bf16 and tokens of bf16 single precision is used.
    ///
    /// # Errors
    /// As [`EfficientNet3d::forward_t`].
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let weight = |t: &Tensor| if train { t.clone() } else { t.detach() };
        let features = self.model.forward_t(x, train)?;
        let features = features.to_dtype(self.adaptor_weight.dtype())?;
        let batch = features.dim(0)?;
        let channels_last = features.flatten_from(2)?.transpose(1, 2)?;
        let (_, length, channels) = channels_last.dims3()?;
        // One matrix product for the whole batch.
        let tokens = channels_last
            .reshape((batch * length, channels))?
            .matmul(&weight(&self.adaptor_weight).t()?)?
            .broadcast_add(&weight(&self.adaptor_bias))?
            .reshape((batch, length, ()))?;
        let repeat = |t: &Tensor| {
            let width = t.dim(2)?;
            weight(t).broadcast_as((batch, 1, width))
        };
        let sequence = Tensor::cat(&[&repeat(&self.start)?, &tokens, &repeat(&self.end)?], 1)?;
        Ok(sequence.to_dtype(x.dtype())?)
    }
}
