//! From stored bytes, x fastest, to voxels in C order: converted and scaled in one parallel pass.

use std::path::Path;

use ndarray::Array3;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Types of stored voxels that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DataType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl DataType {
    /// Bytes a voxel.
    pub fn size(self) -> usize {
        match self {
            DataType::U8 | DataType::I8 => 1,
            DataType::U16 | DataType::I16 => 2,
            DataType::U32 | DataType::I32 | DataType::F32 => 4,
            DataType::U64 | DataType::I64 | DataType::F64 => 8,
        }
    }
}

/// A type that stored voxels are turned into: `f32` for HU, `u8` for labels.
pub trait FromStored: Copy + Default + Send + Sync {
    /// What the values must be, for the error message.
    const EXPECTED: &'static str;

    /// Scales one stored value; `None` where it does not fit.
    fn convert(stored: f64, scaling: Option<(f64, f64)>) -> Option<Self>;
}

impl FromStored for f32 {
    const EXPECTED: &'static str = "finite HU";

    #[inline(always)]
    fn convert(stored: f64, scaling: Option<(f64, f64)>) -> Option<Self> {
        let value = scaling.map_or(stored, |(slope, intercept)| stored * slope + intercept) as f32;
        value.is_finite().then_some(value)
    }
}

impl FromStored for u8 {
    const EXPECTED: &'static str = "whole numbers from 0 to 255 (a label map)";

    #[inline(always)]
    fn convert(stored: f64, scaling: Option<(f64, f64)>) -> Option<Self> {
        let value = scaling.map_or(stored, |(slope, intercept)| stored * slope + intercept);
        // The conversion saturates, so that only whole numbers from 0 to 255 come back the same.
        let label = value as u8;
        (f64::from(label) == value).then_some(label)
    }
}

/// The order of a grid's values in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first axis is contiguous, as in NIfTI, NRRD and MetaImage.
    FirstFastest,
    /// The last axis is contiguous, as in numpy's C order.
    LastFastest,
}

/// Stored voxels and how to read them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) shape: [usize; 3],
    pub(crate) data_type: DataType,
    pub(crate) big_endian: bool,
    pub(crate) order: Order,
}

impl Grid {
    /// Bytes of all voxels; an error where no machine could hold them.
    pub(crate) fn bytes(&self, path: &Path, field: &'static str) -> Result<u64> {
        let [x, y, z] = self.shape.map(|n| n as u64);
        x.checked_mul(y)
            .and_then(|n| n.checked_mul(z))
            .and_then(|n| n.checked_mul(self.data_type.size() as u64))
            .filter(|&n| n > 0 && n < 1 << 40)
            .ok_or_else(|| {
                let got = format!("{:?}", self.shape);
                Error::field(path, field, "a volume of 1 byte to 1 TiB", got)
            })
    }

    /// The voxels as `T`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where `data` is too short, [`Error::Field`] where a value does not fit.
    pub(crate) fn read<T: FromStored>(
        &self,
        path: &Path,
        data: &[u8],
        scaling: Option<(f64, f64)>,
    ) -> Result<Array3<T>> {
        let needed = self.bytes(path, "shape")?;
        if (data.len() as u64) < needed {
            return Err(too_short(path, needed, data.len() as u64));
        }
        let scaling = scaling.filter(|&s| s != (1.0, 0.0));
        macro_rules! each {
            ($t:ty) => {
                if self.big_endian {
                    self.spread(data, |b| <$t>::from_be_bytes(b) as f64, scaling)
                } else {
                    self.spread(data, |b| <$t>::from_le_bytes(b) as f64, scaling)
                }
            };
        }
        let voxels = match self.data_type {
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
        voxels.ok_or_else(|| Error::field(path, "voxels", T::EXPECTED, "other values"))
    }

    fn spread<T: FromStored, const N: usize>(
        &self,
        data: &[u8],
        decode: impl Fn([u8; N]) -> f64 + Sync,
        scaling: Option<(f64, f64)>,
    ) -> Option<Array3<T>> {
        let stored = |bytes: &[u8]| {
            let mut stored = [0; N];
            stored.copy_from_slice(bytes);
            decode(stored)
        };
        let [nx, ny, nz] = self.shape;
        let mut out = vec![T::default(); nx * ny * nz];
        // One loop for unscaled and one for scaled values, so that neither asks which it is.
        let fits = match scaling {
            None => self.fill::<T, N>(&mut out, data, |b| T::convert(stored(b), None)),
            Some(s) => self.fill::<T, N>(&mut out, data, |b| T::convert(stored(b), Some(s))),
        };
        fits.then(|| Array3::from_shape_vec((nx, ny, nz), out).ok())
            .flatten()
    }

    fn fill<T: FromStored, const N: usize>(
        &self,
        out: &mut [T],
        data: &[u8],
        convert: impl Fn(&[u8]) -> Option<T> + Sync,
    ) -> bool {
        match self.order {
            Order::FirstFastest => transpose::<T, N>(out, self.shape, data, convert),
            Order::LastFastest => copy::<T, N>(out, data, convert),
        }
    }
}

pub(crate) fn too_short(path: &Path, needed: u64, got: u64) -> Error {
    let what = format!("the header needs {needed} bytes of voxels, the file has {got}");
    Error::corrupt(path, what)
}

/// Each task owns a band of x and goes through it tile by tile: a tile is read and written in whole
/// cache lines. Written voxel by voxel, planes of a power of two apart would share a few cache lines.
fn transpose<T: FromStored, const N: usize>(
    out: &mut [T],
    [nx, ny, nz]: [usize; 3],
    data: &[u8],
    convert: impl Fn(&[u8]) -> Option<T> + Sync,
) -> bool {
    const BAND: usize = 32;
    const DEPTH: usize = 16;
    let plane = ny * nz;
    out.par_chunks_mut(BAND * plane)
        .enumerate()
        .all(|(band, target)| {
            let x0 = band * BAND;
            let width = target.len() / plane;
            let mut fits = true;
            let mut tile = [[T::default(); BAND]; DEPTH];
            for y in 0..ny {
                for z0 in (0..nz).step_by(DEPTH) {
                    let depth = DEPTH.min(nz - z0);
                    for z in 0..depth {
                        let at = N * (x0 + nx * (y + ny * (z0 + z)));
                        let run = &data[at..at + N * width];
                        for (cell, bytes) in tile[z].iter_mut().zip(run.chunks_exact(N)) {
                            let value = convert(bytes);
                            fits &= value.is_some();
                            *cell = value.unwrap_or_default();
                        }
                    }
                    for x in 0..width {
                        let line = &mut target[x * plane + y * nz + z0..][..depth];
                        for (cell, row) in line.iter_mut().zip(&tile) {
                            *cell = row[x];
                        }
                    }
                }
            }
            fits
        })
}

fn copy<T: FromStored, const N: usize>(
    out: &mut [T],
    data: &[u8],
    convert: impl Fn(&[u8]) -> Option<T> + Sync,
) -> bool {
    const RUN: usize = 1 << 16;
    out.par_chunks_mut(RUN)
        .zip(data.par_chunks(RUN * N))
        .all(|(target, run)| {
            let mut fits = true;
            for (cell, bytes) in target.iter_mut().zip(run.chunks_exact(N)) {
                match convert(bytes) {
                    Some(value) => *cell = value,
                    None => fits = false,
                }
            }
            fits
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_and_both_endians_agree() {
        let shape = [33, 4, 37];
        let expected = Array3::from_shape_fn(shape, |(x, y, z)| (x * 100 + y * 10 + z) as f32);
        let path = Path::new("x");
        for big_endian in [false, true] {
            let bytes = |v: f32| {
                let v = v as i16;
                if big_endian {
                    v.to_be_bytes()
                } else {
                    v.to_le_bytes()
                }
            };
            let c_order: Vec<u8> = expected.iter().copied().flat_map(bytes).collect();
            let f_order: Vec<u8> = expected.t().iter().copied().flat_map(bytes).collect();
            for (order, data) in [
                (Order::LastFastest, c_order),
                (Order::FirstFastest, f_order),
            ] {
                let grid = Grid {
                    shape,
                    data_type: DataType::I16,
                    big_endian,
                    order,
                };
                assert_eq!(grid.read::<f32>(path, &data, None).unwrap(), expected);
                let scaled = grid.read::<f32>(path, &data, Some((2.0, -7.0))).unwrap();
                assert_eq!(scaled, expected.mapv(|v| 2.0 * v - 7.0));
                assert!(grid.read::<f32>(path, &data[1..], None).is_err());
                assert!(
                    grid.read::<u8>(path, &data, None).is_err(),
                    "3232 is no label"
                );
            }
        }
    }
}
