#![doc = include_str!("../README.md")]

mod batch_norm;
mod conv3d;
mod depthwise;
mod error;
mod gemm;
mod geometry;
mod host;
#[doc(hidden)]
pub mod oracle;
mod parallel;
mod pool;
mod silu;
pub mod simd;
mod squeeze_excite;

pub use batch_norm::{batch_norm, batch_norm_train, unbiased_variance};
pub use conv3d::conv3d;
pub use depthwise::depthwise_conv3d;
pub use error::{Error, Result};
pub use geometry::{Conv3dConfig, Padding3};
pub use pool::{adaptive_avg_pool3d, avg_pool3d, global_avg_pool3d, max_pool3d};
pub use silu::silu;
pub use squeeze_excite::{scale_channels, squeeze_excite};
