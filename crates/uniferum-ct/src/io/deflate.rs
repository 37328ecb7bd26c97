//! Bounded one-shot decompression of raw deflate and zlib streams whose size is known.

use std::path::Path;

use super::gzip::check_claim;
use crate::error::{Error, Result};

/// How a stream is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrapper {
    /// Nothing: zip archives.
    Raw,
    /// zlib, with its Adler-32 checked: `.zraw`.
    Zlib,
}

/// Decompresses exactly `size` bytes; nothing is allocated where so few bytes cannot hold so many.
pub(crate) fn inflate(
    path: &Path,
    compressed: &[u8],
    size: u64,
    wrapper: Wrapper,
) -> Result<Vec<u8>> {
    let damaged = |what: String| Error::corrupt(path, what);
    check_claim(path, size, compressed.len() as u64)?;
    let mut out = vec![0; size as usize];
    let mut decompressor = libdeflater::Decompressor::new();
    let written = match wrapper {
        Wrapper::Raw => decompressor.deflate_decompress(compressed, &mut out),
        Wrapper::Zlib => decompressor.zlib_decompress(compressed, &mut out),
    };
    match written {
        Ok(n) if n == out.len() => Ok(out),
        Ok(n) => Err(damaged(format!(
            "{size} bytes are claimed, {n} were compressed"
        ))),
        Err(error) => Err(damaged(format!("deflate: {error}"))),
    }
}
