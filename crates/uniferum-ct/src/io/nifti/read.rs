//! From bytes to voxels in C order, converted and scaled in one parallel pass.

use std::path::{Path, PathBuf};

use ndarray::Array3;
use rayon::prelude::*;

use super::header::{self, DataType, Extension, HEADER_BYTES, Header};
use crate::error::{Error, Result};
use crate::io::gzip;

/// A NIfTI file: its checked header, its extensions and its raw voxel bytes.
#[derive(Debug)]
pub struct Nifti {
    /// The checked header.
    pub header: Header,
    /// Extensions in file order.
    pub extensions: Vec<Extension>,
    bytes: Vec<u8>,
    start: usize,
}

/// Reads header, extensions and stored voxels of a `.nii`, `.nii.gz`, or `.hdr` with its `.img`.
///
/// Compression is recognised by content. Memory is taken only after the header's claims have been held
/// against the size of the file: at most the decompressed size that the header needs (which deflate
/// bounds at 1032 times the file).
///
/// # Errors
/// [`Error::Io`], [`Error::Field`], [`Error::Corrupt`], [`Error::Unsupported`].
pub fn read_nifti(path: &Path) -> Result<Nifti> {
    let raw = read(path)?;
    let head = if gzip::is_gzip(&raw) {
        gzip::peek(path, &raw, HEADER_BYTES)?
    } else {
        raw[..raw.len().min(HEADER_BYTES)].to_vec()
    };
    let mut header = header::parse(path, &head)?;
    let needed = needed_bytes(path, &header)?;
    if header::is_pair(&head) {
        let extensions = header::extensions(&raw, &mut header);
        let image = image_of_pair(path)?;
        let bytes = inflate(&image, read(&image)?, needed)?;
        return finish(&image, header, extensions, bytes);
    }
    let bytes = inflate(path, raw, needed)?;
    let extensions = header::extensions(&bytes, &mut header);
    finish(path, header, extensions, bytes)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::io(path, source))
}

fn needed_bytes(path: &Path, header: &Header) -> Result<u64> {
    let [x, y, z] = header.shape.map(|n| n as u64);
    x.checked_mul(y)
        .and_then(|n| n.checked_mul(z))
        .and_then(|n| n.checked_mul(header.data_type.size() as u64))
        .and_then(|n| n.checked_add(header.vox_offset))
        .filter(|&n| n < 1 << 40)
        .ok_or_else(|| {
            Error::field(
                path,
                "dim",
                "a volume below 1 TiB",
                format!("{:?}", header.shape),
            )
        })
}

/// The plain bytes; a compressed file may hold at most a little more than its header needs.
fn inflate(path: &Path, raw: Vec<u8>, needed: u64) -> Result<Vec<u8>> {
    if !gzip::is_gzip(&raw) {
        return Ok(raw);
    }
    let possible = (raw.len() as u64).saturating_mul(1032);
    if needed > possible {
        return Err(truncated(path, needed, possible));
    }
    gzip::decompress(path, &raw, needed + (1 << 20))
}

fn truncated(path: &Path, needed: u64, got: u64) -> Error {
    Error::corrupt(
        path,
        format!("the header needs {needed} bytes, the file has at most {got}"),
    )
}

fn finish(
    path: &Path,
    header: Header,
    extensions: Vec<Extension>,
    bytes: Vec<u8>,
) -> Result<Nifti> {
    let needed = needed_bytes(path, &header)?;
    if (bytes.len() as u64) < needed {
        return Err(truncated(path, needed, bytes.len() as u64));
    }
    let start = header.vox_offset as usize;
    Ok(Nifti {
        header,
        extensions,
        bytes,
        start,
    })
}

/// The `.img` (or `.img.gz`) beside a `.hdr`.
fn image_of_pair(path: &Path) -> Result<PathBuf> {
    let stem = path.to_string_lossy();
    let stem = stem.strip_suffix(".gz").unwrap_or(&stem);
    let stem = stem
        .strip_suffix(".hdr")
        .or_else(|| stem.strip_suffix(".HDR"))
        .unwrap_or(stem);
    for end in [".img", ".img.gz", ".IMG"] {
        let candidate = PathBuf::from(format!("{stem}{end}"));
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    Err(Error::field(
        path,
        "image file",
        format!("{stem}.img beside the header"),
        "none",
    ))
}

/// A type that stored voxels are turned into.
pub trait NiftiVoxels: Copy + Default + Send + Sync {
    /// Scales one stored value; `None` where it does not fit.
    fn convert(stored: f64, scaling: Option<(f64, f64)>) -> Option<Self>;
}

impl NiftiVoxels for f32 {
    fn convert(stored: f64, scaling: Option<(f64, f64)>) -> Option<Self> {
        Some(scaling.map_or(stored, |(slope, intercept)| stored * slope + intercept) as f32)
    }
}

impl NiftiVoxels for u8 {
    fn convert(stored: f64, scaling: Option<(f64, f64)>) -> Option<Self> {
        let value = scaling.map_or(stored, |(slope, intercept)| stored * slope + intercept);
        (value.fract() == 0.0 && (0.0..=255.0).contains(&value)).then_some(value as u8)
    }
}

impl Nifti {
    /// The voxels as `T`, scaled by the header unless `scaling` says otherwise.
    ///
    /// # Shapes
    /// `[X, Y, Z]`, C order.
    ///
    /// # Errors
    /// [`Error::Field`] where a stored value does not fit into `T`.
    pub fn voxels<T: NiftiVoxels>(
        &self,
        path: &Path,
        scaling: Option<(f64, f64)>,
    ) -> Result<Array3<T>> {
        let identity = scaling.is_none_or(|s| s == (1.0, 0.0));
        let scaling = if identity { None } else { scaling };
        let data = &self.bytes[self.start..];
        macro_rules! each {
            ($t:ty) => {
                if self.header.big_endian {
                    self.transpose(data, |b| <$t>::from_be_bytes(b) as f64, scaling)
                } else {
                    self.transpose(data, |b| <$t>::from_le_bytes(b) as f64, scaling)
                }
            };
        }
        let voxels = match self.header.data_type {
            DataType::U8 => each!(u8),
            DataType::I8 => each!(i8),
            DataType::U16 => each!(u16),
            DataType::I16 => each!(i16),
            DataType::U32 => each!(u32),
            DataType::I32 => each!(i32),
            DataType::U64 => each!(u64),
            DataType::I64 => each!(i64),
            DataType::F32 => each!(f32),
            DataType::F64 => each!(f64),
        };
        voxels.ok_or_else(|| {
            Error::field(
                path,
                "voxels",
                "whole numbers from 0 to 255 (a label map)",
                "other values",
            )
        })
    }

    /// From x-fastest bytes to z-fastest values. Each task owns a band of x: it reads whole cache lines
    /// and writes a few sequential streams.
    fn transpose<T: NiftiVoxels, const N: usize>(
        &self,
        data: &[u8],
        decode: impl Fn([u8; N]) -> f64 + Sync,
        scaling: Option<(f64, f64)>,
    ) -> Option<Array3<T>> {
        const BAND: usize = 32;
        let [nx, ny, nz] = self.header.shape;
        let mut out = vec![T::default(); nx * ny * nz];
        let plane = ny * nz;
        let fits = out
            .par_chunks_mut(BAND * plane)
            .enumerate()
            .all(|(band, target)| {
                let x0 = band * BAND;
                let width = target.len() / plane;
                let mut fits = true;
                for y in 0..ny {
                    for z in 0..nz {
                        let at = N * (x0 + nx * (y + ny * z));
                        let run = &data[at..at + N * width];
                        for (x, bytes) in run.chunks_exact(N).enumerate() {
                            let mut stored = [0; N];
                            stored.copy_from_slice(bytes);
                            match T::convert(decode(stored), scaling) {
                                Some(value) => target[x * plane + y * nz + z] = value,
                                None => fits = false,
                            }
                        }
                    }
                }
                fits
            });
        fits.then(|| Array3::from_shape_vec((nx, ny, nz), out).ok())
            .flatten()
    }
}
