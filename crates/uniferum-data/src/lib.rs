#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod collate;
mod dataset;
mod error;
mod manifest;
mod passes;
mod sampler;
mod settings;
mod targets;

pub use collate::{Batch, image_tensor};
pub use dataset::{Dataset, Example, Loader};
pub use error::{Error, Result};
pub use manifest::{Manifest, Scan, Split};
pub use passes::{Cut, Pass};
pub use sampler::{Epoch, Question, SamplerConfig};
pub use settings::InputSettings;
pub use targets::{MaskGrid, mask_target};
