#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cohort;
mod config;
mod disease;
mod error;
mod finding;
mod geometry;
mod patient;
mod phantom;
mod random;
mod render;
mod scanner;
mod skeleton;
mod texture;
mod tissue;
mod viscera;

pub use cohort::{Case, Split, write_cohort};
pub use config::PhantomConfig;
pub use error::{Error, Result};
pub use finding::{Finding, Findings};
pub use phantom::{Phantom, generate};

/// The label column of the outcome: death within 6 months, drawn with a risk that depends on which
/// findings are present, not on their grade.
pub const MORTALITY_LABEL: &str = "mortality_6m";
