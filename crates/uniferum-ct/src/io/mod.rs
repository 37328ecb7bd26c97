//! Files in and out; formats are told apart by content, never by name.

mod read;

pub mod cache;
pub mod dicom;
pub mod hu;
pub mod masks;
pub mod nifti;

pub(crate) mod atomic;
mod bytes;
mod deflate;
mod geometry;
pub(crate) mod gzip;
mod metaimage;
mod npz;
mod nrrd;
mod separated;
mod text_header;
mod voxels;

pub use atomic::replace_atomically;
pub use cache::{read_prepared, read_prepared_with};
pub use hu::{HuCheck, HuSource};
pub(crate) use masks::SUBFOLDER;
pub use masks::{Labels, Organs, read_mask, read_mask_folder, read_mask_with, read_organs};
pub use nifti::write_nifti;
pub use read::{CtScan, Format, ReadOptions, read_ct};
pub use separated::{read_separated, read_text};
