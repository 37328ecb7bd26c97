//! DICOM CT series: files of one slice each to one volume.
//!
//! Slices are sorted by position along their normal, never by name or number; their distance is that of
//! their positions, not their thickness. A series is split by size and orientation; localizers and other
//! modalities do not compete. Gaps, uneven steps, two images at one place and slices off the line are
//! refused; a tilted gantry gives a sheared affine and a warning. Frames of enhanced multi-frame files are
//! slices like all others.
//!
//! Patient names, identifiers and dates are read by [`identity`] alone.

mod find;
mod frames;
mod identity;
mod pixels;
mod series;
mod slice;
mod stack;
mod volume;

mod codec;
mod element;
mod syntax;

use std::path::{Path, PathBuf};

pub(crate) use find::files;
pub use identity::{Identity, identity};
pub use pixels::Padding;
pub use series::SeriesSummary;
pub(crate) use slice::is_dicom;

use super::read::{CtScan, Decoded, ReadOptions, finish};
use crate::error::Result;

/// Lists the series of a folder and its subfolders, in the order of their identifiers.
///
/// Only headers are read. Pass the `id` of one as [`ReadOptions::series`] to read it.
///
/// # Units
/// Spacings in mm.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) where a folder cannot be listed. Damaged files are left out.
pub fn find_series(folder: impl AsRef<Path>) -> Result<Vec<SeriesSummary>> {
    let folder = folder.as_ref();
    let found = find::below(folder)?;
    let groups = series::groups(found.slices);
    Ok(groups.iter().map(|g| series::summary(folder, g)).collect())
}

/// Reads a series from a list of files; which of them belong to it is told by their headers.
///
/// # Units
/// HU; an affine in mm, RAS+.
///
/// # Errors
/// As [`read_ct`](crate::read_ct).
pub fn read_files(files: &[PathBuf], options: &ReadOptions) -> Result<CtScan> {
    options.hu.validate()?;
    let folder = files
        .first()
        .and_then(|f| f.parent())
        .unwrap_or(Path::new(""));
    let decoded = read_found(folder, find::headers(files)?, options)?;
    finish(folder, decoded, options)
}

/// Whether a file can be of a CT: not where it says another modality, is a localizer or has no image. What
/// cannot be read may.
pub(crate) fn may_be_ct(file: &Path) -> bool {
    let Ok(slices) = slice::read_header(file) else {
        return true;
    };
    let is_ct = |modality: &String| modality == "CT";
    slices.iter().any(|slice| {
        slice.pixels.is_some() && !slice.localizer && slice.modality.as_ref().is_none_or(is_ct)
    })
}

/// Reads the one series of a folder, or the one that is asked for.
pub(crate) fn read_folder(folder: &Path, options: &ReadOptions) -> Result<Decoded<f32>> {
    read_found(folder, find::below(folder)?, options)
}

/// Reads one file: a volume of one slice, or of the frames of an enhanced file.
pub(crate) fn read_file(path: &Path, options: &ReadOptions) -> Result<Decoded<f32>> {
    let slices = slice::read_header(path)?;
    if let [one] = &slices[..] {
        one.check_image()?;
        let stack = stack::stack(path, slices)?;
        return volume::read(path, stack, options.hu, options.padding);
    }
    let found = find::Found {
        slices,
        ..find::Found::default()
    };
    read_found(path, found, options)
}

fn read_found(folder: &Path, found: find::Found, options: &ReadOptions) -> Result<Decoded<f32>> {
    let (group, notes) = series::choose(folder, found, options.series.as_deref())?;
    for slice in &group.slices {
        slice.check_image()?;
    }
    let stack = stack::stack(folder, group.slices)?;
    let mut decoded = volume::read(folder, stack, options.hu, options.padding)?;
    decoded.warnings.extend(notes);
    Ok(decoded)
}
