//! What can go wrong while a cohort is made.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong while a cohort is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot work.
    #[error("phantom configuration: {field}: expected {expected}, got {got}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What would have been right.
        expected: &'static str,
        /// What was given.
        got: String,
    },
    /// A folder or table could not be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A volume could not be written.
    #[error(transparent)]
    Ct(#[from] uniferum_ct::Error),
}
