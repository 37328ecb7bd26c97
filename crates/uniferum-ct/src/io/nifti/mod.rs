//! NIfTI-1 and NIfTI-2, single file or header/image pair, plain or gzip, either byte order.

mod header;
mod read;
mod write;

pub use super::voxels::{DataType, FromStored};
pub(crate) use header::is_nifti;
pub use header::{AffineSource, Extension, Header};
pub(crate) use read::header_of_image;
pub use read::{Nifti, read_nifti};
pub use write::{NiftiVoxel, write_nifti};
