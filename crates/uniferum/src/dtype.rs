//! `--dtype`: the number format of a computation.

use candle_core::DType;
use uniferum_encoder::Precision;

/// Number formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dtype {
    /// Single precision
    F32,
    /// bfloat16
    Bf16,
}

impl Dtype {
    /// The name as the line of a benchmark has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// The type of the volumes, which decides that of the encoder's activations on a GPU.
    pub(crate) fn of_volumes(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl From<Dtype> for Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Precision::F32,
            Dtype::Bf16 => Precision::Bf16,
        }
    }
}
