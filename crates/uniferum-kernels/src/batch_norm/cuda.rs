//! Batch norm on CUDA.

use candle_core::{DType, Result, Tensor, Var};

use super::{OP, Plan};
use crate::cuda::{Arg, Buf, Gpu, Grid, Input, Module, args, module, record3, row_threads};

const MODULE: Module = module!("batch_norm");
/// Blocks wanted on the device, and most blocks of one row.
const BLOCKS: usize = 2112;
const BLOCKS_OF_ROW: usize = 256;

/// `[B, C, voxels]`, and how blocks are dealt out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) samples: usize,
    pub(crate) channels: usize,
    pub(crate) voxels: usize,
}

impl Rows {
    pub(crate) fn new(samples: usize, channels: usize, voxels: usize) -> Self {
        Self {
            samples,
            channels,
            voxels,
        }
    }

    fn count(&self) -> usize {
        self.samples * self.channels
    }

    /// Blocks for each of `rows` rows, of which each thread takes at least 16 values if it can.
    fn blocks(&self, rows: usize) -> usize {
        let most = self.voxels.div_ceil(16 * row_threads(self.voxels));
        BLOCKS
            .div_ceil(rows.max(1))
            .clamp(1, most.clamp(1, BLOCKS_OF_ROW))
    }

    fn grid(&self, rows: usize, blocks: usize) -> Grid {
        Grid::new(rows * blocks, row_threads(self.voxels))
    }
}

/// A norm on the device, ready for use.
pub(crate) struct Norm {
    pub(crate) mean: Buf,
    pub(crate) inv_std: Buf,
    pub(crate) scale: Buf,
    pub(crate) shift: Buf,
    /// Values per channel that the statistics are of; 0 for constant statistics.
    pub(crate) count: usize,
}

impl Norm {
    /// Norms of channels behind each other as one.
    pub(crate) fn concat(gpu: &Gpu, parts: Vec<Self>) -> Result<Self> {
        let count = parts.first().map_or(0, |norm| norm.count);
        let mut columns: [Vec<Buf>; 4] = Default::default();
        for part in parts {
            let own = [part.mean, part.inv_std, part.scale, part.shift];
            columns.iter_mut().zip(own).for_each(|(c, o)| c.push(o));
        }
        let [mean, inv_std, scale, shift] = columns.map(|parts| gpu.concat(parts));
        Ok(Self {
            mean: mean?,
            inv_std: inv_std?,
            scale: scale?,
            shift: shift?,
            count,
        })
    }

    /// The norm of some of the channels.
    pub(crate) fn part(&self, gpu: &Gpu, channels: &std::ops::Range<usize>) -> Result<Self> {
        let part = |all: &Buf| gpu.cast_from(all.at(channels.start), channels.len(), DType::F32);
        Ok(Self {
            mean: part(&self.mean)?,
            inv_std: part(&self.inv_std)?,
            scale: part(&self.scale)?,
            shift: part(&self.shift)?,
            count: self.count,
        })
    }
}

/// What the backward pass through a norm needs beside its input's gradient.
pub(crate) struct NormGradient {
    pub(crate) gamma: Buf,
    pub(crate) beta: Buf,
    p: Buf,
    q: Buf,
}

/// One value for each sample and channel: what multiplies the gradient behind the activation,
/// and the gradient of the activation's mean.
pub(crate) type Gate<'a> = (&'a Buf, &'a Buf);

/// Mean and biased variance of each channel of `x`.
pub(crate) fn statistics(gpu: &Gpu, rows: &Rows, (x, dtype): (Arg, DType)) -> Result<(Buf, Buf)> {
    let c = rows.channels;
    let blocks = rows.blocks(c);
    let partial = gpu.uninit(DType::F64, 2 * c * blocks)?;
    let sizes = [rows.samples, c].map(|v| Arg::I32(v as i32));
    let [samples, channels] = sizes;
    let voxels = rows.voxels as i64;
    let list = args![x, &partial, samples, channels, voxels, blocks as i32];
    gpu.launch_for(&MODULE, "moments", dtype, rows.grid(c, blocks), list)?;
    let (mean, var) = (gpu.uninit(DType::F32, c)?, gpu.uninit(DType::F32, c)?);
    let list = args![
        x,
        &partial,
        &mean,
        &var,
        samples,
        channels,
        voxels,
        blocks as i32
    ];
    gpu.launch_for(&MODULE, "moments_end", dtype, Grid::flat(c), list)?;
    Ok((mean, var))
}

/// The norm of given statistics, which `count` values are behind.
pub(crate) fn prepare(
    gpu: &Gpu,
    mean: Buf,
    var: Arg,
    (gamma, beta): (Arg, Arg),
    eps: f64,
    count: usize,
) -> Result<Norm> {
    let c = mean.len;
    let new = || gpu.uninit(DType::F32, c);
    let (inv_std, scale, shift) = (new()?, new()?, new()?);
    let list = args![
        &mean, var, gamma, beta, &inv_std, &scale, &shift, c as i32, eps as f32
    ];
    gpu.launch(&MODULE, "norm_prepare", Grid::flat(c), list)?;
    Ok(Norm {
        mean,
        inv_std,
        scale,
        shift,
        count,
    })
}

/// `act(norm(x)) * gate + residual` into `y`.
pub(crate) fn normalise(
    gpu: &Gpu,
    rows: &Rows,
    norm: &Norm,
    (x, dtype): (Arg, DType),
    active: bool,
    (gate, residual): (Arg, Arg),
    y: &Buf,
) -> Result<()> {
    let blocks = rows.blocks(rows.count());
    let list = args![
        x,
        &norm.scale,
        &norm.shift,
        gate,
        residual,
        y,
        rows.channels as i32,
        rows.voxels as i64,
        i32::from(active),
        blocks as i32
    ];
    let grid = rows.grid(rows.count(), blocks);
    gpu.launch_for(&MODULE, "normalise", dtype, grid, list)
}

/// The mean over each row of `silu(norm(x))`, or of `x` where there is no norm; `[B, C]`.
pub(crate) fn row_means(
    gpu: &Gpu,
    rows: &Rows,
    norm: Option<&Norm>,
    (x, dtype): (Arg, DType),
) -> Result<Buf> {
    let (partial, blocks) = row_partials(gpu, rows, norm, (x, dtype))?;
    let means = gpu.uninit(DType::F32, rows.count())?;
    let n = rows.count() as i32;
    let factor = (1.0 / rows.voxels as f64) as f32;
    let list = args![&partial, &means, n, blocks as i32, factor];
    gpu.launch(&MODULE, "row_sums_end", Grid::flat(rows.count()), list)?;
    Ok(means)
}

/// Sums of `x` `[B, C, ...]` over everything but the channel.
pub(crate) fn channel_sums(gpu: &Gpu, x: &Input<'_>, dims: &[usize]) -> Result<Buf> {
    let (samples, channels) = (dims[0], dims[1]);
    let rows = Rows::new(samples, channels, dims[2..].iter().product());
    let (partial, blocks) = row_partials(gpu, &rows, None, (Arg::from(x), x.dtype))?;
    let sums = gpu.uninit(DType::F32, channels)?;
    let list = args![
        &partial,
        &sums,
        samples as i32,
        channels as i32,
        blocks as i32
    ];
    gpu.launch(&MODULE, "channel_sums_end", Grid::flat(channels), list)?;
    Ok(sums)
}

fn row_partials(
    gpu: &Gpu,
    rows: &Rows,
    norm: Option<&Norm>,
    (x, dtype): (Arg, DType),
) -> Result<(Buf, usize)> {
    let blocks = rows.blocks(rows.count());
    let partial = gpu.uninit(DType::F64, rows.count() * blocks)?;
    let list = args![
        x,
        norm.map(|n| &n.scale),
        norm.map(|n| &n.shift),
        &partial,
        rows.channels as i32,
        rows.voxels as i64,
        i32::from(norm.is_some()),
        blocks as i32
    ];
    let grid = rows.grid(rows.count(), blocks);
    gpu.launch_for(&MODULE, "row_sums", dtype, grid, list)?;
    Ok((partial, blocks))
}

/// The sums that gradients of norm and gate are made of, `[B C, 5]`, and that of the gate.
pub(crate) fn slope_sums(
    gpu: &Gpu,
    rows: &Rows,
    norm: &Norm,
    (u, x, dtype): (Arg, Arg, DType),
    active: bool,
) -> Result<(Buf, Buf)> {
    let (n, blocks) = (rows.count(), rows.blocks(rows.count()));
    let partial = gpu.uninit(DType::F64, 5 * n * blocks)?;
    let list = args![
        u,
        x,
        &norm.scale,
        &norm.shift,
        &norm.mean,
        &partial,
        rows.channels as i32,
        rows.voxels as i64,
        i32::from(active),
        blocks as i32
    ];
    gpu.launch_for(&MODULE, "slope_sums", dtype, rows.grid(n, blocks), list)?;
    let sums = gpu.uninit(DType::F64, 5 * n)?;
    let gate = gpu.uninit(DType::F32, n)?;
    let list = args![&partial, &sums, &gate, n as i32, blocks as i32];
    gpu.launch(&MODULE, "slope_sums_end", Grid::flat(n), list)?;
    Ok((sums, gate))
}

/// Gradients of the norm's parameters, and what flows through its statistics.
pub(crate) fn norm_gradient(
    gpu: &Gpu,
    rows: &Rows,
    norm: &Norm,
    sums: &Buf,
    gate: Option<Gate<'_>>,
) -> Result<NormGradient> {
    let new = || gpu.uninit(DType::F32, rows.channels);
    let made = NormGradient {
        gamma: new()?,
        beta: new()?,
        p: new()?,
        q: new()?,
    };
    let list = args![
        sums,
        gate.map(|g| g.0),
        gate.map(|g| g.1),
        &norm.scale,
        &norm.mean,
        &norm.inv_std,
        &made.gamma,
        &made.beta,
        &made.p,
        &made.q,
        rows.samples as i32,
        rows.channels as i32,
        rows.voxels as i64,
        norm.count as f64
    ];
    let grid = Grid::flat(rows.channels);
    gpu.launch(&MODULE, "norm_gradient", grid, list)?;
    Ok(made)
}

/// The gradient of the norm's input into `dx`, which may be `u`.
pub(crate) fn norm_back(
    gpu: &Gpu,
    rows: &Rows,
    (norm, gradient): (&Norm, &NormGradient),
    (u, x, dtype): (Arg, Arg, DType),
    active: bool,
    gate: Option<Gate<'_>>,
    dx: Arg,
) -> Result<()> {
    let blocks = rows.blocks(rows.count());
    let list = args![
        u,
        x,
        &norm.scale,
        &norm.shift,
        &gradient.p,
        &gradient.q,
        gate.map(|g| g.0),
        gate.map(|g| g.1),
        dx,
        rows.channels as i32,
        rows.voxels as i64,
        i32::from(active),
        blocks as i32
    ];
    let grid = rows.grid(rows.count(), blocks);
    gpu.launch_for(&MODULE, "norm_back", dtype, grid, list)
}

/// [`move_statistics`](super::move_statistics) on CUDA; `unbiased` is what the variance is multiplied by.
pub(super) fn move_statistics(
    running: [&Var; 2],
    [mean, var]: [&Tensor; 2],
    unbiased: f64,
    momentum: f64,
) -> Result<()> {
    let gpu = Gpu::of("move_statistics", running[0])?;
    // Written in place through the device, as the optimiser writes weights.
    let (to_mean, to_var) = (gpu.read_f32(running[0])?, gpu.read_f32(running[1])?);
    let (mean, var) = (mean.contiguous()?, var.contiguous()?);
    let (mean, var) = (gpu.read_f32(&mean)?, gpu.read_f32(&var)?);
    let c = to_mean.len;
    let [own, of_var] = [momentum, momentum * unbiased].map(|v| v as f32);
    let list = args![&to_mean, &to_var, &mean, &var, c as i32, own, of_var];
    gpu.launch(&MODULE, "move_statistics", Grid::flat(c), list)
}

/// A norm, with SiLU behind it if `active`, as a node of the graph; mean and biased variance
/// where they are the batch's.
pub(super) fn batch_norm(
    x: &Tensor,
    (gamma, beta): (&Tensor, &Tensor),
    running: Option<(&Tensor, &Tensor)>,
    eps: f64,
    active: bool,
) -> Result<(Tensor, Option<(Tensor, Tensor)>)> {
    let plan = Plan::new(x.dims())?;
    let rows = Rows::new(plan.batch, plan.channels, plan.voxels);
    let (x, gamma, beta) = (x.contiguous()?, gamma.contiguous()?, beta.contiguous()?);
    let gpu = Gpu::of(OP, &x)?;
    let (value, norm, made) = {
        let xs = gpu.read(&x)?;
        let (g, b) = (gpu.read_f32(&gamma)?, gpu.read_f32(&beta)?);
        let affine = (Arg::from(&g), Arg::from(&b));
        let (norm, made) = match running {
            Some((mean, var)) => {
                let (mean, var) = (mean.contiguous()?, var.contiguous()?);
                let mean = gpu.copy(&gpu.read_f32(&mean)?)?;
                let var = gpu.read_f32(&var)?;
                (prepare(&gpu, mean, Arg::from(&var), affine, eps, 0)?, None)
            }
            None => {
                let (mean, var) = statistics(&gpu, &rows, (Arg::from(&xs), xs.dtype))?;
                let own = gpu.copy_buf(&mean)?;
                let count = rows.samples * rows.voxels;
                let norm = prepare(&gpu, own, Arg::from(&var), affine, eps, count)?;
                let c = plan.channels;
                (norm, Some((mean.tensor(c), var.tensor(c))))
            }
        };
        let y = gpu.uninit(xs.dtype, xs.len)?;
        let none = (Arg::NULL, Arg::NULL);
        let input = (Arg::from(&xs), xs.dtype);
        normalise(&gpu, &rows, &norm, input, active, none, &y)?;
        (y, norm, made)
    };
    let backward = move |[x, gamma, beta]: [&Tensor; 3], dy: &Tensor| {
        let gpu = Gpu::of(OP, dy)?;
        let (xs, u) = (gpu.read(x)?, gpu.read(dy)?);
        let inputs = (Arg::from(&u), Arg::from(&xs), xs.dtype);
        let (sums, _) = slope_sums(&gpu, &rows, &norm, inputs, active)?;
        let gradient = norm_gradient(&gpu, &rows, &norm, &sums, None)?;
        let dx = || {
            let dx = gpu.uninit(xs.dtype, xs.len)?;
            let both = (&norm, &gradient);
            norm_back(&gpu, &rows, both, inputs, active, None, Arg::from(&dx))?;
            Result::Ok(dx.tensor(x.shape()))
        };
        let dx = x.track_op().then(dx).transpose()?;
        let of = |t: &Tensor, g: Buf| t.track_op().then(|| g.tensor(t.shape()));
        Ok([dx, of(gamma, gradient.gamma), of(beta, gradient.beta)])
    };
    let y = record3(OP, value, x.shape(), [&x, &gamma, &beta], backward)?;
    Ok((y, made))
}
