//! What can go wrong with a scan, always with the file and the field.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong between a file and a model array.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A field of the file has a value that cannot be right.
    #[error("{}: {field}: expected {expected}, got {got}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, by its name in the format's standard.
        field: &'static str,
        /// What would have been right.
        expected: String,
        /// What stands there.
        got: String,
    },
    /// The file ends early, fails its checksum or does not decode.
    #[error("{}: damaged file: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What shows the damage.
        what: String,
    },
    /// The file is in order, but holds what this crate does not read.
    #[error("{}: not supported: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it holds.
        what: String,
    },
    /// The voxels do not fit together, or cannot be those of a chest CT.
    #[error("{what}: expected {expected}, got {got}")]
    Volume {
        /// Which property.
        what: &'static str,
        /// What would have been right.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A configuration cannot work.
    #[error("configuration: {field}: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What would have been right.
        expected: String,
        /// What was given.
        got: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn field(
        path: &Path,
        field: &'static str,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Error::Field {
            path: path.to_owned(),
            field,
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    pub(crate) fn corrupt(path: &Path, what: impl ToString) -> Self {
        Error::Corrupt {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }

    pub(crate) fn unsupported(path: &Path, what: impl ToString) -> Self {
        Error::Unsupported {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }
}
