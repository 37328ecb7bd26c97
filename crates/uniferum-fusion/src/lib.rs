#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod ask;
mod bert;
pub mod checkpoint;
mod config;
mod error;
mod layers;
mod model;
pub mod pretrained;
mod prompts;
mod wordpiece;

pub use bert::Bert;
pub use config::{BertConfig, NormPlacement, UniferumConfig};
pub use error::{Error, Result};
pub use model::{Freeze, Output, Uniferum, mask_volume, trainable_vars};
pub use prompts::{PromptBatch, Prompts};
pub use uniferum_encoder::seeded_var_builder;
pub use {candle_core, candle_nn};
