//! The composed model.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use serde::{Deserialize, Serialize};
use uniferum_encoder::{Precision, VisionEncoder};

use crate::ask;
use crate::bert::Bert;
use crate::checkpoint;
use crate::config::UniferumConfig;
use crate::error::{Result, input};
use crate::layers::{Linear, Pass};

/// Which part of the model training leaves alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Freeze {
    /// Everything is trained.
    #[default]
    None,
    /// The transformer's weights are constants; image encoder and heads are trained.
    Bert,
}

/// Logits for a batch of questions.
#[derive(Debug, Clone)]
pub struct Output {
    /// Classification logit of each question, `[B, 1]`.
    pub cls: Tensor,
    /// Mask logits of each question, `[B, L, patch³]`: tokens in the order of the feature
    /// map, voxels within a patch likewise, the last axis running fastest.
    pub seg: Tensor,
}

impl Output {
    /// The mask logits as volumes, patches put in their places.
    ///
    /// # Shapes
    /// For the feature map's sides `grid` = `[x, y, z]`: `[B, L, p³]` to
    /// `[B, p x, p y, p z]`.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when `grid` has not `L` tokens.
    pub fn mask_volume(&self, grid: [usize; 3]) -> Result<Tensor> {
        mask_volume(&self.seg, grid)
    }
}

/// Mask logits as volumes: [`Output::mask_volume`] for what [`Uniferum::segment`] gives.
///
/// # Errors
/// As [`Output::mask_volume`].
pub fn mask_volume(seg: &Tensor, grid: [usize; 3]) -> Result<Tensor> {
    let (batch, tokens, voxels) = seg.dims3()?;
    if grid.iter().product::<usize>() != tokens {
        return Err(input("mask grid", format!("{tokens} tokens"), grid));
    }
    let patch = (1..=voxels).find(|p| p.pow(3) >= voxels).unwrap_or(1);
    let [x, y, z] = grid;
    let cubes = seg.reshape(vec![batch, x, y, z, patch, patch, patch])?;
    let placed = cubes.permute(vec![0, 1, 4, 2, 5, 3, 6])?;
    Ok(placed.reshape((batch, x * patch, y * patch, z * patch))?)
}

/// A chest CT and a sentence in; a probability and a mask out.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::VarMap;
/// use uniferum_encoder::seeded_var_builder;
/// use uniferum_fusion::{BertConfig, Prompts, Uniferum, UniferumConfig};
///
/// # fn main() -> uniferum_fusion::Result<()> {
/// let questions = ["Is there pleural effusion?", "Segment the heart."];
/// let prompts = Prompts::from_sentences(&questions)?;
/// let bert = BertConfig { hidden: 48, heads: 4, intermediate: 96, ..prompts.bert_config() };
/// let cfg = UniferumConfig { bert, ..Default::default() };
/// let vars = VarMap::new();
/// let device = Device::Cpu;
/// let model = Uniferum::new(&cfg, seeded_var_builder(&vars, 1, DType::F32, &device))?;
///
/// let scan = Tensor::zeros((1, 1, 64, 32, 32), DType::F32, &device)?;
/// let tokens = model.encode(&scan)?; // once for each scan
/// let batch = prompts.encode(&questions, &device)?;
/// let answer = model.ask(&tokens, &batch.ids, &batch.mask)?;
/// assert_eq!(answer.cls.dims(), [2, 1]);
/// assert_eq!(answer.mask_volume([2, 1, 1])?.dims(), [2, 8, 4, 4]);
/// # Ok(()) }
/// ```
///
/// # Reference
/// Sections 3.1 and 3.2 of the paper.
#[derive(Debug, Clone)]
pub struct Uniferum {
    cfg: UniferumConfig,
    vision: VisionEncoder,
    bert: Bert,
    head_cls: Linear,
    head_seg: Linear,
    freeze: Freeze,
    precision: Precision,
    dropout_seed: Arc<AtomicU64>,
}

impl Uniferum {
    /// Builds the model from a builder's weights, or lets the builder create them.
    ///
    /// # Errors
    /// For an impossible configuration, a missing weight or one of the wrong shape.
    pub fn new(cfg: &UniferumConfig, vb: VarBuilder) -> Result<Self> {
        cfg.validate()?;
        let hidden = cfg.bert.hidden;
        Ok(Self {
            vision: VisionEncoder::new(&cfg.encoder, hidden, vb.pp("vision_model"))?,
            bert: Bert::new(&cfg.bert, vb.pp("model"))?,
            head_cls: Linear::new(hidden, 1, vb.pp("lm_head_cls"))?,
            head_seg: Linear::new(hidden, cfg.mask_voxels_per_token(), vb.pp("lm_head_seg"))?,
            cfg: cfg.clone(),
            freeze: Freeze::None,
            precision: Precision::F32,
            dropout_seed: Arc::new(AtomicU64::new(0)),
        })
    }

    /// Loads a checkpoint for inference; see [`checkpoint::load`].
    ///
    /// # Errors
    /// As [`checkpoint::load`].
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let loaded = checkpoint::load(path, device)?;
        let vb = VarBuilder::from_tensors(loaded.tensors, DType::F32, device);
        Self::new(&loaded.config, vb)
    }

    /// The configuration that the model was built from.
    pub fn config(&self) -> &UniferumConfig {
        &self.cfg
    }

    /// The image encoder.
    pub fn vision(&self) -> &VisionEncoder {
        &self.vision
    }

    /// Chooses which weights training treats as constants; see also [`trainable_vars`].
    pub fn set_freeze(&mut self, freeze: Freeze) {
        self.freeze = freeze;
    }

    /// Chooses the format in which evaluation on the CPU keeps weights and activations of the
    /// image encoder, and rounds the inputs of the transformer's linear maps; single precision
    /// after construction.
    ///
    /// [`Precision::Bf16`] is much faster on processors with AVX512-BF16; logits differ by about
    /// a hundredth of their range.
    pub fn set_inference_precision(&mut self, precision: Precision) {
        self.precision = precision;
        self.vision.set_inference_precision(precision);
    }

    /// Keeps the batch norms' running statistics as they are in training; see
    /// [`EfficientNet3d::freeze_statistics`](uniferum_encoder::EfficientNet3d::freeze_statistics).
    pub fn freeze_statistics(&mut self, frozen: bool) {
        self.vision.freeze_statistics(frozen);
    }

    /// Sets where the next training pass draws its dropout masks from.
    ///
    /// Each pass moves on to the next seed by itself. A run that resumes sets the seed from
    /// its step and so drops exactly what it would have dropped.
    pub fn set_dropout_seed(&self, seed: u64) {
        self.dropout_seed.store(seed, Ordering::Relaxed);
    }

    /// Logits of a batch of volumes, each with its question.
    ///
    /// With `train`, dropout is active, batch statistics normalise, and the result is
    /// differentiable in the weights that are not frozen. Without it weights are constants.
    ///
    /// # Shapes
    /// `images` `[B, 1, X, Y, Z]`, `ids` and `mask` `[B, T]`. One image goes with any
    /// number of questions.
    ///
    /// # Units
    /// Image values are HU / 2000 + 0.5.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when the shapes do not fit together or the
    /// sequence is too long.
    pub fn forward_t(
        &self,
        images: &Tensor,
        ids: &Tensor,
        mask: &Tensor,
        train: bool,
    ) -> Result<Output> {
        let tokens = self.vision.forward_t(images, train)?;
        let (text, rest) = self.passes(train);
        self.fuse(&tokens, ids, mask, text, &rest)
    }

    /// As [`ask`](Self::ask) in a training pass: differentiable in tokens and weights, with
    /// dropout. Tokens come from [`vision`](Self::vision); a question for each.
    ///
    /// # Shapes
    /// `tokens` `[B, L + 2, E]`; `ids` and `mask` `[B, T]`.
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    pub fn ask_t(&self, tokens: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<Output> {
        let (text, rest) = self.passes(true);
        self.fuse(tokens, ids, mask, text, &rest)
    }

    /// The vision tokens of a batch of volumes, in evaluation.
    ///
    /// # Shapes
    /// `[B, 1, X, Y, Z]` to `[B, L + 2, E]`.
    ///
    /// # Units
    /// Image values are HU / 2000 + 0.5.
    ///
    /// # Errors
    /// As [`VisionEncoder::forward_t`].
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.vision.forward_t(images, false)?)
    }

    /// Logits for many questions about the scan that [`encode`](Self::encode) turned into
    /// tokens, in evaluation.
    ///
    /// # Shapes
    /// `tokens` `[1, L + 2, E]`, or `[B, L + 2, E]` with one question for each; `ids` and
    /// `mask` `[B, T]`.
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    pub fn ask(&self, tokens: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<Output> {
        let pass = Pass::eval();
        if !ask::packs(tokens) {
            return self.fuse(tokens, ids, mask, Pass::eval(), &pass);
        }
        let length = self.check(tokens, ids, mask)?;
        let read = ask::read(&self.bert, tokens, ids, mask, 0..length - 1, self.precision)?;
        let [first, inner] = [(0, 1), (1, length - 2)].map(|(at, n)| read.narrow(1, at, n));
        let cls = self.head_cls.forward(&first?.squeeze(1)?, &pass)?;
        let seg = self.head_seg.forward(&inner?, &pass)?;
        Ok(Output { cls, seg })
    }

    /// Classification logits alone, `[B, 1]`: as [`ask`](Self::ask), without the work for
    /// masks that nobody reads.
    ///
    /// # Shapes
    /// As [`ask`](Self::ask).
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    pub fn classify(&self, tokens: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        if !ask::packs(tokens) {
            return Ok(self.ask(tokens, ids, mask)?.cls);
        }
        self.check(tokens, ids, mask)?;
        let read = ask::read(&self.bert, tokens, ids, mask, 0..1, self.precision)?;
        self.head_cls.forward(&read.squeeze(1)?, &Pass::eval())
    }

    /// Mask logits alone, `[B, L, patch³]`; see [`Output::seg`].
    ///
    /// # Shapes
    /// As [`ask`](Self::ask).
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    pub fn segment(&self, tokens: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        if !ask::packs(tokens) {
            return Ok(self.ask(tokens, ids, mask)?.seg);
        }
        let length = self.check(tokens, ids, mask)?;
        let read = ask::read(&self.bert, tokens, ids, mask, 1..length - 1, self.precision)?;
        self.head_seg.forward(&read, &Pass::eval())
    }

    /// The pass through the transformer and the one through the heads.
    fn passes(&self, train: bool) -> (Pass, Pass) {
        if !train {
            return (Pass::eval(), Pass::eval());
        }
        let seed = self.dropout_seed.fetch_add(1, Ordering::Relaxed);
        let bert = Pass::train(
            self.freeze == Freeze::None,
            self.cfg.bert.dropout,
            mix(seed),
        );
        (bert, Pass::train(true, 0.0, 0))
    }

    /// Checks that tokens and text fit together; returns the number of vision tokens.
    fn check(&self, tokens: &Tensor, ids: &Tensor, mask: &Tensor) -> Result<usize> {
        let (batch, text_length) = ids
            .dims2()
            .map_err(|_| input("token ids", "[B, T]", ids.dims()))?;
        if mask.dims() != ids.dims() {
            let expected = format!("the token ids' shape {:?}", ids.dims());
            return Err(input("text mask", expected, mask.dims()));
        }
        let (scans, length, width) = tokens
            .dims3()
            .map_err(|_| input("vision tokens", "[B, L + 2, E]", tokens.dims()))?;
        if (scans != batch && scans != 1) || width != self.cfg.bert.hidden || length < 3 {
            let expected = format!("[1 or {batch}, L + 2, {}]", self.cfg.bert.hidden);
            return Err(input("vision tokens", expected, tokens.dims()));
        }
        let maximum = self.cfg.bert.max_positions;
        if length + text_length > maximum {
            let expected = format!("at most {maximum} positions for image and text together");
            let got = format!("{length} of the image + {text_length} of the text");
            return Err(input("sequence", expected, got));
        }
        Ok(length)
    }

    fn fuse(
        &self,
        tokens: &Tensor,
        ids: &Tensor,
        mask: &Tensor,
        bert: Pass,
        heads: &Pass,
    ) -> Result<Output> {
        let length = self.check(tokens, ids, mask)?;
        let bert = &bert.over(tokens.dtype());
        let tokens = tokens.to_dtype(self.head_cls.bias.dtype())?;
        let (batch, width) = (ids.dim(0)?, self.cfg.bert.hidden);
        let vision = tokens.broadcast_as((batch, length, width))?;
        let text = self.bert.embed_ids(ids, bert)?;
        // The words pass the embedding block here for the second time: they get positions
        // twice, once within the sentence and once within the whole sequence. Checkpoints
        // depend on it.
        let sequence = self.bert.embed(Tensor::cat(&[&vision, &text], 1)?, bert)?;
        let seen = Tensor::ones((batch, length), DType::F32, ids.device())?;
        let mask = Tensor::cat(&[&seen, &mask.to_dtype(DType::F32)?], 1)?;
        let hidden = self.bert.encode(sequence, &mask, bert)?;
        let first = hidden.narrow(1, 0, 1)?.squeeze(1)?;
        let inner = hidden.narrow(1, 1, length - 2)?;
        Ok(Output {
            cls: self.head_cls.forward(&first.contiguous()?, heads)?,
            seg: self.head_seg.forward(&inner.contiguous()?, heads)?,
        })
    }
}

/// The variables to optimise, sorted by name.
///
/// Running statistics are left out, and so is the transformer's pooler, which no head uses
/// and which therefore has no gradient; with [`Freeze::Bert`] the whole transformer is.
pub fn trainable_vars(vars: &VarMap, freeze: Freeze) -> Vec<(String, Var)> {
    let frozen = match freeze {
        Freeze::None => "model.pooler.",
        Freeze::Bert => "model.",
    };
    let mut named = uniferum_encoder::trainable_vars(vars);
    named.retain(|(name, _)| !name.starts_with(frozen));
    named
}

/// Spreads consecutive seeds over all 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_return_to_their_places() {
        // Two tokens along y, each voxel numbered by its place in the wanted volume.
        let (p, grid) = (2, [1, 2, 1]);
        let mut seg = Vec::new();
        for token in 0..2 {
            for (x, y, z) in (0..8).map(|i| (i / 4, i / 2 % 2, i % 2)) {
                seg.push(((x * 4 + token * p + y) * 2 + z) as f32);
            }
        }
        let output = Output {
            cls: Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap(),
            seg: Tensor::from_vec(seg, (1, 2, 8), &Device::Cpu).unwrap(),
        };
        let volume = output.mask_volume(grid).unwrap();
        assert_eq!(volume.dims(), [1, 2, 4, 2]);
        let flat = volume.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat, (0..16).map(|i| i as f32).collect::<Vec<_>>());
        assert!(output.mask_volume([1, 1, 1]).is_err());
    }
}
