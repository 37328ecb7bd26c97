/// What can go wrong while a network is built, filled with weights or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that describes no network.
    #[error("encoder configuration: {field}: expected {expected}, got {got}")]
    Config {
        /// The field of the configuration.
        field: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// An image that the network cannot take.
    #[error("encoder input: expected {expected}, got {got}")]
    Input {
        /// What would have been accepted.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// Pre-trained weights that do not fit the network.
    #[error("weights: {name}: expected {expected}, got {got}")]
    Weights {
        /// The tensor's name.
        name: String,
        /// What would have been accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A file that cannot be read, or that is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
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
            other => Self::wrap(other),
        }
    }
}
