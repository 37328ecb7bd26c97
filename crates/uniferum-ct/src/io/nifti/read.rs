//! From bytes to voxels in C order, converted and scaled in one parallel pass.

use std::path::{Path, PathBuf};

use ndarray::Array3;

use super::header::{self, Extension, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::io::voxels::{FromStored, Grid, Order, too_short};
use crate::io::{bytes, gzip};

/// A NIfTI file: its checked header, its extensions and its raw voxel bytes.
#[derive(Debug)]
pub struct Nifti {
    /// The checked header.
    pub header: Header,
    /// Extensions in file order.
    pub extensions: Vec<Extension>,
    bytes: Vec<u8>,
    start: usize,
}

/// Reads header, extensions and stored voxels of a `.nii`, `.nii.gz`, or `.hdr` with its `.img`.
///
/// Compression is recognised by content. Memory is taken only after the header's claims have been held
/// against the size of the file: at most the decompressed size that the header needs (which deflate
/// bounds at 1032 times the file).
///
/// # Errors
/// [`Error::Io`], [`Error::Field`], [`Error::Corrupt`], [`Error::Unsupported`].
pub fn read_nifti(path: &Path) -> Result<Nifti> {
    let raw = bytes::read(path)?;
    let head = if gzip::is_gzip(&raw) {
        gzip::peek(path, &raw, HEADER_BYTES)?
    } else {
        raw[..raw.len().min(HEADER_BYTES)].to_vec()
    };
    let mut header = header::parse(path, &head)?;
    let needed = needed_bytes(path, &header)?;
    if header::is_pair(&head) {
        let whole = inflate(path, raw, HEADER_BYTES as u64)?;
        let extensions = header::extensions(&whole, &mut header);
        let image = image_of_pair(path)?;
        let bytes = inflate(&image, bytes::read(&image)?, needed)?;
        return finish(&image, header, extensions, bytes);
    }
    let bytes = inflate(path, raw, needed)?;
    let extensions = header::extensions(&bytes, &mut header);
    finish(path, header, extensions, bytes)
}

fn needed_bytes(path: &Path, header: &Header) -> Result<u64> {
    let voxels = grid(header).bytes(path, "dim")?;
    Ok(voxels.saturating_add(header.vox_offset))
}

/// The plain bytes; a compressed file may hold at most a little more than its header needs.
fn inflate(path: &Path, raw: Vec<u8>, needed: u64) -> Result<Vec<u8>> {
    if !gzip::is_gzip(&raw) {
        return Ok(raw);
    }
    let possible = gzip::most_possible(raw.len());
    if needed > possible {
        return Err(too_short(path, needed, possible));
    }
    gzip::decompress(path, &raw, needed + (1 << 20))
}

fn finish(
    path: &Path,
    header: Header,
    extensions: Vec<Extension>,
    bytes: Vec<u8>,
) -> Result<Nifti> {
    let needed = needed_bytes(path, &header)?;
    if (bytes.len() as u64) < needed {
        return Err(too_short(path, needed, bytes.len() as u64));
    }
    let start = header.vox_offset as usize;
    Ok(Nifti {
        header,
        extensions,
        bytes,
        start,
    })
}

/// The `.img` (or `.img.gz`) beside a `.hdr`.
fn image_of_pair(path: &Path) -> Result<PathBuf> {
    if let Some(found) = partner(path, [".hdr", ".HDR"], [".img", ".img.gz", ".IMG"]) {
        return Ok(found);
    }
    Err(Error::field(
        path,
        "image file",
        "an .img file of the same name beside the header",
        "none",
    ))
}

/// The header beside an `.img` file, which itself has nothing to be recognised by.
pub(crate) fn header_of_image(path: &Path) -> Option<PathBuf> {
    partner(path, [".img", ".IMG"], [".hdr", ".hdr.gz", ".HDR"])
}

fn partner(path: &Path, own: [&str; 2], other: [&str; 3]) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".gz").unwrap_or(name);
    let stem = own.into_iter().find_map(|end| stem.strip_suffix(end))?;
    other
        .into_iter()
        .map(|end| path.with_file_name(format!("{stem}{end}")))
        .find(|candidate| candidate.is_file())
}

impl Nifti {
    /// The voxels as `T`, scaled by `scaling` alone: pass the header's to follow it.
    ///
    /// # Shapes
    /// `[X, Y, Z]`, C order.
    ///
    /// # Errors
    /// [`Error::Field`] where a stored value does not fit into `T`.
    pub fn voxels<T: FromStored>(
        &self,
        path: &Path,
        scaling: Option<(f64, f64)>,
    ) -> Result<Array3<T>> {
        grid(&self.header).read(path, &self.bytes[self.start..], scaling)
    }
}

fn grid(header: &Header) -> Grid {
    Grid {
        shape: header.shape,
        data_type: header.data_type,
        big_endian: header.big_endian,
        order: Order::FirstFastest,
    }
}
