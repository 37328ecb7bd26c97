//! NIfTI-1 and NIfTI-2, single file or header/image pair, plain or gzip, either byte order.

mod header;
mod read;
mod write;

pub use header::{AffineSource, DataType, Extension, Header};
pub use read::{Nifti, NiftiVoxels, read_nifti};
pub use write::{NiftiVoxel, write_nifti};
