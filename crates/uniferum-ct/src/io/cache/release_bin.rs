//! The public release's `.bin`: `ZST0` (zstd) or `RAW0`, three `u32` sizes, then `i16` HU in C order.
//!
//! It says nothing of where its voxels lie: axes are RAS by the release's convention and 1 mm.

use std::io::Write;
use std::path::Path;

use ndarray::Array3;

use super::blocks::{CacheVoxel, LEVEL, MOST_RATIO, fill};
use crate::Affine;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomically;
use crate::volume::Volume;

const HEADER_BYTES: usize = 16;
const MOST_VOXELS: u64 = 1 << 30;

/// Whether a file begins as a `.bin` does.
pub(super) fn is_release_bin(first: &[u8]) -> bool {
    first.starts_with(b"ZST0") || first.starts_with(b"RAW0")
}

/// Writes HU as the public release's tools read them, compressed or not. The affine is lost.
///
/// # Errors
/// [`Error::Io`]; [`Error::Volume`] for a side above 2^32 - 1.
pub fn write_release_bin(
    path: impl AsRef<Path>,
    volume: &Volume<i16>,
    compressed: bool,
) -> Result<()> {
    let path = path.as_ref();
    let mut head = if compressed { *b"ZST0" } else { *b"RAW0" }.to_vec();
    for side in volume.shape() {
        let side = u32::try_from(side)
            .map_err(|_| Error::volume("side of a .bin", "at most 2^32 - 1 voxels", side))?;
        head.extend_from_slice(&side.to_le_bytes());
    }
    let voxels = volume.voxels.as_standard_layout();
    let mut bytes = Vec::with_capacity(2 * voxels.len());
    i16::pack(voxels.as_slice().unwrap_or_default(), &mut bytes);
    if compressed {
        bytes = zstd::bulk::compress(&bytes, LEVEL).map_err(|e| Error::io(path, e))?;
    }
    write_atomically(path, |out| {
        out.write_all(&head)?;
        out.write_all(&bytes)
    })
}

/// Reads a `.bin`; its axes are taken as RAS, 1 mm, origin 0.
///
/// # Errors
/// [`Error::Io`]; [`Error::Field`] for a wrong magic or size; [`Error::Corrupt`] where the voxels are
/// too few, too many, or do not decode.
pub fn read_release_bin(path: impl AsRef<Path>) -> Result<Volume<i16>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    Ok(Volume::new(decode(path, &bytes)?, Affine::IDENTITY))
}

fn decode(path: &Path, bytes: &[u8]) -> Result<Array3<i16>> {
    if !is_release_bin(bytes) {
        let got = format!("{:?}", &bytes[..bytes.len().min(4)]);
        return Err(Error::field(path, "magic", "ZST0 or RAW0", got));
    }
    let Some((head, data)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(Error::corrupt(path, "the file ends in its header"));
    };
    let side = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let shape = [side(4), side(8), side(12)];
    let voxels = shape
        .iter()
        .try_fold(1u64, |n, &s| n.checked_mul(u64::from(s)));
    let Some(voxels) = voxels.filter(|n| (1..=MOST_VOXELS).contains(n)) else {
        return Err(Error::field(
            path,
            "sizes",
            "1 to 2^30 voxels",
            format!("{shape:?}"),
        ));
    };
    let needed = 2 * voxels;
    let [x, y, z] = shape.map(|n| n as usize);
    let mut out = if head.starts_with(b"RAW0") {
        if data.len() as u64 != needed {
            let what = format!(
                "{shape:?} voxels need {needed} bytes, there are {}",
                data.len()
            );
            return Err(Error::corrupt(path, what));
        }
        return Ok(voxels_of(data, (x, y, z)));
    } else if needed > data.len() as u64 * MOST_RATIO {
        let what = format!(
            "{shape:?} voxels need {needed} bytes, {} cannot hold them",
            data.len()
        );
        return Err(Error::corrupt(path, what));
    } else {
        vec![0; needed as usize]
    };
    fill(data, &mut out).map_err(|what| Error::corrupt(path, what))?;
    Ok(voxels_of(&out, (x, y, z)))
}

fn voxels_of(bytes: &[u8], shape: (usize, usize, usize)) -> Array3<i16> {
    let mut voxels = Array3::zeros(shape);
    i16::unpack(bytes, voxels.as_slice_mut().unwrap_or_default());
    voxels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Volume<i16> {
        let voxels =
            Array3::from_shape_fn((5, 4, 3), |(x, y, z)| (x * 100 + y * 10 + z) as i16 - 200);
        Volume::new(voxels, Affine::IDENTITY)
    }

    /// The layout that the release's tools expect, byte by byte.
    #[test]
    fn the_layout_is_the_release_s() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_release_bin(&path, &sample(), false).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..16], b"RAW0\x05\0\0\0\x04\0\0\0\x03\0\0\0");
        assert_eq!(bytes[16..20], [0x38, 0xff, 0x39, 0xff]); // -200, -199: z is fastest
        assert_eq!(bytes.len(), 16 + 120);
        assert_eq!(read_release_bin(&path).unwrap(), sample());
        write_release_bin(&path, &sample(), true).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..16], b"ZST0\x05\0\0\0\x04\0\0\0\x03\0\0\0");
        assert_eq!(bytes[16..20], [0x28, 0xb5, 0x2f, 0xfd]); // a zstd frame
        assert_eq!(read_release_bin(&path).unwrap(), sample());
    }

    #[test]
    fn lies_and_cuts_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let message = |bytes: &[u8]| decode(Path::new("a.bin"), bytes).unwrap_err().to_string();
        for compressed in [true, false] {
            write_release_bin(&path, &sample(), compressed).unwrap();
            let good = std::fs::read(&path).unwrap();
            for length in [0, 3, 4, 15, 16, good.len() - 1] {
                message(&good[..length]);
            }
            let mut bad = good.clone();
            bad[4] = 6;
            assert!(message(&bad).contains("bytes"), "{}", message(&bad));
            bad[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            bad[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
            assert!(message(&bad).contains("sizes"));
            bad[4..16].copy_from_slice(&[0, 0, 1, 0, 0, 4, 0, 0, 8, 0, 0, 0]);
            assert!(message(&bad).contains("need"));
        }
        assert!(message(b"XYZ0").contains("magic"));
    }
}
