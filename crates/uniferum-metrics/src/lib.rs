#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;

mod cases;
mod curves;
mod delong;
mod evaluate;
mod interval;
mod ranked;

#[cfg(feature = "losses")]
#[cfg_attr(docsrs, doc(cfg(feature = "losses")))]
pub mod losses;
pub mod special;

pub use cases::{Cases, cluster_ids, labels_from_f64};
pub use curves::{PrPoint, RocPoint};
pub use delong::{AucEstimate, covariance_matrix};
pub use error::{Error, Result, Undefined};
pub use evaluate::{
    EvaluateOptions, Evaluation, MacroAuroc, TaskColumn, TaskMetrics, evaluate_task,
    evaluate_tasks, macro_auroc,
};
pub use interval::{FEW_UNITS, Interval, IntervalMethod, auroc_interval};
pub use ranked::{Ranked, auroc, average_precision};
