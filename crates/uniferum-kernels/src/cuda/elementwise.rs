//! Small maps that several operations need.

use candle_core::{DType, Result};

use super::{Arg, Buf, Gpu, Grid, Module, View, args, module};

const MODULE: Module = module!("elementwise");

impl Gpu {
    /// Parameters in the type of the activations.
    pub(crate) fn cast(&self, x: View, dtype: DType) -> Result<Buf> {
        let y = self.uninit(dtype, x.len)?;
        let list = args![x, &y, x.len as i64];
        self.launch_for(&MODULE, "cast", dtype, Grid::streaming(x.len), list)?;
        Ok(y)
    }

    /// Copies `f32` values.
    pub(crate) fn copy_into(&self, x: View, to: View) -> Result<()> {
        let list = args![x, to, x.len as i64];
        self.launch(&MODULE, "cast_f32", Grid::streaming(x.len), list)
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

    /// Sums over all but the last axis into `sums`, which are as many as that has elements.
    pub(crate) fn column_sums(&self, x: View, sums: View) -> Result<()> {
        let width = sums.len;
        let rows = x.len / width;
        let (chunk, chunks, columns) = chunks_of_rows(rows, width);
        let partial = self.uninit(DType::F32, chunks * width)?;
        let sizes = [rows, width, columns, chunk].map(|v| Arg::I32(v as i32));
        let mut list = args![x, &partial].to_vec();
        list.extend(sizes);
        let grid = Grid::new(chunks * columns, 128);
        self.launch_for(&MODULE, "column_sums", x.dtype, grid, &list)?;
        self.column_sums_end(&partial, sums)
    }

    /// Adds up the sums of chunks of rows, `[chunks, width]`.
    pub(crate) fn column_sums_end(&self, partial: &Buf, sums: View) -> Result<()> {
        let width = sums.len;
        let chunks = partial.len / width;
        let list = args![partial, sums, width as i32, chunks as i32];
        self.launch(&MODULE, "column_sums_end", Grid::flat(width), list)
    }
}

/// Rows of a chunk, chunks, and blocks of 128 columns that cover `width`.
pub(crate) fn chunks_of_rows(rows: usize, width: usize) -> (usize, usize, usize) {
    let columns = width.div_ceil(128);
    let wanted = 528usize.div_ceil(columns);
    let chunk = rows.div_ceil(wanted).max(16);
    (chunk, rows.div_ceil(chunk), columns)
}
