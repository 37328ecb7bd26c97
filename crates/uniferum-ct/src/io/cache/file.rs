//! Writing, checking and reading a cache file.

use std::io::{Read, Write};
use std::path::Path;

use ndarray::Array3;
use sha2::{Digest, Sha256};

use super::Hash;
use super::blocks::{CacheVoxel, MOST_RATIO, compress, decompress};
use super::header::{CHECKSUM_BYTES, CacheHeader, HEADER_BYTES};
use crate::error::{Error, Result};
use crate::io::atomic::write_atomically;
use crate::volume::Volume;

/// Bytes of voxels in a block, about: small enough for the second-level cache, large enough for zstd.
const BLOCK_BYTES: usize = 1 << 20;

/// A volume out of a cache file, and what made it.
#[derive(Debug, Clone, PartialEq)]
pub struct Cached<T> {
    /// The voxels with their affine.
    pub volume: Volume<T>,
    /// Hash of the settings of the preparation.
    pub settings: Hash,
}

/// Writes a prepared volume, HU (`i16`) or labels (`u8`); the file appears whole or not at all.
///
/// `settings` says what made it: a file of other settings can then be told without reading it.
/// Returns the SHA-256 of the file, as `sha256sum` gives it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Volume`] for a volume that is empty or above 2^30 voxels.
///
/// ```
/// use ndarray::Array3;
/// use uniferum_ct::io::cache::{Hash, read_cache, write_cache};
/// use uniferum_ct::{Affine, Volume};
///
/// # let folder = tempfile::tempdir()?;
/// let path = folder.path().join("scan.uct");
/// let volume = Volume::new(Array3::from_elem((4, 3, 2), -1000i16), Affine::IDENTITY);
/// write_cache(&path, &volume, Hash::of(b"settings"))?;
/// let back = read_cache::<i16>(&path)?;
/// assert_eq!((back.volume, back.settings), (volume, Hash::of(b"settings")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_cache<T: CacheVoxel>(
    path: impl AsRef<Path>,
    volume: &Volume<T>,
    settings: Hash,
) -> Result<Hash> {
    let path = path.as_ref();
    let [x, y, z] = volume.shape();
    let plane = y * z * T::BYTES;
    let header = CacheHeader {
        shape: [x, y, z],
        affine: volume.affine,
        settings,
        voxel_code: T::CODE,
        planes: (BLOCK_BYTES / plane.max(1)).clamp(1, x.max(1)),
    };
    // What reading would refuse is not written either.
    CacheHeader::parse(path, &header.encode()).map_err(|error| {
        let expected = "1 to 2^30 voxels and an invertible affine";
        Error::volume("volume for a cache file", expected, error)
    })?;
    let voxels = volume.voxels.as_standard_layout();
    let voxels = voxels.as_slice().unwrap_or_default();
    let frames = compress(voxels, header.planes * y * z).map_err(|e| Error::io(path, e))?;
    let mut head = header.encode().to_vec();
    for frame in &frames {
        head.extend_from_slice(&(frame.len() as u32).to_le_bytes());
    }
    let mut hasher = Sha256::new();
    hasher.update(&head);
    frames.iter().for_each(|frame| hasher.update(frame));
    let checksum: [u8; CHECKSUM_BYTES] = hasher.clone().finalize().into();
    hasher.update(checksum);
    write_atomically(path, |out| {
        out.write_all(&head)?;
        frames.iter().try_for_each(|frame| out.write_all(frame))?;
        out.write_all(&checksum)
    })?;
    Ok(Hash(hasher.finalize().into()))
}

/// Reads the header of a cache file alone; its checksum is not checked.
///
/// # Errors
/// [`Error::Io`], [`Error::Field`], [`Error::Corrupt`].
pub fn peek_cache(path: impl AsRef<Path>) -> Result<CacheHeader> {
    let path = path.as_ref();
    let fail = |source| Error::io(path, source);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    file.take(HEADER_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    CacheHeader::parse(path, &bytes)
}

/// Reads a cache file of HU (`i16`) or of labels (`u8`) and checks all of it.
///
/// Memory: the file's bytes, and the voxels once every claim about them has been held against the
/// file's size and checksum.
///
/// # Errors
/// [`Error::Io`]; [`Error::Field`] for a header that cannot be right or another voxel type;
/// [`Error::Corrupt`] for a file that is cut, changed, or does not decode.
pub fn read_cache<T: CacheVoxel>(path: impl AsRef<Path>) -> Result<Cached<T>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
    decode(path, &bytes)
}

fn decode<T: CacheVoxel>(path: &Path, bytes: &[u8]) -> Result<Cached<T>> {
    let header = CacheHeader::parse(path, bytes)?;
    if header.voxel_code != T::CODE {
        let name = |code| if code == 1 { "HU" } else { "labels" };
        return Err(Error::field(
            path,
            "voxel type",
            name(T::CODE),
            name(header.voxel_code),
        ));
    }
    let frames = frames(path, &header, bytes)?;
    let [x, y, z] = header.shape;
    let block = header.planes * y * z;
    for (index, frame) in frames.iter().enumerate() {
        let claimed = (block.min(x * y * z - index * block) * T::BYTES) as u64;
        if claimed > frame.len() as u64 * MOST_RATIO {
            let what = format!("block {index}: {} bytes cannot hold {claimed}", frame.len());
            return Err(Error::corrupt(path, what));
        }
    }
    let mut voxels = Array3::from_elem((x, y, z), T::default());
    decompress(
        path,
        &frames,
        block,
        voxels.as_slice_mut().unwrap_or_default(),
    )?;
    Ok(Cached {
        volume: Volume::new(voxels, header.affine),
        settings: header.settings,
    })
}

/// The blocks of a file whose lengths and checksum are right.
fn frames<'a>(path: &Path, header: &CacheHeader, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>> {
    let cut = || {
        Error::corrupt(
            path,
            format!("the file ends early, after {} bytes", bytes.len()),
        )
    };
    let table_bytes = 4 * header.blocks();
    let table = bytes
        .get(HEADER_BYTES..HEADER_BYTES + table_bytes)
        .ok_or_else(cut)?;
    let lengths = table
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let start = HEADER_BYTES + table_bytes;
    let end = lengths.clone().fold(start, usize::saturating_add);
    let expected = end.saturating_add(CHECKSUM_BYTES);
    if bytes.len() < expected {
        return Err(cut());
    }
    if bytes.len() > expected {
        let what = format!("{} bytes after its end", bytes.len() - expected);
        return Err(Error::corrupt(path, what));
    }
    if Sha256::digest(&bytes[..end])[..] != bytes[end..] {
        return Err(Error::corrupt(
            path,
            "its checksum does not fit its content",
        ));
    }
    let mut at = start;
    Ok(lengths
        .map(|length| {
            at += length;
            &bytes[at - length..at]
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Affine;

    fn sample() -> Volume<i16> {
        let voxels = Array3::from_shape_fn((70, 61, 150), |(x, y, z)| {
            ((x * 31 + y * 17 + z * 7) % 2001) as i16 - 1000
        });
        let affine =
            Affine::from_spacing([1.0, 1.5, 2.0], [1.0, 1.0, 1.0], [-3.25, 7.5, 1e3 / 3.0]);
        Volume::new(voxels, affine)
    }

    fn written() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.uct");
        write_cache(&path, &sample(), Hash::of(b"x")).unwrap();
        std::fs::read(&path).unwrap()
    }

    fn message(bytes: &[u8]) -> String {
        decode::<i16>(Path::new("a.uct"), bytes)
            .unwrap_err()
            .to_string()
    }

    /// Puts the right checksum behind changed bytes.
    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let end = bytes.len() - CHECKSUM_BYTES;
        let checksum = Sha256::digest(&bytes[..end]);
        bytes[end..].copy_from_slice(&checksum);
        bytes
    }

    #[test]
    fn what_is_written_is_read_back_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.uct");
        let hash = write_cache(&path, &sample(), Hash::of(b"x")).unwrap();
        let back = read_cache::<i16>(&path).unwrap();
        assert_eq!(back.volume, sample());
        assert_eq!(back.settings, Hash::of(b"x"));
        let header = peek_cache(&path).unwrap();
        assert_eq!((header.shape, header.is_mask()), ([70, 61, 150], false));
        assert!(header.blocks() > 1, "the sample tests several blocks");
        assert_eq!(Hash::of_file(&path).unwrap(), hash);
        assert_eq!(Hash::of(&std::fs::read(&path).unwrap()), hash);

        let mask = Volume::new(sample().voxels.mapv(|v| (v & 63) as u8), sample().affine);
        write_cache(&path, &mask, Hash::of(b"x")).unwrap();
        assert_eq!(read_cache::<u8>(&path).unwrap().volume, mask);
        let error = read_cache::<i16>(&path).unwrap_err().to_string();
        assert!(error.contains("expected HU, got labels"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_array_in_another_order_is_stored_by_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.uct");
        let turned = Volume::new(sample().voxels.reversed_axes(), Affine::IDENTITY);
        write_cache(&path, &turned, Hash::of(b"x")).unwrap();
        assert_eq!(read_cache::<i16>(&path).unwrap().volume, turned);
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_found() {
        let good = written();
        assert!(decode::<i16>(Path::new("a.uct"), &good).is_ok());
        for length in [0, 7, 8, 100, 159, 160, 170, 1000, good.len() - 1] {
            assert!(
                message(&good[..length]).contains("a.uct: damaged file"),
                "{length}"
            );
        }
        assert!(message(&[&good[..], b"x"].concat()).contains("after its end"));
        for at in (0..good.len()).step_by(good.len() / 300) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            message(&bad);
        }
    }

    #[test]
    fn claims_are_checked_before_memory_is_taken() {
        let good = written();
        let with = |at: usize, number: u32| {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&number.to_le_bytes());
            message(&sealed(bad))
        };
        assert!(with(8, 2).contains("version: expected 1, got 2"));
        assert!(with(12, 9).contains("voxel type"));
        assert!(with(16, u32::MAX).contains("shape"));
        assert!(with(16, 0).contains("shape"));
        assert!(with(24, 1 << 18).contains("cannot hold") || with(24, 1 << 18).contains("shape"));
        assert!(with(28, 0).contains("planes a block"));
        assert!(with(24, 149).contains("block 0"));
        assert!(with(160, u32::MAX).contains("ends early"));
        let mut flat = good.clone();
        flat[32..40].copy_from_slice(&0f64.to_le_bytes());
        assert!(message(&sealed(flat)).contains("affine"));
        // 2^30 voxels in one block of a few bytes.
        let mut bomb = good.clone();
        for (at, n) in [(16, 1u32), (20, 1 << 15), (24, 1 << 15), (28, 1), (160, 40)] {
            bomb[at..at + 4].copy_from_slice(&n.to_le_bytes());
        }
        bomb.truncate(164 + 40 + 32);
        assert!(message(&sealed(bomb)).contains("40 bytes cannot hold"));
    }

    #[test]
    fn an_empty_volume_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.uct");
        let empty = Volume::new(Array3::<u8>::zeros((0, 3, 4)), Affine::IDENTITY);
        assert!(matches!(
            write_cache(&path, &empty, Hash::of(b"x")),
            Err(Error::Volume { .. })
        ));
        assert!(!path.exists());
    }
}
