//! Files in and out; formats are told apart by content, never by name.

pub(crate) mod atomic;
pub mod cache;
pub(crate) mod gzip;
pub mod nifti;
mod read;

pub use cache::read_prepared;
pub use nifti::write_nifti;
pub use read::{CtScan, Format, HuSource, ReadOptions, read_ct, read_mask};
