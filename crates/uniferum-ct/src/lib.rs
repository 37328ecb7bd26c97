#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod affine;
mod error;
mod volume;

pub use affine::Affine;
pub use error::{Error, Result};
pub use volume::{CtVolume, Volume};
