//! From stored bytes, x fastest, to voxels in C order: converted and scaled in one parallel pass, of a
//! stream while it is read.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use ndarray::Array3;
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Types of stored voxels that are read: whole numbers without and with a sign, and floating point, by bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// 0 to 255, as labels are stored.
    U8,
    /// -128 to 127.
    I8,
    /// 0 to 65535.
    U16,
    /// -32768 to 32767, as most CT is stored.
    I16,
    /// 32 bits without a sign.
    U32,
    /// 32 bits with a sign.
    I32,
    /// 64 bits without a sign.
    U64,
    /// 64 bits with a sign.
    I64,
    /// Single precision.
    F32,
    /// Double precision.
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
pub trait FromStored: Copy + Default + Send + Sync + layers::Put {
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

mod layers {
    use super::{Conversion, Grid, Range};

    /// [`Grid::convert`] for one type of results. Compiled here and once: as a generic function it would be compiled
    /// again, for every stored type, wherever voxels are read.
    pub trait Put: Sized {
        /// Puts stored layers into the whole; whether all values fit.
        fn put(
            grid: &Grid,
            out: &mut [Self],
            layers: Range<usize>,
            data: &[u8],
            conversion: &Conversion<Self>,
        ) -> bool;
    }

    macro_rules! put {
        ($($t:ty),*) => {$(
            impl Put for $t {
                fn put(
                    grid: &Grid,
                    out: &mut [Self],
                    layers: Range<usize>,
                    data: &[u8],
                    conversion: &Conversion<Self>,
                ) -> bool {
                    grid.convert(out, layers, data, conversion)
                }
            }
        )*};
    }

    put!(f32, u8);
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
pub struct Grid {
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
        let mut out = self.empty();
        let conversion = Conversion::of(self, scaling);
        let fits = T::put(self, &mut out, 0..self.layers(), data, &conversion);
        self.whole(path, out, fits)
    }

    /// The voxels as `T` of a stream: while one slab of it is converted, the next is read.
    ///
    /// # Errors
    /// As [`read`](Self::read); `fail` says what an error of the stream means.
    pub(crate) fn read_stream<T: FromStored>(
        &self,
        path: &Path,
        stream: &mut (impl Read + Send),
        scaling: Option<(f64, f64)>,
        fail: impl Fn(std::io::Error) -> Error + Sync,
    ) -> Result<Array3<T>> {
        let needed = self.bytes(path, "shape")?;
        let layer = (needed / self.layers() as u64) as usize;
        let step = SLAB_BYTES.div_ceil(layer).next_multiple_of(depth::<T>());
        let slabs: Vec<Range<usize>> = (0..self.layers())
            .step_by(step)
            .map(|first| first..(first + step).min(self.layers()))
            .collect();
        let mut read = |slab: Option<&Range<usize>>, into: &mut Vec<u8>| {
            let Some(slab) = slab else { return Ok(()) };
            into.clear();
            let wanted = (slab.len() * layer) as u64;
            let got = stream.take(wanted).read_to_end(into).map_err(&fail)? as u64;
            match got == wanted {
                true => Ok(()),
                false => Err(too_short(path, needed, (slab.start * layer) as u64 + got)),
            }
        };
        let (mut ready, mut next) = (Vec::new(), Vec::new());
        read(slabs.first(), &mut ready)?;
        // Taken now that the stream has shown that there is something to be put there.
        let mut out = self.empty();
        let conversion = Conversion::of(self, scaling);
        let mut fits = true;
        for (i, slab) in slabs.iter().enumerate() {
            let (outcome, fit) = rayon::join(
                || read(slabs.get(i + 1), &mut next),
                || T::put(self, &mut out, slab.clone(), &ready, &conversion),
            );
            outcome?;
            fits &= fit;
            std::mem::swap(&mut ready, &mut next);
        }
        self.whole(path, out, fits)
    }

    /// Number of layers along the axis that varies slowest in the file.
    fn layers(&self) -> usize {
        match self.order {
            Order::FirstFastest => self.shape[2],
            Order::LastFastest => self.shape[0],
        }
    }

    fn empty<T: FromStored>(&self) -> Vec<T> {
        vec![T::default(); self.shape.iter().product()]
    }

    fn whole<T: FromStored>(&self, path: &Path, out: Vec<T>, fits: bool) -> Result<Array3<T>> {
        let voxels = Array3::from_shape_vec(self.shape, out).ok();
        voxels
            .filter(|_| fits)
            .ok_or_else(|| Error::field(path, "voxels", T::EXPECTED, "other values"))
    }

    /// Puts stored layers, of which `data` begins with the first, into the whole; whether all values fit.
    fn convert<T: FromStored>(
        &self,
        out: &mut [T],
        layers: Range<usize>,
        data: &[u8],
        conversion: &Conversion<T>,
    ) -> bool {
        let (table, scaling) = (&conversion.table, conversion.scaling);
        // One loop for unscaled and one for scaled values, so that neither asks which it is.
        macro_rules! compute {
            ($value:expr) => {
                match scaling {
                    None => self.fill(out, layers, data, |b| T::convert($value(b) as f64, None)),
                    Some(_) => {
                        self.fill(out, layers, data, |b| T::convert($value(b) as f64, scaling))
                    }
                }
            };
        }
        macro_rules! each {
            ($t:ty) => {
                match self.big_endian {
                    true => compute!(<$t>::from_be_bytes),
                    false => compute!(<$t>::from_le_bytes),
                }
            };
        }
        match self.data_type {
            DataType::U8 | DataType::I8 => {
                self.fill(out, layers, data, |[b]: [u8; 1]| table[usize::from(b)])
            }
            DataType::U16 | DataType::I16 => self.fill(out, layers, data, |b| {
                table[usize::from(u16::from_le_bytes(b))]
            }),
            DataType::U32 => each!(u32),
            DataType::I32 => each!(i32),
            DataType::U64 => each!(u64),
            DataType::I64 => each!(i64),
            DataType::F32 => each!(f32),
            DataType::F64 => each!(f64),
        }
    }

    fn fill<T: FromStored, const N: usize>(
        &self,
        out: &mut [T],
        layers: Range<usize>,
        data: &[u8],
        convert: impl Fn([u8; N]) -> Option<T> + Sync,
    ) -> bool {
        let (data, _) = data.as_chunks::<N>();
        match self.order {
            Order::FirstFastest => transpose(out, self.shape, layers, data, convert),
            Order::LastFastest => {
                let plane = self.shape[1] * self.shape[2];
                let out = &mut out[plane * layers.start..plane * layers.end];
                copy(out, data, convert)
            }
        }
    }
}

/// What becomes of stored values.
pub struct Conversion<T> {
    scaling: Option<(f64, f64)>,
    /// Of types of one or two bytes every value, by its bytes read as a little-endian number: the lookup
    /// takes a fraction of the time of scaling and testing each voxel.
    table: Vec<Option<T>>,
}

impl<T: FromStored> Conversion<T> {
    fn of(grid: &Grid, scaling: Option<(f64, f64)>) -> Self {
        let scaling = scaling.filter(|&s| s != (1.0, 0.0));
        macro_rules! every {
            ($bits:ty, $t:ty) => {
                (0..=<$bits>::MAX)
                    .map(|bits| {
                        let value = match grid.big_endian {
                            true => <$t>::from_be_bytes(bits.to_le_bytes()),
                            false => <$t>::from_le_bytes(bits.to_le_bytes()),
                        };
                        T::convert(f64::from(value), scaling)
                    })
                    .collect()
            };
        }
        let table = match grid.data_type {
            DataType::U8 => every!(u8, u8),
            DataType::I8 => every!(u8, i8),
            DataType::U16 => every!(u16, u16),
            DataType::I16 => every!(u16, i16),
            _ => Vec::new(),
        };
        Self { scaling, table }
    }
}

/// Bytes of a stream that are converted while the next are read, at least: few enough to stay in a cache.
const SLAB_BYTES: usize = 1 << 20;

pub(crate) fn too_short(path: &Path, needed: u64, got: u64) -> Error {
    let what = format!("the header needs {needed} bytes of voxels, the file has {got}");
    Error::corrupt(path, what)
}

/// Slices that are put into place together: a cache line of the result.
const fn depth<T>() -> usize {
    match MAX_DEPTH / size_of::<T>() {
        0 => 1,
        n => n,
    }
}

const MAX_DEPTH: usize = 64;

/// Whether `each` holds of every chunk of `size` elements, given its number; all cores take part.
///
/// Of a trait object, or rayon's machinery would be compiled for every stored type, order of bytes and scaling.
fn all_chunks<T: Send>(
    out: &mut [T],
    size: usize,
    each: &(dyn Fn(usize, &mut [T]) -> bool + Sync),
) -> bool {
    out.par_chunks_mut(size)
        .enumerate()
        .all(|(number, chunk)| each(number, chunk))
}

/// Each task owns a band of x and goes through it tile by tile: a tile is read and written in whole
/// cache lines. Written voxel by voxel, planes of a power of two apart would share a few cache lines.
fn transpose<T: FromStored, const N: usize>(
    out: &mut [T],
    [nx, ny, nz]: [usize; 3],
    slices: Range<usize>,
    data: &[[u8; N]],
    convert: impl Fn([u8; N]) -> Option<T> + Sync,
) -> bool {
    const BAND: usize = 64;
    let plane = ny * nz;
    all_chunks(out, BAND * plane, &|band, target| {
        let x0 = band * BAND;
        let width = target.len() / plane;
        let mut fits = true;
        let mut tile = [[[0; N]; BAND]; MAX_DEPTH];
        for z0 in slices.clone().step_by(depth::<T>()) {
            let depth = depth::<T>().min(slices.end - z0);
            for y in 0..ny {
                // Copied before they are looked at: the waits for the rows of all slices overlap.
                for (z, row) in tile[..depth].iter_mut().enumerate() {
                    let at = x0 + nx * (y + ny * (z0 - slices.start + z));
                    let stored = &data[at..at + width];
                    match stored.first_chunk() {
                        Some(stored) => *row = *stored,
                        None => row[..width].copy_from_slice(stored),
                    }
                }
                for x in 0..width {
                    let line = &mut target[x * plane + y * nz + z0..][..depth];
                    for (cell, row) in line.iter_mut().zip(&tile) {
                        let value = convert(row[x]);
                        fits &= value.is_some();
                        *cell = value.unwrap_or_default();
                    }
                }
            }
        }
        fits
    })
}

fn copy<T: FromStored, const N: usize>(
    out: &mut [T],
    data: &[[u8; N]],
    convert: impl Fn([u8; N]) -> Option<T> + Sync,
) -> bool {
    const RUN: usize = 1 << 16;
    all_chunks(out, RUN, &|number, target| {
        let mut fits = true;
        for (cell, &stored) in target.iter_mut().zip(&data[number * RUN..]) {
            match convert(stored) {
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
                let fail = |error| Error::io(path, error);
                let streamed = grid.read_stream::<f32>(path, &mut &data[..], None, fail);
                assert_eq!(streamed.unwrap(), expected);
                assert!(grid.read::<f32>(path, &data[1..], None).is_err());
                let short = grid.read_stream::<f32>(path, &mut &data[1..], None, fail);
                let error = short.unwrap_err().to_string();
                assert!(error.contains("the file has 9767"), "{error}");
                assert!(
                    grid.read::<u8>(path, &data, None).is_err(),
                    "3232 is no label"
                );
            }
        }
    }
}
