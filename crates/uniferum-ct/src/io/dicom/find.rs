//! The DICOM files below a folder.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::slice::{self, Slice};
use crate::error::{Error, Result};
use crate::io::bytes;

/// Folders below the given one that are entered.
const MAX_DEPTH: usize = 16;
/// Files that are looked at.
const MAX_FILES: usize = 200_000;

/// What a search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Images, sorted by path.
    pub(crate) slices: Vec<Slice>,
    /// DICOM files that cannot be read, and why.
    pub(crate) faults: Vec<Error>,
    /// Files of other formats, and DICOM files without an image.
    pub(crate) others: usize,
}

/// Reads the headers of all DICOM images in a folder and its subfolders.
pub(crate) fn below(folder: &Path) -> Result<Found> {
    headers(&files(folder)?)
}

/// The files in a folder and its subfolders, sorted, whatever they are.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    list(folder, 0, &mut files)?;
    files.sort();
    Ok(files)
}

/// Reads the headers of the DICOM images among the files.
pub(crate) fn headers(files: &[PathBuf]) -> Result<Found> {
    let read: Vec<Option<Result<Vec<Slice>>>> = files.par_iter().map(|path| header(path)).collect();
    let mut found = Found::default();
    for result in read {
        match result {
            Some(Ok(slices)) if slices.iter().all(|s| s.pixels.is_some()) => {
                found.slices.extend(slices);
            }
            Some(Err(fault)) => found.faults.push(fault),
            _ => found.others += 1,
        }
    }
    Ok(found)
}

/// `None` for what is no DICOM file.
fn header(path: &Path) -> Option<Result<Vec<Slice>>> {
    let (start, _) = bytes::read_start(path, 256).ok()?;
    slice::is_dicom(&start).then(|| slice::read_header(path))
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |source| Error::io(folder, source);
    if depth > MAX_DEPTH {
        let expected = format!("at most {MAX_DEPTH} levels of folders");
        return Err(Error::field(folder, "folder", expected, "more"));
    }
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // Links are not followed into folders: a circle would never end.
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            list(&entry.path(), depth + 1, files)?;
        } else if entry.path().is_file() {
            files.push(entry.path());
        }
        if files.len() > MAX_FILES {
            let expected = format!("at most {MAX_FILES} files");
            return Err(Error::field(folder, "folder", expected, "more"));
        }
    }
    Ok(())
}
