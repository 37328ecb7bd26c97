use candle_core::Tensor;

/// What can be wrong with the arguments of an operation.
///
/// The operations themselves return [`candle_core::Result`], so that they chain with
/// candle's own; an [`Error`] travels inside as [`candle_core::Error::Wrapped`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A shape, size or option that the operation cannot work with.
    #[error("{op}: {what}: expected {expected}, got {got}")]
    Invalid {
        /// The operation.
        op: &'static str,
        /// The argument or property.
        what: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was passed.
        got: String,
    },
    /// An element type without a kernel on this device.
    #[error("{op}: no kernel for {dtype:?} on {device}; convert with `to_dtype`")]
    DType {
        /// The operation.
        op: &'static str,
        /// The element type passed.
        dtype: candle_core::DType,
        /// The kind of device.
        device: &'static str,
    },
    /// A device that was asked for and cannot be used.
    #[error("device {device}: {reason}")]
    NoDevice {
        /// As it was asked for.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
}

/// The result of this crate's own checks.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        Self::wrap(error)
    }
}

/// Builds an [`Error::Invalid`].
pub(crate) fn invalid(
    op: &'static str,
    what: &'static str,
    expected: impl std::fmt::Display,
    got: impl std::fmt::Display,
) -> Error {
    Error::Invalid {
        op,
        what,
        expected: expected.to_string(),
        got: got.to_string(),
    }
}

/// Refuses a tensor of another shape.
pub(crate) fn check_shape(
    op: &'static str,
    what: &'static str,
    tensor: &Tensor,
    shape: &[usize],
) -> Result<()> {
    if tensor.dims() == shape {
        return Ok(());
    }
    let (expected, got) = (format!("shape {shape:?}"), format!("{:?}", tensor.dims()));
    Err(invalid(op, what, expected, got))
}
