#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod batch_norm;
mod block;
mod config;
mod efficientnet;
mod error;
mod inference;
mod inflate;
mod init;
mod legacy;
mod vision;
mod weights;

pub use config::{Block, EncoderConfig, Variant};
pub use efficientnet::EfficientNet3d;
pub use error::{Error, Result};
pub use inference::{InferenceEncoder, Precision};
pub use inflate::{inflate_imagenet, inflate_kernel, load_pretrained};
pub use init::{is_buffer, seeded_var_builder, trainable_vars};
pub use uniferum_kernels::simd::Simd;
pub use uniferum_kernels::{DeviceChoice, release_memory};
pub use vision::VisionEncoder;
pub use weights::read_weights;
pub use {candle_core, candle_nn};
