//! What can be wrong with a collection.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can be wrong with a collection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A table, or a row of it, does not say what it must.
    #[error("{}{}: {what}", path.display(), row.map_or(String::new(), |r| format!(", row {r}")))]
    Table {
        /// The file.
        path: PathBuf,
        /// The row, counted from 1 after the head.
        row: Option<usize>,
        /// What is wrong.
        what: String,
    },
    /// A setting that cannot work.
    #[error("{field}: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What would have been right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A scan of the collection cannot be used.
    #[error("scan {scan}: {source}")]
    Scan {
        /// The scan's file.
        scan: String,
        /// Why.
        source: uniferum_ct::Error,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn table(path: &Path, row: Option<usize>, what: impl ToString) -> Self {
        Error::Table {
            path: path.to_owned(),
            row,
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
