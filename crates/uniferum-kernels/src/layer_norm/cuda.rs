//! Layer norm on CUDA.

use candle_core::{DType, Result, Tensor};

use super::OP;
use crate::cuda::{
    Buf, Gpu, Grid, Module, View, args, chunks_of_rows, module, record3, row_threads,
};

const MODULE: Module = module!("layer_norm");

/// [`layer_norm`](super::layer_norm) on CUDA; the statistics of the rows are kept.
pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.contiguous()?);
    let gpu = Gpu::of(OP, &x)?;
    let width = weight.elem_count();
    let (y, mean, rstd) = {
        let (xs, w, b) = (gpu.read(&x)?, gpu.read_f32(&weight)?, gpu.read_f32(&bias)?);
        let rows = xs.len / width;
        let y = gpu.uninit(xs.dtype, xs.len)?;
        let (mean, rstd) = (gpu.uninit(DType::F32, rows)?, gpu.uninit(DType::F32, rows)?);
        let list = args![&xs, &w, &b, &y, &mean, &rstd, width as i32, eps as f32];
        let grid = Grid::new(rows, row_threads(width));
        gpu.launch_for(&MODULE, "layer_norm", xs.dtype, grid, list)?;
        (y, mean, rstd)
    };
    let backward = move |[x, weight, bias]: [&Tensor; 3], dy: &Tensor| {
        let gpu = Gpu::of(OP, dy)?;
        let dx = x
            .track_op()
            .then(|| grad_input(&gpu, [x, dy, weight], &mean, &rstd));
        let parameters = weight.track_op() || bias.track_op();
        let sums = parameters.then(|| grad_parameters(&gpu, x, dy, &mean, &rstd, width));
        let sums = sums.transpose()?;
        let part = |t: &Tensor, i: usize| {
            let wanted = sums.as_ref().filter(|_| t.track_op());
            wanted.map(|s| s.get(i)?.copy()).transpose()
        };
        Ok([dx.transpose()?, part(weight, 0)?, part(bias, 1)?])
    };
    record3(OP, y, x.shape(), [&x, &weight, &bias], backward)
}

fn grad_input(gpu: &Gpu, [x, dy, weight]: [&Tensor; 3], mean: &Buf, rstd: &Buf) -> Result<Tensor> {
    let (xs, dys, w) = (gpu.read(x)?, gpu.read(dy)?, gpu.read_f32(weight)?);
    let dx = gpu.uninit(xs.dtype, xs.len)?;
    let list = args![&xs, &dys, &w, mean, rstd, &dx, w.len as i32];
    let grid = Grid::new(xs.len / w.len, row_threads(w.len));
    gpu.launch_for(&MODULE, "layer_norm_back", xs.dtype, grid, list)?;
    Ok(dx.tensor(x.shape()))
}

/// Gradients of weight and bias, `[2, width]`.
fn grad_parameters(
    gpu: &Gpu,
    x: &Tensor,
    dy: &Tensor,
    mean: &Buf,
    rstd: &Buf,
    width: usize,
) -> Result<Tensor> {
    let (xs, dys) = (gpu.read(x)?, gpu.read(dy)?);
    let rows = xs.len / width;
    let (chunk, chunks, columns) = chunks_of_rows(rows, width);
    let partial = gpu.uninit(DType::F32, chunks * 2 * width)?;
    let list = args![
        &xs,
        &dys,
        mean,
        rstd,
        &partial,
        rows as i32,
        width as i32,
        columns as i32,
        chunk as i32
    ];
    let grid = Grid::new(chunks * columns, 128);
    gpu.launch_for(&MODULE, "layer_norm_parameters", xs.dtype, grid, list)?;
    let sums = gpu.uninit(DType::F32, 2 * width)?;
    gpu.column_sums_end(&partial, View::from(&sums))?;
    Ok(sums.tensor((2, width)))
}
