//! Arguments of kernels.

use candle_core::cuda_backend::cudarc::driver::{LaunchArgs, PushKernelArg};

use super::{Buf, Input, View};

/// One argument: an address or a number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg {
    Ptr(u64),
    I32(i32),
    I64(i64),
    U32(u32),
    U64(u64),
    F32(f32),
    F64(f64),
}

impl Arg {
    /// An address that the kernel tests for being there.
    pub(crate) const NULL: Self = Self::Ptr(0);

    pub(super) fn push<'a>(&'a self, builder: &mut LaunchArgs<'a>) {
        match self {
            Self::Ptr(v) | Self::U64(v) => builder.arg(v),
            Self::I32(v) => builder.arg(v),
            Self::I64(v) => builder.arg(v),
            Self::U32(v) => builder.arg(v),
            Self::F32(v) => builder.arg(v),
            Self::F64(v) => builder.arg(v),
        };
    }
}

impl From<&Input<'_>> for Arg {
    fn from(input: &Input<'_>) -> Self {
        Self::Ptr(input.at(0))
    }
}

impl From<View> for Arg {
    fn from(view: View) -> Self {
        Self::Ptr(view.at(0))
    }
}

impl From<&Buf> for Arg {
    fn from(buf: &Buf) -> Self {
        Self::Ptr(buf.at(0))
    }
}

impl<'a, T> From<Option<&'a T>> for Arg
where
    Self: From<&'a T>,
{
    fn from(array: Option<&'a T>) -> Self {
        array.map_or(Self::NULL, Self::from)
    }
}

macro_rules! from_number {
    ($($kind:ident $number:ty),*) => {
        $(impl From<$number> for Arg {
            fn from(v: $number) -> Self {
                Self::$kind(v)
            }
        })*
    };
}
from_number!(I32 i32, I64 i64, U32 u32, U64 u64, F32 f32, F64 f64);

/// A list of [`Arg`]s from arrays and numbers.
macro_rules! args {
    ($($arg:expr),* $(,)?) => {
        &[$($crate::cuda::Arg::from($arg)),*]
    };
}
pub(crate) use args;
