#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod affine;
pub mod batch;
mod error;
mod facts;
pub mod io;
pub mod prep;
pub mod resample;
pub mod transform;
mod volume;

pub use affine::Affine;
pub use error::{Error, Result};
pub use facts::{HuStatistics, ScanFacts};
pub use io::{
    CtScan, Format, HuCheck, HuSource, Labels, Organs, ReadOptions, read_ct, read_mask,
    read_mask_folder, read_mask_with, read_organs, read_prepared, read_prepared_with,
    replace_atomically, write_nifti,
};
pub use ndarray;
pub use prep::{
    Compat, StandardiseConfig, StandardiseReport, Standardised, standardise, standardise_with,
};
pub use transform::{Augment, AugmentDraw, ModelTransform};
pub use volume::{CtVolume, Volume};
