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
        /// The row as a spreadsheet shows it: the head is row 1.
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
    #[error("scan {}", source.about(Path::new(scan)))]
    Scan {
        /// The scan's file.
        scan: String,
        /// Why.
        source: uniferum_ct::Error,
    },
    /// A question was asked whose answer the scan does not have.
    #[error("scan {scan}: no label or mask for {task}: a missing label is not negative")]
    Question {
        /// The task's id.
        task: String,
        /// The scan's file.
        scan: String,
    },
    /// Preparing a scan failed in a way that should not be possible.
    #[error("scan {scan}: internal error, please report: {what}")]
    Panic {
        /// The scan's file.
        scan: String,
        /// The message.
        what: String,
    },
    /// No scan of a training step could be used.
    #[error("step {step}: none of its scans could be used; the last: {source}")]
    Step {
        /// The step, counted from 0.
        step: u64,
        /// What was wrong with the last of them.
        source: Box<Error>,
    },
    /// A task is not in the catalogue, or a file of tasks is wrong.
    #[error(transparent)]
    Tasks(#[from] uniferum_tasks::Error),
    /// A language model's server refuses for good.
    #[error("language model {model}: {what}")]
    Model {
        /// The model's name.
        model: String,
        /// What it said.
        what: String,
    },
    /// A file of a repository of the Hugging Face hub could not be had.
    #[error("{file} of {repository}: {what}")]
    Hub {
        /// The repository, `owner/name`.
        repository: String,
        /// The file.
        file: String,
        /// Why, with the address or the folder.
        what: String,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_is_named_once_and_another_file_besides() {
        let error = |scan: &str, file: &str| {
            let source = uniferum_ct::Error::Corrupt {
                path: file.into(),
                what: "it ends early".to_owned(),
            };
            let scan = scan.to_owned();
            Error::Scan { scan, source }.to_string()
        };
        assert_eq!(
            error("a.nii", "a.nii"),
            "scan a.nii: damaged file: it ends early"
        );
        assert_eq!(
            error("a.nii", "mask.nii"),
            "scan a.nii: mask.nii: damaged file: it ends early"
        );
    }
}
