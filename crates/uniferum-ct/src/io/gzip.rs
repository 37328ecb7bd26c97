//! Bounded gzip decompression: the caller says how much it is prepared to take.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// Deflate cannot do better than 1032:1, so a claim beyond it is false before anything is allocated.
const MAX_RATIO: u64 = 1032;

/// Whether the bytes start a gzip member.
pub(crate) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// The most that so many compressed bytes can hold.
pub(crate) fn most_possible(compressed: usize) -> u64 {
    (compressed as u64).saturating_mul(MAX_RATIO)
}

/// The first `length` decompressed bytes, fewer if there are not so many.
pub(crate) fn peek(path: &Path, compressed: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(length);
    MultiGzDecoder::new(compressed)
        .take(length as u64)
        .read_to_end(&mut out)
        .map_err(|error| Error::corrupt(path, format!("gzip: {error}")))?;
    Ok(out)
}

/// Decompresses everything and checks every member's CRC; refuses to produce more than `limit` bytes.
///
/// A single member goes through libdeflate in one shot, several members through a stream.
pub(crate) fn decompress(path: &Path, compressed: &[u8], limit: u64) -> Result<Vec<u8>> {
    let possible = most_possible(compressed.len()).min(limit);
    if let Some(size) = claimed_size(compressed)
        && size <= possible
    {
        let mut out = vec![0; size as usize];
        let written = libdeflater::Decompressor::new().gzip_decompress(compressed, &mut out);
        // libdeflate stops after the first member: another one may follow.
        if written == Ok(out.len()) && !another_member(compressed, &out) {
            return Ok(out);
        }
    }
    stream(path, compressed, limit)
}

/// The size that the last member's trailer claims, modulo 2^32.
fn claimed_size(compressed: &[u8]) -> Option<u64> {
    let trailer = compressed.last_chunk::<4>()?;
    Some(u64::from(u32::from_le_bytes(*trailer)))
}

/// Whether the file may hold more than the member that gave `produced`.
///
/// A member ends with the CRC and the length of its content: where these eight bytes first stand at the
/// end of the file, the member goes to there.
fn another_member(compressed: &[u8], produced: &[u8]) -> bool {
    let mut trailer = [0; 8];
    trailer[..4].copy_from_slice(&libdeflater::crc32(produced).to_le_bytes());
    trailer[4..].copy_from_slice(&(produced.len() as u32).to_le_bytes());
    memchr::memmem::find(compressed, &trailer) != compressed.len().checked_sub(trailer.len())
}

fn stream(path: &Path, compressed: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let read = MultiGzDecoder::new(compressed)
        .take(limit.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|error| Error::corrupt(path, format!("gzip: {error}")))?;
    if read as u64 > limit {
        return Err(Error::field(
            path,
            "decompressed size",
            format!("at most {limit} bytes, as the header says"),
            "more",
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gz(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn members_of_equal_size_are_all_read() {
        let path = Path::new("x.gz");
        let one = gz(b"0123456789");
        assert_eq!(decompress(path, &one, 100).unwrap(), b"0123456789");
        let two = [gz(b"0123456789"), gz(b"abcdefghij")].concat();
        assert_eq!(
            decompress(path, &two, 100).unwrap(),
            b"0123456789abcdefghij"
        );
        // The same content twice, and nothing twice: only the place of the trailers tells.
        let same = [gz(b"0123456789"), gz(b"0123456789")].concat();
        assert_eq!(
            decompress(path, &same, 100).unwrap(),
            b"01234567890123456789"
        );
        let empty = [gz(b""), gz(b""), gz(b"abc"), gz(b"")].concat();
        assert_eq!(decompress(path, &empty, 100).unwrap(), b"abc");
    }

    #[test]
    fn damage_and_bombs_are_refused() {
        let path = Path::new("x.gz");
        let mut bad = gz(&[7; 5000]);
        let n = bad.len();
        bad[n - 6] ^= 1; // CRC
        assert!(matches!(
            decompress(path, &bad, 10_000),
            Err(Error::Corrupt { .. })
        ));
        let cut = gz(&[7; 5000]);
        assert!(matches!(
            decompress(path, &cut[..cut.len() - 9], 10_000),
            Err(Error::Corrupt { .. })
        ));
        let bomb = gz(&vec![0; 1 << 20]);
        assert!(matches!(
            decompress(path, &bomb, 1000),
            Err(Error::Field { .. })
        ));
    }
}
