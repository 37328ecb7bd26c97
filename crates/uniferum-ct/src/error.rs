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
    /// The file that the message begins with, if it begins with one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Io { path, .. }
            | Error::Field { path, .. }
            | Error::Corrupt { path, .. }
            | Error::Unsupported { path, .. } => Some(path),
            Error::Volume { .. } | Error::Config { .. } => None,
        }
    }

    /// The message, after the name of the scan that was worked on, which it names once: what begins with
    /// the scan, or with a file in its folder, needs no name before it.
    ///
    /// ```
    /// use std::path::Path;
    /// let error = uniferum_ct::read_ct("no.nii", &Default::default()).unwrap_err();
    /// assert_eq!(error.about(Path::new("no.nii")), error.to_string());
    /// assert!(error.to_string().starts_with("no.nii: "));
    /// assert_eq!(error.about(Path::new("a.nii")), format!("a.nii: {error}"));
    /// ```
    pub fn about(&self, scan: &Path) -> String {
        if self.path().is_some_and(|path| path.starts_with(scan)) {
            self.to_string()
        } else {
            format!("{}: {self}", scan.display())
        }
    }

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

    pub(crate) fn volume(what: &'static str, expected: impl ToString, got: impl ToString) -> Self {
        Error::Volume {
            what,
            expected: expected.to_string(),
            got: got.to_string(),
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
