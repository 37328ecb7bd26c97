//! The network with its weights packed for inference on the CPU.

mod cache;
mod fold;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use uniferum_kernels::infer::{Arena, Network};
use uniferum_kernels::simd::Simd;

pub use uniferum_kernels::infer::Precision;

pub(crate) use cache::InferenceCache;

use crate::config::EncoderConfig;
use crate::efficientnet::EfficientNet3d;
use crate::error::{Error, Result};

/// An [`EfficientNet3d`] frozen for inference on the CPU: several times faster, and with a
/// fraction of the memory, of running it operation by operation.
///
/// Batch normalisation is folded into the convolutions, weights are packed for the
/// processor's vector instructions, and the wide activations inside the blocks never leave
/// the cache; see [`uniferum_kernels::infer`]. It is a copy: later changes of the network's
/// weights do not reach it. Working memory is kept between calls and reused.
///
/// [`EfficientNet3d::forward_t`] uses one by itself whenever it evaluates on the CPU. Build
/// your own to choose [`Precision::Bf16`] for one copy only, or to share one among threads.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::VarMap;
/// use uniferum_encoder::{EfficientNet3d, EncoderConfig, InferenceEncoder, Precision};
/// # fn main() -> uniferum_encoder::Result<()> {
/// let vars = VarMap::new();
/// let vb = uniferum_encoder::seeded_var_builder(&vars, 42, DType::F32, &Device::Cpu);
/// let net = EfficientNet3d::new(&EncoderConfig::default(), vb)?;
/// let fast = InferenceEncoder::new(&net, Precision::Bf16)?;
/// let volume = Tensor::zeros((1, 1, 64, 32, 48), DType::F32, &Device::Cpu)?;
/// assert_eq!(fast.features(&volume)?.dims(), [1, 1280, 2, 1, 2]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct InferenceEncoder {
    cfg: EncoderConfig,
    network: Network,
    /// One for each call that runs at the same time.
    arenas: Mutex<Vec<Arena>>,
}

impl InferenceEncoder {
    /// Folds and packs the network's present weights.
    ///
    /// # Errors
    /// When the weights are not `f32` in the host's memory.
    pub fn new(net: &EfficientNet3d, precision: Precision) -> Result<Self> {
        Self::with_simd(net, precision, Simd::detect())
    }

    /// As [`new`](Self::new), for a given instruction set if the processor has it.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_simd(net: &EfficientNet3d, precision: Precision, simd: Simd) -> Result<Self> {
        let (stem, blocks, head) = fold::network(net)?;
        let network = Network::with_simd(&stem, &blocks, &head, precision, simd)
            .map_err(candle_core::Error::from)?;
        Ok(Self {
            cfg: net.config().clone(),
            network,
            arenas: Mutex::default(),
        })
    }

    /// The configuration of the network.
    pub fn config(&self) -> &EncoderConfig {
        &self.cfg
    }

    /// The format of weights and activations.
    pub fn precision(&self) -> Precision {
        self.network.precision()
    }

    /// The instruction set in use.
    pub fn simd(&self) -> Simd {
        self.network.simd()
    }

    /// The feature maps of a batch of volumes, outside the autograd graph.
    ///
    /// # Shapes
    /// As [`EfficientNet3d::forward_t`].
    ///
    /// # Errors
    /// [`Error::Input`] for a tensor that is not such a batch of `f32` on the CPU.
    pub fn features(&self, x: &Tensor) -> Result<Tensor> {
        let sides = self.check(x)?;
        let batch = x.dims()[0];
        let x = x.contiguous()?;
        let (storage, layout) = x.storage_and_layout();
        let Storage::Cpu(CpuStorage::F32(data)) = &*storage else {
            return Err(self.unexpected(&x));
        };
        let images = &data[layout.start_offset()..][..x.elem_count()];
        let [d, h, w] = self.cfg.grid(sides);
        let channels = self.cfg.out_channels();
        let mut features = vec![0.0; batch * channels * d * h * w];
        let mut arena = self.arenas().pop().unwrap_or_default();
        let pairs = images
            .chunks_exact(images.len() / batch)
            .zip(features.chunks_exact_mut(channels * d * h * w));
        for (image, features) in pairs {
            self.network
                .run(&mut arena, image, sides, features)
                .map_err(candle_core::Error::from)?;
        }
        self.arenas().push(arena);
        Ok(Tensor::from_vec(
            features,
            (batch, channels, d, h, w),
            &Device::Cpu,
        )?)
    }

    /// Bytes of working memory kept for the next calls.
    pub fn arena_bytes(&self) -> usize {
        self.arenas().iter().map(Arena::bytes).sum()
    }

    fn arenas(&self) -> MutexGuard<'_, Vec<Arena>> {
        self.arenas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, x: &Tensor) -> Result<[usize; 3]> {
        match *x.dims() {
            [_, c, d, h, w]
                if c == self.cfg.in_channels
                    && x.elem_count() > 0
                    && x.dtype() == DType::F32
                    && x.device().is_cpu() =>
            {
                Ok([d, h, w])
            }
            _ => Err(self.unexpected(x)),
        }
    }

    fn unexpected(&self, x: &Tensor) -> Error {
        let channels = self.cfg.in_channels;
        Error::Input {
            expected: format!("a batch of volumes [B, {channels}, D, H, W] of f32 on the CPU"),
            got: format!("{:?} of {:?} on {:?}", x.dims(), x.dtype(), x.device()),
        }
    }
}
