#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod error;
mod predictor;
pub mod report;

pub use error::{Error, Result};
pub use predictor::{Answer, Encoded, InputStage, ModelInput, Predictor};

pub use uniferum_ct as ct;
pub use uniferum_data as data;
pub use uniferum_encoder as encoder;
pub use uniferum_fusion as fusion;
pub use uniferum_kernels as kernels;
pub use uniferum_metrics as metrics;
pub use uniferum_phantom as phantom;
pub use uniferum_tasks as tasks;
pub use uniferum_train as train;
