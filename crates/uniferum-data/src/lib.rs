#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod changes;
mod collate;
pub mod collections;
pub mod doctor;
mod error;
#[cfg(any(feature = "reports", feature = "hub"))]
mod http;
pub mod hub;
mod loader;
mod manifest;
pub mod reports;
mod sampler;
mod settings;
mod targets;

pub use changes::changes;
pub use collate::{Batch, image_tensor};
pub use error::{Error, Result};
pub use loader::{
    Batches, Cut, Dataset, Example, Listener, Loader, LoaderStatistics, Notice, OnError, Pass,
    Passes, SkippedScan, StreamOptions, check_standardised,
};
pub use manifest::{
    Label, Manifest, Problem, ProblemKind, Scan, Split, SplitBy, SplitPlan, Table, base_name,
    is_missing,
};
pub use sampler::{Epoch, Question, SamplerConfig};
pub use settings::InputSettings;
pub use targets::{MaskGrid, mask_target};
