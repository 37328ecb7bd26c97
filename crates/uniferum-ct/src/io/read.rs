//! One door for every scan: the content says the format, the options say where Hounsfield units come from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cache;
use super::nifti::{self, Nifti};
use crate::error::{Error, Result};
use crate::volume::{CtVolume, Volume};

/// Where Hounsfield units come from. It is said, never guessed: scaling twice is the classic mistake.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HuSource {
    /// Slope and intercept of the file's own header.
    #[default]
    Header,
    /// Slope and intercept of a table beside the collection (CT-RATE version 1); the header's are ignored.
    Table {
        /// HU a stored unit.
        slope: f64,
        /// HU of stored 0.
        intercept: f64,
    },
    /// The stored numbers are HU, whatever the header says.
    AlreadyHu,
}

impl HuSource {
    fn scaling(self, header: Option<(f64, f64)>) -> Option<(f64, f64)> {
        match self {
            HuSource::Header => header,
            HuSource::Table { slope, intercept } => Some((slope, intercept)),
            HuSource::AlreadyHu => None,
        }
    }
}

/// How a scan is read.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// Where Hounsfield units come from.
    pub hu: HuSource,
}

/// The format that a scan was found to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Format {
    /// NIfTI-1, plain, gzip or pair.
    Nifti1,
    /// NIfTI-2.
    Nifti2,
    /// This crate's own cache of a prepared volume.
    Cache,
    /// The public release's `.bin`.
    ReleaseBin,
}

/// A CT as it was read.
#[derive(Debug)]
pub struct CtScan {
    /// The voxels in HU, in the array order of the file.
    pub volume: CtVolume,
    /// What the file was.
    pub format: Format,
    /// What a user may want to know: ignored header fields, unusual geometry.
    pub warnings: Vec<String>,
}

/// Reads a CT in Hounsfield units.
///
/// # Units
/// HU; an affine in mm, RAS+.
///
/// # Errors
/// [`Error`] with the file, the field, what was expected and what was found.
pub fn read_ct(path: impl AsRef<Path>, options: &ReadOptions) -> Result<CtScan> {
    let path = path.as_ref();
    if let Some(scan) = cache::read_ct(path, options)? {
        return Ok(scan);
    }
    let file = open_nifti(path)?;
    let mut warnings = file.header.warnings.clone();
    let scaling = options.hu.scaling(file.header.scaling);
    let voxels = file.voxels::<f32>(path, scaling)?;
    if let Some(bad) = voxels.iter().find(|v| !v.is_finite()) {
        return Err(Error::field(path, "voxels", "finite HU", bad));
    }
    let affine = file.header.affine;
    if affine.shear() > 0.01 {
        warnings.push(format!(
            "the grid is sheared (cosine {:.3} between axes), as by gantry tilt",
            affine.shear()
        ));
    }
    let format = if file.header.version == 1 {
        Format::Nifti1
    } else {
        Format::Nifti2
    };
    Ok(CtScan {
        volume: Volume::new(voxels, affine),
        format,
        warnings,
    })
}

/// Reads a label map of TotalSegmentator v2 numbers.
///
/// # Errors
/// As [`read_ct`]; also where a value is not a whole number from 0 to 255.
pub fn read_mask(path: impl AsRef<Path>) -> Result<Volume<u8>> {
    let path = path.as_ref();
    if let Some(mask) = cache::read_mask(path)? {
        return Ok(mask);
    }
    let file = open_nifti(path)?;
    let voxels = file.voxels::<u8>(path, file.header.scaling)?;
    Ok(Volume::new(voxels, file.header.affine))
}

fn open_nifti(path: &Path) -> Result<Nifti> {
    if path.is_dir() {
        return Err(Error::unsupported(
            path,
            "a folder; a NIfTI file is expected",
        ));
    }
    nifti::read_nifti(path)
}
