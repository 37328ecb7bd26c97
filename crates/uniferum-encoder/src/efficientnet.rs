//! The assembled network.

use candle_core::{DType, ModuleT, Tensor};
use candle_nn::VarBuilder;
use uniferum_kernels as kernels;

use crate::batch_norm::Mode;
use crate::block::{BlockTensors, ConvNorm, ConvShape, InvertedResidual, LayerTensors, record};
use crate::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::inference::{InferenceCache, Precision};

/// A 3-D EfficientNet without its classifier.
///
/// Weight names are those of timm's `tf_efficientnet_b*`: `conv_stem`, `bn1`,
/// `blocks.S.I.*`, `conv_head`, `bn2`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::VarMap;
/// use uniferum_encoder::{EfficientNet3d, EncoderConfig, seeded_var_builder};
/// # fn main() -> uniferum_encoder::Result<()> {
/// let vars = VarMap::new();
/// let vb = seeded_var_builder(&vars, 42, DType::F32, &Device::Cpu);
/// let net = EfficientNet3d::new(&EncoderConfig::default(), vb)?;
/// let volume = Tensor::zeros((1, 1, 64, 32, 48), DType::F32, &Device::Cpu)?;
/// assert_eq!(net.forward_t(&volume, false)?.dims(), [1, 1280, 2, 1, 2]);
/// # Ok(()) }
/// ```
///
/// # Reference
/// Section 3.1 of the paper; Tan and Le, *EfficientNet*, ICML 2019.
#[derive(Debug, Clone)]
pub struct EfficientNet3d {
    cfg: EncoderConfig,
    stem: ConvNorm,
    blocks: Vec<InvertedResidual>,
    head: ConvNorm,
    frozen_statistics: bool,
    inference: InferenceCache,
}

impl EfficientNet3d {
    /// Builds the network from a builder's weights, or lets the builder create them.
    ///
    /// # Errors
    /// [`Error::Config`] for an impossible configuration, [`Error::Input`] for a builder of other weights than
    /// `f32`, [`Error::Candle`] for a missing weight or one of the wrong shape.
    pub fn new(cfg: &EncoderConfig, vb: VarBuilder) -> Result<Self> {
        cfg.validate()?;
        if vb.dtype() != DType::F32 {
            return Err(Error::Input {
                expected: "a builder of f32 weights; activations alone may be bf16".into(),
                got: format!("{:?}", vb.dtype()),
            });
        }
        let stem = ConvShape {
            channels: (cfg.in_channels, cfg.stem_channels()),
            kernel: 3,
            stride: 2,
            groups: 1,
        };
        let specs = cfg.blocks();
        let last = specs.last().map_or(0, |block| block.out_channels);
        let blocks = specs
            .into_iter()
            .map(|spec| {
                let vb = vb.pp("blocks").pp(spec.stage).pp(spec.index);
                InvertedResidual::new(spec, vb)
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            cfg: cfg.clone(),
            stem: ConvNorm::new(stem, vb.pp("conv_stem"), vb.pp("bn1"))?,
            blocks,
            head: ConvNorm::pointwise(last, cfg.out_channels(), vb.pp("conv_head"), vb.pp("bn2"))?,
            frozen_statistics: false,
            inference: InferenceCache::default(),
        })
    }

    /// The configuration that the network was built from.
    pub fn config(&self) -> &EncoderConfig {
        &self.cfg
    }

    /// Chooses whether training uses and keeps the running statistics instead of the
    /// batch's; off after construction.
    ///
    /// Freeze them for batches too small for good statistics, or when several processes
    /// train one model without exchanging statistics.
    pub fn freeze_statistics(&mut self, frozen: bool) {
        self.frozen_statistics = frozen;
    }

    /// Chooses the format in which evaluation on the CPU keeps weights and activations;
    /// single precision after construction.
    ///
    /// [`Precision::Bf16`] halves memory; time depends on the processor (0.6 on Zen 4, more than 1
    /// without AVX512-BF16). Features differ by about a hundredth of their range.
    pub fn set_inference_precision(&mut self, precision: Precision) {
        self.inference.set_precision(precision);
    }

    /// See [`set_inference_precision`](Self::set_inference_precision).
    pub fn inference_precision(&self) -> Precision {
        self.inference.precision()
    }

    /// The feature map of a batch of volumes.
    ///
    /// With `train` the batch's own statistics normalise and the running ones are updated,
    /// unless they are [frozen](Self::freeze_statistics). Without it weights are constants:
    /// no activation outlives the call, and gradients reach the input only. On the CPU, and
    /// unless the input asks for a gradient, evaluation runs through an
    /// [`InferenceEncoder`](crate::InferenceEncoder), which is made by the first call and
    /// made anew when weights have changed.
    ///
    /// # Shapes
    /// `[B, C, D, H, W]` to `[B, 1280, ⌈D/32⌉, ⌈H/32⌉, ⌈W/32⌉]` for B0.
    ///
    /// # Errors
    /// [`Error::Input`] for a tensor that is not such a batch.
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.check(x)?;
        if train {
            return self.forward_as_one(x);
        }
        kernels::release_memory();
        if x.device().is_cpu()
            && x.dtype() == DType::F32
            && !x.track_op()
            && let Some(packed) = self.inference.get(self)?
        {
            return packed.features(x);
        }
        self.forward_composed(x, train)
    }

    /// Training: the whole network as one operation, since what passes between its
    /// layers is too large to become tensors.
    fn forward_as_one(&self, x: &Tensor) -> Result<Tensor> {
        let mode = self.begin(true);
        let ends = [&self.stem, &self.head].map(|layer| LayerTensors::new(layer, mode));
        let blocks = self.blocks.iter().map(|b| BlockTensors::new(b, mode));
        let blocks: Vec<_> = blocks.collect();
        let mut stages = vec![ends[0].stage()];
        stages.extend(blocks.iter().map(BlockTensors::stage));
        stages.push(ends[1].stage());
        let (y, statistics) = kernels::sequence(x, &stages)?;
        let blocks = self.blocks.iter().flat_map(InvertedResidual::norms);
        let norms = std::iter::once(self.stem.norm()).chain(blocks);
        record(norms.chain([self.head.norm()]), &statistics, &y)?;
        Ok(y)
    }

    /// As [`forward_t`](Self::forward_t), block by block in training and operation by operation in
    /// evaluation: the reference for the faster forms.
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    pub fn forward_composed(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let mode = self.begin(train);
        let mut x = self.stem(x, mode)?;
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        self.head.forward_silu(&x, mode)
    }

    /// The feature maps at strides 2, 4, 8, 16 and 32, for decoders with skip connections.
    ///
    /// Each is the output of the last block before the next stride; the last one has not
    /// passed the widening head convolution. Computed operation by operation in evaluation, as
    /// [`forward_composed`](Self::forward_composed): slower than `forward_t`.
    ///
    /// # Shapes
    /// `[B, C, D, H, W]` to five maps with 16, 24, 40, 112 and 320 channels for B0.
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    pub fn pyramid(&self, x: &Tensor, train: bool) -> Result<Vec<Tensor>> {
        let mode = self.begin(train);
        let mut x = self.stem(x, mode)?;
        let mut maps = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, mode)?;
            let next = self.blocks.get(i + 1);
            if next.is_none_or(|next| next.spec().stride > 1) {
                maps.push(x.clone());
            }
        }
        Ok(maps)
    }

    /// What a pass does. Training moves the running statistics, so that a packed copy of the network is of
    /// old ones, and is forgotten.
    fn begin(&self, train: bool) -> Mode {
        if train {
            self.inference.clear();
        }
        match (train, self.frozen_statistics) {
            (false, _) => Mode::Eval,
            (true, false) => Mode::Train,
            (true, true) => Mode::TrainFrozenStatistics,
        }
    }

    fn stem(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.check(x)?;
        self.stem.forward_silu(x, mode)
    }

    fn check(&self, x: &Tensor) -> Result<()> {
        let channels = self.cfg.in_channels;
        let known = x.dtype() == DType::F32 || (x.device().is_cuda() && x.dtype() == DType::BF16);
        if !known {
            return Err(Error::Input {
                expected: "a volume of f32, or bf16 on a GPU".into(),
                got: format!("{:?}", x.dtype()),
            });
        }
        if x.rank() == 5 && x.dims()[1] == channels && x.elem_count() > 0 {
            return Ok(());
        }
        Err(Error::Input {
            expected: format!("a batch of volumes [B, {channels}, D, H, W]"),
            got: format!("{:?}", x.dims()),
        })
    }

    pub(crate) fn stem_layer(&self) -> &ConvNorm {
        &self.stem
    }

    pub(crate) fn blocks(&self) -> &[InvertedResidual] {
        &self.blocks
    }

    pub(crate) fn head_layer(&self) -> &ConvNorm {
        &self.head
    }

    /// Every tensor that evaluation depends on.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        let ends = self.stem.tensors().chain(self.head.tensors());
        let blocks = self.blocks.iter().flat_map(InvertedResidual::tensors);
        ends.chain(blocks).collect()
    }

    /// Whether somebody else may change the weights.
    pub(crate) fn is_variable(&self) -> bool {
        self.stem.weight().is_variable()
    }
}

impl ModuleT for EfficientNet3d {
    fn forward_t(&self, xs: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        Ok(self.forward_t(xs, train)?)
    }
}
