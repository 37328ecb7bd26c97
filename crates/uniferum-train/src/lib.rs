#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
mod run;
mod trainer;

mod baseline;
mod init;
mod learner;
mod lora;

mod ema;
mod optimizer;
mod schedule;
mod statistics;

mod checkpoint;
mod digest;
mod log;
mod memory;
mod tensorboard;

pub mod distributed;
mod error;
mod evaluate;
mod judge;
mod masks;

pub use baseline::{Baseline, BaselineConfig};
pub use checkpoint::{Best, RunState, is_run_state, latest_checkpoint};
pub use config::{Precision, TrainConfig};
pub use error::{Error, Result};
pub use evaluate::{Answer, Answers, EvaluationReport, Prediction, ask_scans, evaluate, has_auroc};
pub use init::Init;
pub use judge::{GroupReport, Intervals, TaskReport, judge};
pub use learner::{Examiner, Fusion, Learner, copy_encoder};
pub use lora::{LoraConfig, LoraTarget};
pub use masks::MaskMetrics;
pub use memory::resident_mib;
pub use optimizer::{Gradients, Optimizer};
pub use run::{ModelChoice, RunConfig, open_model};
pub use schedule::{LearningRate, PlateauState, Schedule};
pub use tensorboard::EventWriter;
pub use trainer::{Progress, Trainer};
