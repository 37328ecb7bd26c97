//! From the compressed bytes of one greyscale frame to its samples.

mod jpeg;
mod jpeg2000;
mod jpegls;
mod rle;

use std::path::Path;

use super::slice::Slice;
use super::syntax::Compression;
use crate::error::{Error, Result};

/// What a decoder gives back.
pub(crate) enum Samples {
    /// Plain bytes, little endian, as uncompressed pixels are stored.
    Bytes(Vec<u8>),
    /// Bit patterns of at most 16 bits, still to be read by the header's signedness.
    Patterns(Vec<u16>),
    /// Numbers with their sign.
    Numbers(Vec<i32>),
}

/// Decodes one frame.
///
/// Nothing is allocated before the stream's own size has been held against the header's; the caller has
/// held the header's against [`most_pixels`].
pub(crate) fn decode(slice: &Slice, data: &[u8]) -> Result<Samples> {
    match slice.syntax.compression {
        Compression::None => Ok(Samples::Bytes(data.to_vec())),
        Compression::Rle => rle::decode(slice, data).map(Samples::Bytes),
        Compression::Jpeg => jpeg::decode(slice, data).map(Samples::Patterns),
        Compression::JpegLs => jpegls::decode(slice, data).map(Samples::Patterns),
        Compression::Jpeg2000 => jpeg2000::decode(slice, data),
    }
}

/// Pixels that a compressed slice may have however few bytes it takes: an empty one takes a bit a row.
const FREE_PIXELS: u64 = 1 << 20;
/// Pixels that one compressed byte may stand for beyond [`FREE_PIXELS`].
const MAX_PIXELS_A_BYTE: u64 = 1024;

/// The most pixels that so many compressed bytes are trusted to hold.
pub(crate) fn most_pixels(bytes: u64) -> u64 {
    bytes.saturating_mul(MAX_PIXELS_A_BYTE).max(FREE_PIXELS)
}

/// Refuses a stream whose own size is not the header's.
fn same_size(slice: &Slice, rows: usize, columns: usize) -> Result<()> {
    if (rows, columns) == (slice.rows, slice.columns) {
        return Ok(());
    }
    let expected = format!("{} x {} as the header says", slice.rows, slice.columns);
    Err(Error::field(
        &slice.path,
        "compressed image size",
        expected,
        format!("{rows} x {columns}"),
    ))
}

/// Runs another crate's decoder: its panic on a damaged stream becomes an error of this file.
fn guarded<T>(path: &Path, name: &str, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::corrupt(path, format!("{name}: the decoder gave up"))))
}
