//! What can go wrong in training.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work; found before the first step.
    #[error("training configuration: {field}: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What would have been right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The loss is not a finite number.
    #[error("step {step}: the loss is not finite for {}", samples.join(", "))]
    NotFinite {
        /// The step.
        step: u64,
        /// The questions whose loss is not finite, `task @ scan`.
        samples: Vec<String>,
    },
    /// The gradient is not a finite number although the loss is.
    #[error("step {step}: the gradient is not finite; the step asked {}", samples.join(", "))]
    GradientNotFinite {
        /// The step.
        step: u64,
        /// The questions of the step, `task @ scan`.
        samples: Vec<String>,
    },
    /// No scan of a step of several passes could be read.
    #[error("step {step}: none of its scans could be used; the warnings before say why")]
    NoScans {
        /// The step.
        step: u64,
    },
    /// Another process could not read its scans of a step; its message names them.
    #[error("step {step}: another process could not read its scans, as its message says")]
    Elsewhere {
        /// The step.
        step: u64,
    },
    /// A step could not be taken, and the steps before it could not be saved.
    #[error("{first}; and the steps since the last checkpoint are lost: {then}")]
    Unsaved {
        /// Why the step could not be taken.
        first: Box<Error>,
        /// Why no checkpoint could be written.
        then: Box<Error>,
    },
    /// A model's answer is not a finite number.
    #[error(
        "{scan}: {task}: the model's answer is not a finite number: are the weights damaged, or the scan?"
    )]
    Answer {
        /// The scan's name.
        scan: String,
        /// The task's id.
        task: String,
    },
    /// The loader's thread ended before the run did.
    #[error("step {step}: no more batches came; the loader has ended")]
    NoBatches {
        /// The step that waited.
        step: u64,
    },
    /// Processes that train one model cannot speak to each other.
    #[error("distributed training: {0}")]
    Distributed(String),
    /// First weights are not where the configuration says.
    #[error("{field}: {what}")]
    Init {
        /// The setting.
        field: &'static str,
        /// What is missing and how it can be had.
        what: String,
    },
    /// A checkpoint or log could not be read or written, or does not belong to this run.
    #[error("{}: {what}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// A scan or table of the data.
    #[error(transparent)]
    Data(#[from] uniferum_data::Error),
    /// Settings of the input.
    #[error(transparent)]
    Input(#[from] uniferum_ct::Error),
    /// The model.
    #[error(transparent)]
    Model(#[from] uniferum_fusion::Error),
    /// Statistics.
    #[error(transparent)]
    Metrics(#[from] uniferum_metrics::Error),
    /// The image encoder.
    #[error(transparent)]
    Encoder(#[from] uniferum_encoder::Error),
    /// The questions of a saved model.
    #[error(transparent)]
    Tasks(#[from] uniferum_tasks::Error),
    /// A tensor operation.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Whether the scans of a step could not be had, so that it was not taken: the model is as it was before.
    pub(crate) fn is_of_data(&self) -> bool {
        matches!(
            self,
            Error::Data(_) | Error::NoScans { .. } | Error::Elsewhere { .. }
        )
    }

    pub(crate) fn file(path: &Path, what: impl ToString) -> Self {
        Error::File {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }

    pub(crate) fn config(field: &'static str, expected: impl ToString, got: impl ToString) -> Self {
        Error::Config {
            field,
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}
