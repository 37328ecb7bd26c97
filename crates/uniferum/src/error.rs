//! What can go wrong.

/// An error of any floor of the house, or of asking a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The scan or mask.
    #[error(transparent)]
    Ct(#[from] uniferum_ct::Error),
    /// The settings of the input, or the tensor of it.
    #[error(transparent)]
    Data(#[from] uniferum_data::Error),
    /// The checkpoint, the tokenizer, or the model itself.
    #[error(transparent)]
    Model(#[from] uniferum_fusion::Error),
    /// A question.
    #[error(transparent)]
    Task(#[from] uniferum_tasks::Error),
    /// A value that cannot be used.
    #[error("{what}: expected {expected}, got {got}")]
    Input {
        /// The argument.
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
