#![doc = include_str!("../README.md")]

mod error;
mod host;
#[doc(hidden)]
pub mod oracle;
pub mod simd;

pub use error::{Error, Result};
