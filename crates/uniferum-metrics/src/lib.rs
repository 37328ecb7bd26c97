#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;

mod cases;
mod curves;
mod operating;
mod partial;
mod ranked;

mod bootstrap;
mod compare;
mod delong;
mod equality;
mod interval;
mod multiple;

mod bins;
mod calibration;
mod decision;
mod recalibrate;

mod details;
mod evaluate;
mod macro_average;
mod overlap;

#[cfg(feature = "losses")]
#[cfg_attr(docsrs, doc(cfg(feature = "losses")))]
pub mod losses;
pub mod special;

pub use bins::{Binning, CalibrationBin};
pub use bootstrap::{Bootstrap, BootstrapResult};
pub use calibration::{Brier, CalibrationError, CalibrationLine, PROBABILITY_MARGIN};
pub use cases::{Cases, cluster_ids, labels_from_f64};
pub use compare::{
    AurocDifference, Comparison, ComparisonState, FEWEST_TESTED, MacroDifference, TaskComparison,
    compare_auroc, compare_tasks,
};
pub use curves::{PrPoint, RocPoint};
pub use decision::DecisionPoint;
pub use delong::{AucEstimate, covariance_matrix};
pub use details::{DetailOptions, TaskDetails, describe_task};
pub use equality::{ChiSquared, equality_test};
pub use error::{Error, Result, Undefined};
pub use evaluate::{
    EvaluateOptions, Evaluation, TaskColumn, TaskMetrics, auc_estimates, evaluate_task,
    evaluate_tasks,
};
pub use interval::{FEW_UNITS, Interval, IntervalMethod, auroc_interval};
pub use macro_average::{MacroAuroc, macro_auroc};
pub use multiple::{benjamini_hochberg, holm};
pub use operating::{ChosenThreshold, Confusion, OperatingPoint, Proportion, ThresholdRule};
pub use overlap::Overlap;
pub use partial::{PartialAuroc, RocRegion};
pub use ranked::{Ranked, auroc, average_precision};
pub use recalibrate::{Platt, Temperature};
