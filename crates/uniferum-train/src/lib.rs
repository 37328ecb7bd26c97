#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod error;
mod evaluate;
mod optimizer;
mod schedule;
mod trainer;

pub use checkpoint::latest_checkpoint;
pub use config::TrainConfig;
pub use error::{Error, Result};
pub use evaluate::{EvaluationReport, MaskMetrics, Prediction, TaskReport, evaluate};
pub use optimizer::Optimizer;
pub use schedule::Schedule;
pub use trainer::{Progress, Trainer};
