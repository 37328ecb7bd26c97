//! Voxels to zstd frames and back, blocks of x planes in parallel.

use std::path::Path;

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Level 1 is the quickest to write; higher ones save a few per cent on HU and read no faster.
pub(super) const LEVEL: i32 = 1;

/// The most bytes that one byte of a zstd frame can stand for: a block of 128 KiB takes 4 at least.
pub(super) const MOST_RATIO: u64 = 1 << 15;

/// A voxel type that a cache file can hold.
pub trait CacheVoxel: Copy + Default + Send + Sync + 'static {
    /// The number of the type in the header.
    #[doc(hidden)]
    const CODE: u32;
    /// Bytes a voxel.
    #[doc(hidden)]
    const BYTES: usize;
    #[doc(hidden)]
    fn pack(voxels: &[Self], out: &mut Vec<u8>);
    #[doc(hidden)]
    fn unpack(bytes: &[u8], out: &mut [Self]);
}

impl CacheVoxel for i16 {
    const CODE: u32 = 1;
    const BYTES: usize = 2;

    fn pack(voxels: &[Self], out: &mut Vec<u8>) {
        out.extend(voxels.iter().flat_map(|v| v.to_le_bytes()));
    }

    fn unpack(bytes: &[u8], out: &mut [Self]) {
        for (voxel, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
            *voxel = i16::from_le_bytes([b[0], b[1]]);
        }
    }
}

impl CacheVoxel for u8 {
    const CODE: u32 = 2;
    const BYTES: usize = 1;

    fn pack(voxels: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(voxels);
    }

    fn unpack(bytes: &[u8], out: &mut [Self]) {
        out.copy_from_slice(bytes);
    }
}

/// One frame for every `block` voxels.
pub(super) fn compress<T: CacheVoxel>(voxels: &[T], block: usize) -> std::io::Result<Vec<Vec<u8>>> {
    voxels
        .par_chunks(block)
        .map_init(Vec::new, |bytes, voxels| {
            bytes.clear();
            T::pack(voxels, bytes);
            zstd::bulk::compress(bytes, LEVEL)
        })
        .collect()
}

/// Fills `voxels` from one frame for every `block` of them.
pub(super) fn decompress<T: CacheVoxel>(
    path: &Path,
    frames: &[&[u8]],
    block: usize,
    voxels: &mut [T],
) -> Result<()> {
    voxels
        .par_chunks_mut(block)
        .zip(frames)
        .enumerate()
        .try_for_each_init(Vec::new, |bytes, (index, (voxels, frame))| {
            bytes.resize(voxels.len() * T::BYTES, 0);
            fill(frame, bytes)
                .map_err(|what| Error::corrupt(path, format!("block {index}: {what}")))?;
            T::unpack(bytes, voxels);
            Ok(())
        })
}

/// Decompresses a frame that must give exactly as many bytes as `out` has.
pub(super) fn fill(frame: &[u8], out: &mut [u8]) -> std::result::Result<(), String> {
    match zstd::bulk::decompress_to_buffer(frame, out) {
        Ok(n) if n == out.len() => Ok(()),
        Ok(n) => Err(format!("{n} bytes of {}", out.len())),
        Err(error) => Err(format!("zstd: {error}")),
    }
}
