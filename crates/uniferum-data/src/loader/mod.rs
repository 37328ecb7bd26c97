//! From standardised scans on disk to batches, ahead of the training step.

mod cache;
mod dataset;
mod device;
mod example;
mod passes;
mod queue;
mod statistics;
mod stream;

pub use dataset::Dataset;
pub(crate) use example::check_mask_grid;
pub use example::{Example, check_standardised};
pub use passes::{Cut, Pass, Passes};
pub use statistics::{LoaderStatistics, SkippedScan};
pub use stream::{Batches, Listener, Loader, Notice, OnError, StreamOptions};
