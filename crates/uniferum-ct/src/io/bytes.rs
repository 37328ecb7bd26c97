//! Files into memory: regular files only, and only as much as is asked for.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Refuses what is no regular file before anything waits for its content.
pub(crate) fn check_regular(path: &Path) -> Result<()> {
    open(path).map(|_| ())
}

/// The whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let (mut file, length) = open(path)?;
    let mut out = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.read_to_end(&mut out)
        .map_err(|source| Error::io(path, source))?;
    Ok(out)
}

/// At most the first `limit` bytes, and the size of the whole.
pub(crate) fn read_start(path: &Path, limit: u64) -> Result<(Vec<u8>, u64)> {
    let (file, length) = open(path)?;
    let mut out = Vec::with_capacity(length.min(limit) as usize);
    file.take(limit)
        .read_to_end(&mut out)
        .map_err(|source| Error::io(path, source))?;
    Ok((out, length))
}

/// The file, to be read in large pieces, and its size.
pub(crate) fn open_buffered(path: &Path) -> Result<(BufReader<File>, u64)> {
    const PIECE: usize = 1 << 18;
    let (file, length) = open(path)?;
    Ok((BufReader::with_capacity(PIECE, file), length))
}

/// A pipe or a device has no size, and may have no end.
fn open(path: &Path) -> Result<(File, u64)> {
    let meta = std::fs::metadata(path).map_err(|source| Error::io(path, source))?;
    if !meta.is_file() {
        return Err(Error::unsupported(path, "not a regular file"));
    }
    let file = File::open(path).map_err(|source| Error::io(path, source))?;
    Ok((file, meta.len()))
}
