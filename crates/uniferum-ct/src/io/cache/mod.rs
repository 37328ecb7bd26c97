//! Prepared volumes on disk: the own cache format, and the release's `.bin`.
//!
//! A cache file holds one volume, HU as `i16` or labels as `u8`, with its affine, the hash of the
//! settings that made it, and a SHA-256 of the whole file. All numbers are little endian.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic `UFCT\r\n\x1a\n`: a transfer that touches line ends is found at once |
//! | 8..12 | version, 1 |
//! | 12..16 | voxel type: 1 for `i16` HU, 2 for `u8` labels |
//! | 16..28 | voxels along x, y, z, `u32` each |
//! | 28..32 | x planes a block, `u32` |
//! | 32..128 | the first three rows of the affine, `f64` |
//! | 128..160 | SHA-256 of the preparation's settings |
//! | 160.. | bytes of each compressed block, `u32`, one for every started `x planes a block` |
//! | then | the blocks: a zstd frame each, voxels in C order |
//! | last 32 | SHA-256 of everything before |
//!
//! Blocks are independent, so that they are packed and unpacked in parallel.

mod blocks;
mod file;
mod header;
mod release_bin;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::hu::HuSource;
use super::read::{CtScan, Format, ReadOptions};
use crate::error::{Error, Result};
use crate::volume::Volume;

pub use blocks::CacheVoxel;
pub use file::{Cached, peek_cache, read_cache, write_cache};
pub use header::CacheHeader;
pub use release_bin::{read_release_bin, write_release_bin};

/// A SHA-256, of a file or of the settings that made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Hash(Sha256::digest(bytes).into())
    }

    /// The hash of a file's content, read in pieces.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_file(path: &Path) -> Result<Self> {
        let fail = |source| Error::io(path, source);
        let mut file = std::fs::File::open(path).map_err(fail)?;
        let mut hasher = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match std::io::Read::read(&mut file, &mut piece).map_err(fail)? {
                0 => return Ok(Hash(hasher.finalize().into())),
                n => hasher.update(&piece[..n]),
            }
        }
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl std::str::FromStr for Hash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::config("hash", "64 hexadecimal digits", text);
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(refuse());
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| refuse())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| refuse())?;
        }
        Ok(Hash(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a standardised volume: a cache or `.bin` as it is stored, any other scan rounded to whole HU.
///
/// The way for training: where the file is a cache, no copy in single precision is made.
///
/// # Units
/// HU.
///
/// # Errors
/// As [`read_ct`](crate::read_ct).
pub fn read_prepared(path: impl AsRef<Path>) -> Result<Volume<i16>> {
    read_prepared_with(path, &ReadOptions::default())
}

/// As [`read_prepared`]; the options say where the Hounsfield units of other formats come from.
///
/// # Errors
/// As [`read_prepared`]; also where a table is to scale a prepared volume.
pub fn read_prepared_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Volume<i16>> {
    let path = path.as_ref();
    match prepared_format(path)? {
        Some(format) => prepared(path, format, options.hu),
        None => Ok(crate::read_ct(path, options)?.volume.whole_hu()),
    }
}

/// A prepared volume as it is stored.
fn prepared(path: &Path, format: Format, hu: HuSource) -> Result<Volume<i16>> {
    if let HuSource::Table { slope, intercept } = hu {
        return Err(Error::field(
            path,
            "source of HU",
            "the file's own numbers: a prepared volume is in HU",
            format!(
                "a table's slope {slope} and intercept {intercept}, which would scale it twice"
            ),
        ));
    }
    match format {
        Format::Cache => Ok(read_cache::<i16>(path)?.volume),
        _ => read_release_bin(path),
    }
}

/// The part of [`read_ct`](crate::read_ct) for prepared volumes; `None` where the file is none.
pub(super) fn read_ct(path: &Path, options: &ReadOptions) -> Result<Option<CtScan>> {
    let Some(format) = prepared_format(path)? else {
        return Ok(None);
    };
    let volume = prepared(path, format, options.hu)?;
    let mut warnings = Vec::new();
    if format == Format::ReleaseBin {
        warnings.push("a .bin holds no affine: RAS axes, 1 mm and origin 0 are assumed".to_owned());
    }
    Ok(Some(CtScan {
        volume: Volume::new(volume.voxels.mapv(f32::from), volume.affine),
        format,
        warnings,
    }))
}

/// The part of [`read_mask`](crate::read_mask) for cached masks; `None` where the file is none.
pub(super) fn read_mask(path: &Path) -> Result<Option<Volume<u8>>> {
    match prepared_format(path)? {
        Some(Format::Cache) => Ok(Some(read_cache::<u8>(path)?.volume)),
        Some(_) => Err(Error::unsupported(
            path,
            "a mask in .bin; the format is for HU only",
        )),
        None => Ok(None),
    }
}

/// Tells prepared volumes by their first bytes.
fn prepared_format(path: &Path) -> Result<Option<Format>> {
    if path.is_dir() {
        return Ok(None);
    }
    let fail = |source| Error::io(path, source);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut first = Vec::with_capacity(8);
    std::io::Read::read_to_end(&mut std::io::Read::take(file, 8), &mut first).map_err(fail)?;
    Ok(if first == header::MAGIC {
        Some(Format::Cache)
    } else if release_bin::is_release_bin(&first) {
        Some(Format::ReleaseBin)
    } else {
        None
    })
}
