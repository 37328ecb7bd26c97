//! Bounded gzip decompression as a stream: the caller says how much it is prepared to take.

use std::io::{self, BufRead, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use super::voxels::too_short;
use crate::error::{Error, Result};

/// Deflate cannot do better than 1032:1, so a claim beyond it is false before anything is allocated.
const MAX_RATIO: u64 = 1032;

/// Whether the bytes start a gzip member.
pub(crate) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// Refuses a claim of more bytes than so many compressed ones can hold, before memory is taken for it.
pub(crate) fn check_claim(path: &Path, claimed: u64, compressed: u64) -> Result<()> {
    let possible = compressed.saturating_mul(MAX_RATIO);
    if claimed <= possible {
        return Ok(());
    }
    Err(Error::corrupt(
        path,
        format!(
            "{claimed} bytes are claimed, {compressed} compressed bytes hold at most {possible}"
        ),
    ))
}

/// The first `length` decompressed bytes, fewer if there are not so many.
pub(crate) fn peek(path: &Path, compressed: impl BufRead, length: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    stream(compressed)
        .take(length)
        .read_to_end(&mut out)
        .map_err(|error| damaged(path, &error))?;
    Ok(out)
}

/// The content of all members as a stream, which ends with an error where a member's CRC is another, or
/// where other bytes than zeros follow the last one.
///
/// Streams are inflated by zlib-rs, about as fast as libdeflate, which wants the whole file and room for
/// the whole content first: the time to take that memory is more than what it wins.
pub(crate) fn stream<R: BufRead>(compressed: R) -> Members<R> {
    Members {
        member: Some(GzDecoder::new(compressed)),
    }
}

/// See [`stream`]. flate2's own decoder of several members takes padding for one that is damaged.
pub(crate) struct Members<R> {
    /// The member that is read; `None` where the last one is at its end.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let read = self.next(into);
        // After damage there is nothing that could be trusted.
        if matches!(&read, Err(e) if e.kind() != io::ErrorKind::Interrupted) {
            self.member = None;
        }
        read
    }
}

impl<R: BufRead> Members<R> {
    fn next(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let length = member.read(into)?;
            if length > 0 {
                return Ok(length);
            }
            let goes_on = another_follows(member.get_mut())?;
            let ended = self.member.take().filter(|_| goes_on);
            self.member = ended.map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// Whether another member starts where one has ended. If none does, only zeros may follow, as tapes and some
/// archivers fill up their last block.
fn another_follows(rest: &mut impl BufRead) -> io::Result<bool> {
    const FIRST_BYTE: u8 = 0x1f;
    if rest.fill_buf()?.first() == Some(&FIRST_BYTE) {
        return Ok(true);
    }
    loop {
        let piece = rest.fill_buf()?;
        let length = piece.len();
        if length == 0 {
            return Ok(false);
        }
        if piece.iter().any(|&byte| byte != 0) {
            let what = "what follows the last member is neither another one nor zeros";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        rest.consume(length);
    }
}

/// What an error of a [`stream`] means.
pub(crate) fn damaged(path: &Path, error: &std::io::Error) -> Error {
    Error::corrupt(path, format!("gzip: {error}"))
}

/// Passes over `n` bytes of a stream.
pub(crate) fn skip(path: &Path, stream: &mut impl Read, n: u64) -> Result<()> {
    let skipped = std::io::copy(&mut stream.take(n), &mut std::io::sink());
    match skipped.map_err(|error| damaged(path, &error))? {
        got if got == n => Ok(()),
        got => Err(too_short(path, n, got)),
    }
}

/// Reads a stream to its end, so that its CRC is checked; refuses more than `limit` further bytes.
pub(crate) fn finish(path: &Path, stream: &mut impl Read, limit: u64) -> Result<()> {
    let rest = std::io::copy(
        &mut stream.take(limit.saturating_add(1)),
        &mut std::io::sink(),
    );
    match rest.map_err(|error| damaged(path, &error))? {
        rest if rest <= limit => Ok(()),
        _ => Err(Error::field(
            path,
            "decompressed size",
            format!("at most {limit} bytes more than the header says"),
            "more",
        )),
    }
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

    /// The first `n` bytes and no more than `limit` after them.
    fn decompress(compressed: &[u8], n: u64, limit: u64) -> Result<Vec<u8>> {
        let path = Path::new("x.gz");
        let mut content = stream(compressed);
        let mut out = Vec::new();
        let read = (&mut content).take(n).read_to_end(&mut out);
        read.map_err(|error| damaged(path, &error))?;
        finish(path, &mut content, limit)?;
        Ok(out)
    }

    #[test]
    fn members_of_equal_size_are_all_read() {
        let one = gz(b"0123456789");
        assert_eq!(decompress(&one, 100, 0).unwrap(), b"0123456789");
        let two = [gz(b"0123456789"), gz(b"abcdefghij")].concat();
        assert_eq!(decompress(&two, 100, 0).unwrap(), b"0123456789abcdefghij");
        let empty = [gz(b""), gz(b""), gz(b"abc"), gz(b"")].concat();
        assert_eq!(decompress(&empty, 100, 0).unwrap(), b"abc");
    }

    #[test]
    fn only_zeros_may_follow_the_last_member() {
        let members = [gz(b"0123456789"), gz(b"abc")].concat();
        let followed = |tail: &[u8]| decompress(&[&members[..], tail].concat(), 100, 0);
        for zeros in [1, 2, 511, 100_000] {
            assert_eq!(followed(&vec![0; zeros]).unwrap(), b"0123456789abc");
        }
        let member = [&[0; 512][..], &gz(b"more")].concat();
        for tail in [&b"x"[..], b"\0\0x", b"\x1f", b"\x1f\x8b\x08", &member] {
            let error = followed(tail).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{tail:?}: {error}");
        }
        let error = followed(b"garbage").unwrap_err().to_string();
        assert!(error.contains("follows the last member"), "{error}");
    }

    #[test]
    fn damage_and_bombs_are_refused() {
        let mut bad = gz(&[7; 5000]);
        let n = bad.len();
        bad[n - 6] ^= 1; // CRC
        // Wanted bytes are whole, and still the end is looked at.
        for wanted in [10_000, 5000, 100] {
            let outcome = decompress(&bad, wanted, 10_000);
            assert!(matches!(outcome, Err(Error::Corrupt { .. })));
        }
        let cut = gz(&[7; 5000]);
        assert!(matches!(
            decompress(&cut[..cut.len() - 9], 10_000, 0),
            Err(Error::Corrupt { .. })
        ));
        let bomb = gz(&vec![0; 1 << 20]);
        assert!(matches!(
            decompress(&bomb, 1000, 100),
            Err(Error::Field { .. })
        ));
        let path = Path::new("x.gz");
        assert!(skip(path, &mut stream(&cut[..]), 5000).is_ok());
        assert!(skip(path, &mut stream(&cut[..]), 5001).is_err());
    }
}
