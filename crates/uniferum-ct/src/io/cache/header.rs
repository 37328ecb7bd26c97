//! The fixed part of a cache file.

use std::path::Path;

use super::Hash;
use crate::Affine;
use crate::error::{Error, Result};

/// The first bytes of a cache file.
pub(super) const MAGIC: [u8; 8] = *b"UFCT\r\n\x1a\n";
/// The only version so far.
const VERSION: u32 = 1;
/// Bytes before the table of blocks.
pub(super) const HEADER_BYTES: usize = 160;
/// Bytes of the checksum at the end.
pub(super) const CHECKSUM_BYTES: usize = 32;
/// Larger volumes are refused: 2 GiB of HU.
const MOST_VOXELS: u64 = 1 << 30;

/// What a cache file says of itself before its voxels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CacheHeader {
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Voxel indices to RAS+ mm.
    pub affine: Affine,
    /// Hash of the settings that made the volume.
    pub settings: Hash,
    /// 1 for HU, 2 for labels.
    pub(super) voxel_code: u32,
    /// Planes of constant x in a block.
    pub(super) planes: usize,
}

impl CacheHeader {
    /// Whether the file holds labels and not HU.
    pub fn is_mask(&self) -> bool {
        self.voxel_code == 2
    }

    pub(super) fn blocks(&self) -> usize {
        self.shape[0].div_ceil(self.planes)
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        let [x, y, z] = self.shape.map(|n| n as u32);
        let numbers = [VERSION, self.voxel_code, x, y, z, self.planes as u32];
        for (cell, number) in out[8..32].chunks_exact_mut(4).zip(numbers) {
            cell.copy_from_slice(&number.to_le_bytes());
        }
        let affine = self.affine.0[..3].iter().flatten();
        for (cell, number) in out[32..128].chunks_exact_mut(8).zip(affine) {
            cell.copy_from_slice(&number.to_le_bytes());
        }
        out[128..160].copy_from_slice(&self.settings.0);
        out
    }

    /// Checks every field, before anything is allocated by it.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            let what = format!("{} bytes; the header alone has {HEADER_BYTES}", bytes.len());
            return Err(Error::corrupt(path, what));
        };
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        if bytes[..8] != MAGIC {
            return Err(Error::field(
                path,
                "magic",
                "UFCT of a cache file",
                format!("{:?}", &bytes[..8]),
            ));
        }
        if number(8) != VERSION {
            return Err(Error::field(path, "version", VERSION, number(8)));
        }
        if !(1..=2).contains(&number(12)) {
            return Err(Error::field(
                path,
                "voxel type",
                "1 (HU) or 2 (labels)",
                number(12),
            ));
        }
        let shape = [number(16), number(20), number(24)];
        let voxels = shape
            .iter()
            .try_fold(1u64, |n, &s| n.checked_mul(u64::from(s)));
        if voxels.is_none_or(|n| n == 0 || n > MOST_VOXELS) {
            return Err(Error::field(
                path,
                "shape",
                "1 to 2^30 voxels",
                format!("{shape:?}"),
            ));
        }
        let planes = number(28);
        if !(1..=shape[0]).contains(&planes) {
            return Err(Error::field(
                path,
                "planes a block",
                format!("1 to {}", shape[0]),
                planes,
            ));
        }
        let mut settings = [0; 32];
        settings.copy_from_slice(&bytes[128..160]);
        Ok(Self {
            shape: shape.map(|n| n as usize),
            affine: affine(path, &bytes[32..128])?,
            settings: Hash(settings),
            voxel_code: number(12),
            planes: planes as usize,
        })
    }
}

fn affine(path: &Path, bytes: &[u8]) -> Result<Affine> {
    let mut affine = Affine::IDENTITY;
    for (index, cell) in bytes.chunks_exact(8).enumerate() {
        let mut number = [0; 8];
        number.copy_from_slice(cell);
        affine.0[index / 4][index % 4] = f64::from_le_bytes(number);
    }
    if affine.inverse().is_none() {
        return Err(Error::field(
            path,
            "affine",
            "an invertible matrix",
            format!("{:?}", affine.0),
        ));
    }
    Ok(affine)
}
