#![doc = include_str!("../README.md")]

/// For a tensor on a GPU, returns what the expression makes of it.
macro_rules! on_cuda {
    ($tensor:expr => $result:expr) => {
        #[cfg(feature = "cuda")]
        if $tensor.device().is_cuda() {
            return $result;
        }
        #[cfg(not(feature = "cuda"))]
        let _ = &$tensor;
    };
}

mod activation;
mod adamw;
mod attention;
mod augment;
mod batch_norm;
mod conv3d;
#[cfg(feature = "cuda")]
mod cuda;
mod depthwise;
mod device;
mod dropout;
mod error;
mod gelu;
mod gemm;
mod geometry;
mod host;
pub mod infer;
mod layer_norm;
mod linear;
mod loss;
mod mbconv;
mod memory;
#[doc(hidden)]
pub mod oracle;
mod parallel;
mod pool;
mod rng;
mod sequence;
mod silu;
pub mod simd;
mod squeeze_excite;
mod weighted;

pub use adamw::{
    AdamW, Trained, adamw_step, adamw_steps, clip_factor, move_averages, squared_norm,
};
pub use attention::{Span, attention, attention_packed};
pub use augment::{Augmenter, Noise, Patches, Resampling, Taps, TurnedResampling, Voxels};
pub use batch_norm::{
    batch_norm, batch_norm_silu, batch_norm_train, move_statistics, unbiased_variance,
};
pub use candle_core;
pub use conv3d::conv3d;
pub use depthwise::depthwise_conv3d;
pub use device::{DeviceChoice, gpu_memory};
pub use dropout::dropout;
pub use error::{Error, Result};
pub use gelu::gelu_erf;
pub use geometry::{Conv3dConfig, Padding3};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use loss::{bce_with_logits, sigmoid_focal};
pub use mbconv::{BatchStatistics, MbConv, NormedConv, SqueezeExcite, mbconv};
pub use memory::{HugePages, release_memory};
pub use pool::{adaptive_avg_pool3d, avg_pool3d, global_avg_pool3d, max_pool3d};
pub use sequence::{ConvNormSilu, Stage, sequence};
pub use silu::silu;
pub use squeeze_excite::{scale_channels, squeeze_excite};
