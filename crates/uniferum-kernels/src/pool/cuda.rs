//! Pooling on CUDA.

use candle_core::{DType, Result, Tensor};

use super::{Kind, Pool};
use crate::batch_norm::cuda::{Rows, row_means};
use crate::cuda::{Arg, Buf, Gpu, Grid, Module, View, args, module, record1};
use crate::geometry::dims5;

const MODULE: Module = module!("pool");

/// A pool as a node of the graph.
pub(super) fn pool(x: &Tensor, pool: Pool) -> Result<Tensor> {
    let op = pool.windows.op;
    let x = x.contiguous()?;
    let (b, c, _) = dims5(op, "input shape", x.dims())?;
    let gpu = Gpu::of(op, &x)?;
    let value = forward(&gpu, &pool, &x, b * c)?;
    let [d, h, w] = pool.windows.output();
    record1(op, value, (b, c, d, h, w), &x, move |[x], dy| {
        let gpu = Gpu::of(op, dy)?;
        let dx = backward(&gpu, &pool, x, dy, b * c)?;
        Ok([Some(dx.tensor(x.shape()))])
    })
}

impl Pool {
    fn is_global_mean(&self) -> bool {
        self.kind == Kind::Mean && self.windows.is_global()
    }

    /// The windows' first voxels and lengths, axis by axis.
    fn table(&self, gpu: &Gpu) -> Result<Tensor> {
        let axes = self.windows.axes.iter().flat_map(|axis| {
            let firsts = axis.iter().map(|w| w.start as i32);
            firsts.chain(axis.iter().map(|w| w.len() as i32))
        });
        let table: Vec<i32> = axes.collect();
        let n = table.len();
        Tensor::from_vec(table, n, &gpu.device())
    }

    fn sizes(&self, rows: usize) -> Vec<Arg> {
        let axes = self.windows.input.into_iter().chain(self.windows.output());
        let mut list: Vec<Arg> = axes.map(|v| Arg::I32(v as i32)).collect();
        list.push(Arg::I64(rows as i64));
        list.push(Arg::I32(i32::from(self.kind == Kind::Mean)));
        list
    }
}

fn forward(gpu: &Gpu, pool: &Pool, x: &Tensor, rows: usize) -> Result<Buf> {
    let xs = gpu.read(x)?;
    if pool.is_global_mean() {
        let shape = Rows::new(rows, 1, pool.windows.in_voxels());
        let means = row_means(gpu, &shape, None, (Arg::from(&xs), xs.dtype))?;
        return match xs.dtype {
            DType::F32 => Ok(means),
            dtype => gpu.cast(View::from(&means), dtype),
        };
    }
    let y = gpu.uninit(xs.dtype, rows * pool.windows.out_voxels())?;
    let table = pool.table(gpu)?;
    let windows = gpu.read_table(&table)?;
    let mut list = args![&xs, &y, &windows].to_vec();
    list.extend(pool.sizes(rows));
    gpu.launch_for(&MODULE, "pool_forward", xs.dtype, Grid::flat(y.len), &list)?;
    Ok(y)
}

fn backward(gpu: &Gpu, pool: &Pool, x: &Tensor, dy: &Tensor, rows: usize) -> Result<Buf> {
    let (xs, dys) = (gpu.read(x)?, gpu.read(dy)?);
    if pool.is_global_mean() {
        let dx = gpu.uninit(xs.dtype, xs.len)?;
        let voxels = pool.windows.in_voxels() as i64;
        let list = args![&dys, &dx, voxels, dx.len as i64];
        let grid = Grid::streaming(dx.len);
        gpu.launch_for(&MODULE, "pool_spread", xs.dtype, grid, list)?;
        return Ok(dx);
    }
    let table = pool.table(gpu)?;
    let windows = gpu.read_table(&table)?;
    // Where windows have no voxel in common, one thread a window is enough.
    let (dx, name, threads) = if pool.kind == Kind::Max && pool.windows.are_disjoint() {
        (gpu.zeros(xs.dtype, xs.len)?, "pool_scatter", dys.len)
    } else {
        (gpu.uninit(xs.dtype, xs.len)?, "pool_backward", xs.len)
    };
    let mut list = args![&xs, &dys, &dx, &windows].to_vec();
    list.extend(pool.sizes(rows));
    gpu.launch_for(&MODULE, name, xs.dtype, Grid::flat(threads), &list)?;
    Ok(dx)
}
