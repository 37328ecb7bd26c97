use std::path::{Path, PathBuf};

/// What can go wrong while a model is built, loaded, saved or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that describes no model.
    #[error("model configuration: {field}: expected {expected}, got {got}")]
    Config {
        /// The field of the configuration.
        field: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// Tensors passed to the model that do not fit together.
    #[error("model input: {what}: expected {expected}, got {got}")]
    Input {
        /// The argument.
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// A checkpoint whose tensors are not the model's.
    #[error("{}: not a checkpoint of this model{}", path.display(), list(missing, unexpected, mismatched))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// Names that the model needs and the file lacks.
        missing: Vec<String>,
        /// Names in the file that the model does not know.
        unexpected: Vec<String>,
        /// Names of other shapes than the model's, with both.
        mismatched: Vec<String>,
    },
    /// A file that cannot be read or written, or that is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer that cannot serve the model.
    #[error("tokenizer: expected {expected}, got {got}")]
    Tokenizer {
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The image encoder refused its configuration or input.
    #[error(transparent)]
    Encoder(#[from] uniferum_encoder::Error),
    /// A tensor operation failed, or a weight is missing.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(inner) => inner,
            Error::Encoder(inner) => inner.into(),
            other => Self::wrap(other),
        }
    }
}

pub(crate) fn file(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::File {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}

pub(crate) fn config(
    field: &'static str,
    expected: impl std::fmt::Display,
    got: impl std::fmt::Display,
) -> Error {
    Error::Config {
        field,
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

pub(crate) fn input(
    what: &'static str,
    expected: impl std::fmt::Display,
    got: impl std::fmt::Debug,
) -> Error {
    Error::Input {
        what,
        expected: expected.to_string(),
        got: format!("{got:?}"),
    }
}

/// Names of a list that are printed before the rest is only counted.
const SHOWN: usize = 8;

fn list(missing: &[String], unexpected: &[String], mismatched: &[String]) -> String {
    let mut text = String::new();
    for (title, names) in [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", mismatched),
    ] {
        if names.is_empty() {
            continue;
        }
        let shown = names[..names.len().min(SHOWN)].join(", ");
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            rest => format!(" and {rest} more"),
        };
        text += &format!("; {} {title}: {shown}{more}", names.len());
    }
    text
}
