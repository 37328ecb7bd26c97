//! One door for every scan: the content says the format, the options say where Hounsfield units come from.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::dicom::{self, Padding};
use super::hu::{self, HuCheck, HuSource};
use super::voxels::FromStored;
use super::{bytes, cache, gzip, metaimage, nifti, npz, nrrd};
use crate::error::{Error, Result};
use crate::volume::{CtVolume, Volume};

/// How a scan is read.
///
/// ```
/// use uniferum_ct::{HuSource, ReadOptions};
/// // CT-RATE version 1: slope and intercept stand in a table, not in the file.
/// let options = ReadOptions {
///     hu: HuSource::Table { slope: 1.0, intercept: -8192.0 },
///     ..ReadOptions::default()
/// };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReadOptions {
    /// Where Hounsfield units come from.
    pub hu: HuSource,
    /// What happens if the result cannot be Hounsfield units.
    pub hu_check: HuCheck,
    /// Which DICOM series of a folder, by [`SeriesSummary::id`](dicom::SeriesSummary::id). Without it,
    /// the only series, or the only one that can be a chest CT.
    pub series: Option<String>,
    /// What becomes of DICOM's pixels outside the field of view.
    pub padding: Padding,
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
    /// A DICOM series or slice.
    Dicom,
    /// MetaImage: `.mhd` with its data file, or `.mha`.
    MetaImage,
    /// NRRD: `.nrrd`, or `.nhdr` with its data file.
    Nrrd,
    /// A numpy array as in RAD-ChestCT.
    Npz,
}

/// A CT as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct CtScan {
    /// The voxels in HU, in the array order of the file.
    pub volume: CtVolume,
    /// What the file was.
    pub format: Format,
    /// What a user may want to know: ignored header fields, unusual geometry or grey values.
    pub warnings: Vec<String>,
}

/// What a format's reader hands over.
pub(crate) struct Decoded<T> {
    pub(crate) volume: Volume<T>,
    pub(crate) format: Format,
    pub(crate) warnings: Vec<String>,
}

/// Reads a CT in Hounsfield units: a file of any format, or a folder with a DICOM series.
///
/// # Units
/// HU; an affine in mm, RAS+.
///
/// # Errors
/// [`Error`] with the file, the field, what was expected and what was found. Grey values that can only
/// have been scaled twice or never, or lie out of range, are refused, unless `options` says otherwise. A
/// folder with several series that can be meant is refused with a list of them: name one in
/// [`ReadOptions::series`].
pub fn read_ct(path: impl AsRef<Path>, options: &ReadOptions) -> Result<CtScan> {
    let path = path.as_ref();
    options.hu.validate()?;
    if path.is_dir() {
        return finish(path, dicom::read_folder(path, options)?, options);
    }
    bytes::check_regular(path)?;
    if let Some(scan) = cache::read_ct(path, options)? {
        return Ok(scan);
    }
    let decoded = match nifti::header_of_image(path) {
        None if sniff(path)? == Kind::Dicom => dicom::read_file(path, options)?,
        _ => read_file(path, options.hu)?,
    };
    finish(path, decoded, options)
}

/// Adds what is to be said of any scan: shear and doubtful grey values.
pub(crate) fn finish(path: &Path, decoded: Decoded<f32>, options: &ReadOptions) -> Result<CtScan> {
    let Decoded {
        volume,
        format,
        mut warnings,
    } = decoded;
    // DICOM has told its tilt already, with the angle.
    if volume.affine.shear() > 0.01 && format != Format::Dicom {
        warnings.push(format!(
            "the grid is sheared (cosine {:.3} between axes), as by gantry tilt",
            volume.affine.shear()
        ));
    }
    let doubt = hu::check(&volume, options.hu, options.hu_check);
    warnings.extend(doubt.map_err(|error| at(path, error))?);
    Ok(CtScan {
        volume,
        format,
        warnings,
    })
}

/// Puts the file into an error about the volume.
fn at(path: &Path, error: Error) -> Error {
    match error {
        Error::Volume {
            what,
            expected,
            got,
        } => Error::field(path, what, expected, got),
        other => other,
    }
}

/// The formats that are told apart by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dicom,
    Nifti,
    MetaImage,
    Nrrd,
    Npz,
}

/// Enough of a file to tell its format.
const HEAD: u64 = 4096;

/// Tells the format by content.
///
/// # Errors
/// [`Error::Field`] with the first bytes where the content is none that is read.
pub(crate) fn sniff(path: &Path) -> Result<Kind> {
    let (head, _) = bytes::read_start(path, HEAD)?;
    kind(&head).ok_or_else(|| {
        let got = if head.is_empty() {
            "an empty file".to_owned()
        } else {
            format!("{:02x?}", &head[..head.len().min(8)])
        };
        let expected = "the start of a NIfTI, DICOM, MetaImage, NRRD or npz file";
        Error::field(path, "content", expected, got)
    })
}

fn kind(head: &[u8]) -> Option<Kind> {
    if nrrd::is_nrrd(head) {
        return Some(Kind::Nrrd);
    }
    if npz::is_zip(head) || npz::is_npy(head) {
        return Some(Kind::Npz);
    }
    // Only NIfTI is compressed from outside; the reader itself says what is wrong with the rest.
    if nifti::is_nifti(head) || gzip::is_gzip(head) {
        return Some(Kind::Nifti);
    }
    if metaimage::is_metaimage(head) {
        return Some(Kind::MetaImage);
    }
    // Last: without its preamble a DICOM file is recognised by little.
    dicom::is_dicom(head).then_some(Kind::Dicom)
}

/// Reads one file of any format that has the whole volume in one file or names the other.
pub(crate) fn read_file<T: FromStored>(path: &Path, hu: HuSource) -> Result<Decoded<T>> {
    // An `.img` holds bare voxels: its header beside it is what can be recognised.
    if let Some(header) = nifti::header_of_image(path) {
        return read_nifti(&header, hu);
    }
    match sniff(path)? {
        Kind::Nifti => read_nifti(path, hu),
        Kind::MetaImage => metaimage::read(path, hu),
        Kind::Nrrd => nrrd::read(path, hu),
        Kind::Npz => npz::read(path, hu),
        Kind::Dicom => Err(Error::unsupported(
            path,
            "DICOM where a label map is expected",
        )),
    }
}

fn read_nifti<T: FromStored>(path: &Path, hu: HuSource) -> Result<Decoded<T>> {
    let file = nifti::read_nifti(path)?;
    let voxels = file.voxels(path, hu.scaling(file.header.scaling))?;
    Ok(Decoded {
        volume: Volume::new(voxels, file.header.affine),
        format: if file.header.version == 1 {
            Format::Nifti1
        } else {
            Format::Nifti2
        },
        warnings: file.header.warnings,
    })
}
