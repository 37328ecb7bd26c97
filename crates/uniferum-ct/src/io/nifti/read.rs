//! From a file to voxels in C order, converted and scaled in one parallel pass.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use ndarray::Array3;

use super::header::{self, Extension, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::io::voxels::{FromStored, Grid, Order, too_short};
use crate::io::{bytes, gzip};

/// A NIfTI file: its checked header, its extensions and where its voxels are.
#[derive(Debug)]
pub struct Nifti {
    /// The checked header.
    pub header: Header,
    /// Extensions in file order.
    pub extensions: Vec<Extension>,
    source: Source,
}

/// Where stored voxels are.
#[derive(Debug)]
enum Source {
    /// In memory, from this byte on.
    Plain { bytes: Vec<u8>, start: usize },
    /// In a compressed file, from this byte of its content on.
    Gzip { file: PathBuf, start: u64 },
}

/// Bytes that may follow the voxels in a compressed file.
const TAIL: u64 = 1 << 20;

/// Reads header and extensions of a `.nii`, `.nii.gz`, or `.hdr` with its `.img`.
///
/// Compression is recognised by content; a compressed file is inflated by [`Nifti::voxels`] while they are
/// converted. Memory is taken only after the header's claims have been held against the size of the file:
/// at most what voxels need that so many bytes can hold (which deflate bounds at 1032 times the file).
///
/// # Errors
/// [`Error::Io`], [`Error::Field`], [`Error::Corrupt`], [`Error::Unsupported`].
pub fn read_nifti(path: &Path) -> Result<Nifti> {
    let head = start_of(path, HEADER_BYTES as u64)?;
    let mut header = header::parse(path, &head)?;
    if header::is_pair(&head) {
        // The rest of the header file may hold extensions; it has no business to be large.
        let whole = start_of(path, HEADER_BYTES as u64 + TAIL)?;
        let extensions = header::extensions(&whole, &mut header);
        let source = Source::of(&image_of_pair(path)?, &header)?;
        return Ok(Nifti {
            header,
            extensions,
            source,
        });
    }
    let source = Source::of(path, &header)?;
    let extensions = match &source {
        Source::Plain { bytes, .. } => header::extensions(bytes, &mut header),
        Source::Gzip { start, .. } => header::extensions(&start_of(path, *start)?, &mut header),
    };
    Ok(Nifti {
        header,
        extensions,
        source,
    })
}

/// At most the first `length` plain bytes of a file.
fn start_of(path: &Path, length: u64) -> Result<Vec<u8>> {
    let (mut file, _) = bytes::open_buffered(path)?;
    if is_compressed(path, &mut file)? {
        return gzip::peek(path, file, length);
    }
    Ok(bytes::read_start(path, length)?.0)
}

fn is_compressed(path: &Path, file: &mut impl BufRead) -> Result<bool> {
    let start = file.fill_buf().map_err(|source| Error::io(path, source))?;
    Ok(gzip::is_gzip(start))
}

impl Source {
    /// The file with the voxels, if so many bytes can hold them.
    fn of(path: &Path, header: &Header) -> Result<Self> {
        let voxels = grid(header).bytes(path, "dim")?;
        let needed = voxels.saturating_add(header.vox_offset);
        let (mut file, length) = bytes::open_buffered(path)?;
        let compressed = is_compressed(path, &mut file)?;
        if compressed {
            gzip::check_claim(path, needed, length)?;
        } else if needed > length {
            return Err(too_short(path, needed, length));
        }
        Ok(if compressed {
            Source::Gzip {
                file: path.to_owned(),
                start: header.vox_offset,
            }
        } else {
            Source::Plain {
                bytes: bytes::read(path)?,
                start: header.vox_offset as usize,
            }
        })
    }
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
    /// [`Error::Field`] where a stored value does not fit into `T`; [`Error::Corrupt`] where the file is
    /// damaged or too short, [`Error::Io`] where a compressed file cannot be opened any more.
    pub fn voxels<T: FromStored>(
        &self,
        path: &Path,
        scaling: Option<(f64, f64)>,
    ) -> Result<Array3<T>> {
        let grid = grid(&self.header);
        match &self.source {
            Source::Plain { bytes, start } => {
                grid.read(path, bytes.get(*start..).unwrap_or_default(), scaling)
            }
            Source::Gzip { file, start } => {
                let mut stream = gzip::stream(bytes::open_buffered(file)?.0);
                gzip::skip(file, &mut stream, *start)?;
                let damaged = |error| gzip::damaged(file, &error);
                let voxels = grid.read_stream(file, &mut stream, scaling, damaged)?;
                gzip::finish(file, &mut stream, TAIL)?;
                Ok(voxels)
            }
        }
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
