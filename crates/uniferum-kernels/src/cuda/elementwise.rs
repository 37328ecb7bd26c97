//! Small maps that several operations need.

use candle_core::{DType, Result};

use super::{Arg, Buf, Gpu, Grid, Input, Module, View, args, module};

const MODULE: Module = module!("elementwise");

impl Gpu {
    /// Parameters in the type of the activations.
    pub(crate) fn cast(&self, x: &Input<'_>, dtype: DType) -> Result<Buf> {
        self.cast_from(x.at(0), x.len, dtype)
    }

    /// As [`cast`](Self::cast), from the middle of an array of parameters.
    pub(crate) fn cast_from(&self, from: u64, len: usize, dtype: DType) -> Result<Buf> {
        let y = self.uninit(dtype, len)?;
        let list = args![Arg::Ptr(from), &y, len as i64];
        self.launch_for(&MODULE, "cast", dtype, Grid::streaming(len), list)?;
        Ok(y)
    }

    /// A copy of `f32` values.
    pub(crate) fn copy(&self, x: &Input<'_>) -> Result<Buf> {
        self.cast(x, DType::F32)
    }

    /// As [`copy`](Self::copy), of a buffer.
    pub(crate) fn copy_buf(&self, x: &Buf) -> Result<Buf> {
        self.cast_from(x.at(0), x.len, DType::F32)
    }

    /// Copies `f32` values to element `at` of `to`.
    pub(crate) fn copy_into(&self, x: &Buf, to: View, at: usize) -> Result<()> {
        let list = args![x, Arg::Ptr(to.at(at)), x.len as i64];
        self.launch(&MODULE, "cast_f32", Grid::streaming(x.len), list)
    }

    /// Buffers of `f32` values behind each other.
    pub(crate) fn concat(&self, mut parts: Vec<Buf>) -> Result<Buf> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let whole = self.uninit(DType::F32, parts.iter().map(|p| p.len).sum())?;
        let mut at = 0;
        for part in &parts {
            self.copy_into(part, View::from(&whole), at)?;
            at += part.len;
        }
        Ok(whole)
    }

    /// `y += x`.
    pub(crate) fn add(&self, y: &Buf, x: Arg) -> Result<()> {
        let list = args![y, x, y.len as i64];
        self.launch_for(&MODULE, "add", y.dtype, Grid::streaming(y.len), list)
    }

    /// Adds one number a channel to `y` `[B, channels, voxels]`.
    pub(crate) fn add_bias(&self, y: &Buf, bias: View, voxels: usize) -> Result<()> {
        let list = args![y, bias, bias.len as i32, voxels as i64, y.len as i64];
        let grid = Grid::streaming(y.len);
        self.launch_for(&MODULE, "add_bias", y.dtype, grid, list)
    }

    /// Sums over all but the last axis, of `width` elements.
    pub(crate) fn column_sums(&self, x: &Input<'_>, width: usize) -> Result<Buf> {
        let rows = x.len / width;
        let (chunk, chunks, columns) = chunks_of_rows(rows, width);
        let partial = self.uninit(DType::F32, chunks * width)?;
        let sizes = [rows, width, columns, chunk].map(|v| Arg::I32(v as i32));
        let mut list = args![x, &partial].to_vec();
        list.extend(sizes);
        let grid = Grid::new(chunks * columns, 128);
        self.launch_for(&MODULE, "column_sums", x.dtype, grid, &list)?;
        self.column_sums_end(&partial, width)
    }

    /// Adds up the sums of chunks of rows, `[chunks, width]`.
    pub(crate) fn column_sums_end(&self, partial: &Buf, width: usize) -> Result<Buf> {
        let sums = self.uninit(DType::F32, width)?;
        let chunks = partial.len / width;
        let list = args![partial, &sums, width as i32, chunks as i32];
        self.launch(&MODULE, "column_sums_end", Grid::flat(width), list)?;
        Ok(sums)
    }
}

/// Rows of a chunk, chunks, and blocks of 128 columns that cover `width`.
pub(crate) fn chunks_of_rows(rows: usize, width: usize) -> (usize, usize, usize) {
    let columns = width.div_ceil(128);
    let wanted = 528usize.div_ceil(columns);
    let chunk = rows.div_ceil(wanted).max(16);
    (chunk, rows.div_ceil(chunk), columns)
}
