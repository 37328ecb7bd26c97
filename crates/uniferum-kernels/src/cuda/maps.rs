//! Operations that are one map over all elements.

use candle_core::{DType, Result, Tensor};

use super::{Arg, Buf, Gpu, Grid, Module, args, module, record1, record2};
use crate::rng::Keep;

const SILU: Module = module!("silu");
const GELU: Module = module!("gelu");
const DROPOUT: Module = module!("dropout");
const SCALE: Module = module!("squeeze_excite");
const LOSS: Module = module!("loss");

/// [`silu`](crate::silu) on CUDA.
pub(crate) fn silu(op: &'static str, x: &Tensor) -> Result<Tensor> {
    activation(op, &SILU, ["silu", "silu_back"], x)
}

/// [`gelu_erf`](crate::gelu_erf) on CUDA.
pub(crate) fn gelu(op: &'static str, x: &Tensor) -> Result<Tensor> {
    activation(op, &GELU, ["gelu", "gelu_back"], x)
}

fn activation(
    op: &'static str,
    module: &'static Module,
    [forward, backward]: [&'static str; 2],
    x: &Tensor,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let gpu = Gpu::of(op, &x)?;
    let y = {
        let xs = gpu.read(&x)?;
        let y = gpu.uninit(xs.dtype, xs.len)?;
        let list = args![&xs, &y, xs.len as i64];
        gpu.launch_for(module, forward, xs.dtype, Grid::streaming(xs.len), list)?;
        y
    };
    record1(op, y, x.shape(), &x, move |[x], dy| {
        let gpu = Gpu::of(op, dy)?;
        let (xs, dys) = (gpu.read(x)?, gpu.read(dy)?);
        let dx = gpu.uninit(xs.dtype, xs.len)?;
        let list = args![&xs, &dys, &dx, xs.len as i64];
        gpu.launch_for(module, backward, xs.dtype, Grid::streaming(xs.len), list)?;
        Ok([Some(dx.tensor(x.shape()))])
    })
}

impl Keep {
    /// Seed, threshold and scale as kernels take them; a scale of 0 for no dropout.
    pub(crate) fn args(keep: Option<Self>) -> [Arg; 3] {
        match keep {
            Some(keep) => [
                Arg::U64(keep.seed()),
                Arg::U32(keep.threshold()),
                Arg::F32(keep.scale),
            ],
            None => [Arg::U64(0), Arg::U32(0), Arg::F32(0.0)],
        }
    }
}

/// [`dropout`](crate::dropout) on CUDA.
pub(crate) fn dropout(op: &'static str, x: &Tensor, keep: Keep) -> Result<Tensor> {
    let x = x.contiguous()?;
    let run = move |x: &Tensor| {
        let gpu = Gpu::of(op, x)?;
        let xs = gpu.read(x)?;
        let y = gpu.uninit(xs.dtype, xs.len)?;
        let mut list = args![&xs, &y, xs.len as i64].to_vec();
        list.extend(Keep::args(Some(keep)));
        let grid = Grid::streaming(xs.len);
        gpu.launch_for(&DROPOUT, "dropout", xs.dtype, grid, &list)?;
        Result::Ok(y)
    };
    record1(op, run(&x)?, x.shape(), &x, move |[x], dy| {
        Ok([Some(run(dy)?.tensor(x.shape()))])
    })
}

/// [`scale_channels`](crate::scale_channels) on CUDA.
pub(crate) fn scale_channels(op: &'static str, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let (x, gate) = (x.contiguous()?, gate.to_dtype(x.dtype())?.contiguous()?);
    let run = move |x: &Tensor, gate: &Tensor| {
        let gpu = Gpu::of(op, x)?;
        let (xs, g) = (gpu.read(x)?, gpu.read(gate)?);
        let y = gpu.uninit(xs.dtype, xs.len)?;
        let voxels = xs.len / g.len.max(1);
        let list = args![&xs, &g, &y, voxels as i64, xs.len as i64];
        let grid = Grid::streaming(xs.len);
        gpu.launch_for(&SCALE, "scale_rows", xs.dtype, grid, list)?;
        Result::Ok(y)
    };
    let y = run(&x, &gate)?;
    record2(op, y, x.shape(), [&x, &gate], move |[x, gate], dy| {
        let gpu = Gpu::of(op, dy)?;
        let dx = x.track_op().then(|| run(dy, gate)).transpose()?;
        let products = || {
            let (xs, dys) = (gpu.read(x)?, gpu.read(dy)?);
            let rows = gate.elem_count();
            let made = gpu.uninit(xs.dtype, rows)?;
            let voxels = xs.len / rows.max(1);
            let list = args![&xs, &dys, &made, voxels as i64];
            let grid = Grid::new(rows, super::row_threads(voxels));
            gpu.launch_for(&SCALE, "row_products", xs.dtype, grid, list)?;
            Result::Ok(made.tensor(gate.shape()))
        };
        let dgate = gate.track_op().then(products).transpose()?;
        Ok([dx.map(|dx| dx.tensor(x.shape())), dgate])
    })
}

/// Focal loss, or cross-entropy without `focal`, on CUDA; `x` is `f32`.
pub(crate) fn loss(
    op: &'static str,
    x: &Tensor,
    targets: &Tensor,
    focal: Option<(f32, f32)>,
) -> Result<Tensor> {
    let targets = targets.detach().to_dtype(DType::F32)?.contiguous()?;
    let x = x.to_dtype(DType::F32)?.contiguous()?;
    let (alpha, gamma) = focal.unwrap_or((0.0, -1.0));
    let run = move |name: &str, arrays: &[&Tensor]| -> Result<Buf> {
        let gpu = Gpu::of(op, arrays[0])?;
        let inputs = arrays.iter().map(|t| gpu.read(t));
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let y = gpu.uninit(DType::F32, inputs[0].len)?;
        let mut list: Vec<Arg> = inputs.iter().map(Arg::from).collect();
        list.extend(args![&y, y.len as i64, alpha, gamma]);
        gpu.launch(&LOSS, name, Grid::streaming(y.len), &list)?;
        Ok(y)
    };
    let y = run("loss_f32", &[&x, &targets])?;
    record1(op, y, x.shape(), &x, move |[x], dy| {
        let dx = run("loss_back_f32", &[x, &targets, dy])?;
        Ok([Some(dx.tensor(x.shape()))])
    })
}
