//! Batch norm on CUDA.

use std::ops::Range;

use candle_core::{DType, Result, Tensor, Var};

use super::{OP, Plan};
use crate::cuda::{Arg, Buf, Gpu, Grid, Module, View, args, module, record3, row_threads};
use crate::depthwise::cuda::NormSilu;

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

/// Mean, one over the deviation, scale and shift of each channel.
pub(crate) struct Norm {
    /// `[4, channels]`.
    values: Buf,
    /// Values per channel that the statistics are of; 0 for constant statistics.
    count: usize,
}

impl Norm {
    fn channels(&self) -> usize {
        self.values.len / 4
    }

    /// The norm of all channels.
    pub(crate) fn view(&self) -> NormView {
        self.part(&(0..self.channels()))
    }

    /// The norm of some of the channels.
    pub(crate) fn part(&self, channels: &Range<usize>) -> NormView {
        let [mean, inv_std, scale, shift] = rows_of(&self.values, self.channels(), channels);
        NormView {
            mean,
            inv_std,
            scale,
            shift,
            count: self.count,
        }
    }
}

/// The same channels of each of `N` rows.
fn rows_of<const N: usize>(values: &Buf, row: usize, channels: &Range<usize>) -> [View; N] {
    let all = View::from(values);
    std::array::from_fn(|i| all.part(&(i * row + channels.start..i * row + channels.end)))
}

/// A norm that somebody else keeps alive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormView {
    mean: View,
    inv_std: View,
    scale: View,
    shift: View,
    count: usize,
}

impl NormView {
    /// As depthwise kernels apply it, with SiLU behind it.
    pub(crate) fn silu(self) -> NormSilu {
        (self.scale, self.shift)
    }
}

/// Values, and a norm with SiLU behind it that their reader applies, if there is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    pub(crate) values: View,
    pub(crate) norm: Option<NormView>,
}

/// Constant statistics as norms take them, mean and variance behind each other, `[2, C]`: a copy, so
/// that later updates do not reach the backward pass.
pub(crate) fn constants(gpu: &Gpu, (mean, var): (&Tensor, &Tensor)) -> Result<Buf> {
    let both = gpu.uninit(DType::F32, 2 * mean.elem_count())?;
    for (part, at) in [(mean, 0), (var, mean.elem_count())] {
        let part = part.detach().contiguous()?;
        let part = gpu.read_f32(&part)?;
        let to = View::from(&both).part(&(at..at + part.len));
        gpu.copy_into(View::from(&part), to)?;
    }
    Ok(both)
}

/// Makes a norm, a group of channels after the other: of constant statistics, or of the statistics of
/// the values themselves, which it keeps.
pub(crate) struct NormMaker<'a> {
    gpu: &'a Gpu,
    constants: Option<&'a Buf>,
    norm: Norm,
    own: Option<Buf>,
    eps: f64,
}

impl<'a> NormMaker<'a> {
    /// For `rows.channels` channels in all; `constants` are of [`constants`].
    pub(crate) fn new(
        gpu: &'a Gpu,
        rows: &Rows,
        constants: Option<&'a Buf>,
        eps: f64,
    ) -> Result<Self> {
        let new = |values: usize| gpu.uninit(DType::F32, values * rows.channels);
        let own = constants.is_none().then(|| new(2)).transpose()?;
        let count = own.as_ref().map_or(0, |_| rows.samples * rows.voxels);
        let norm = Norm {
            values: new(4)?,
            count,
        };
        Ok(Self {
            gpu,
            constants,
            norm,
            own,
            eps,
        })
    }

    /// The norm of `channels`, whose values `x` are `[B, channels, voxels]` as `rows` says, and whose
    /// `gamma` and `beta` begin with theirs.
    pub(crate) fn prepare(
        &self,
        channels: &Range<usize>,
        rows: &Rows,
        (x, dtype): (Arg, DType),
        (gamma, beta): (Arg, Arg),
    ) -> Result<NormView> {
        let made = self.norm.part(channels);
        let parts = |both| rows_of::<2>(both, self.norm.channels(), channels);
        let to = args![
            gamma,
            beta,
            made.mean,
            made.inv_std,
            made.scale,
            made.shift,
            channels.len() as i32,
            self.eps as f32
        ];
        let grid = Grid::flat(channels.len());
        if let Some([mean, var]) = self.constants.map(parts) {
            let mut list = args![mean, var].to_vec();
            list.extend(to);
            self.gpu.launch(&MODULE, "norm_of_constants", grid, &list)?;
        }
        if let Some([mean, var]) = self.own.as_ref().map(parts) {
            let blocks = rows.blocks(rows.channels);
            let partial = self.moments(rows, (x, dtype), blocks)?;
            let mut list = args![x, &partial, mean, var].to_vec();
            list.extend(to);
            list.extend(args![
                rows.samples as i32,
                rows.voxels as i64,
                blocks as i32
            ]);
            let name = "norm_of_moments";
            self.gpu.launch_for(&MODULE, name, dtype, grid, &list)?;
        }
        Ok(made)
    }

    /// Sums of each channel's values and their squares, of each block.
    fn moments(&self, rows: &Rows, (x, dtype): (Arg, DType), blocks: usize) -> Result<Buf> {
        let c = rows.channels;
        let partial = self.gpu.uninit(DType::F64, 2 * c * blocks)?;
        let list = args![
            x,
            &partial,
            rows.samples as i32,
            c as i32,
            rows.voxels as i64,
            blocks as i32
        ];
        let grid = rows.grid(c, blocks);
        self.gpu.launch_for(&MODULE, "moments", dtype, grid, list)?;
        Ok(partial)
    }

    /// The norm, and mean and biased variance `[2, C]` where they are of the values.
    pub(crate) fn finish(self) -> (Norm, Option<Buf>) {
        (self.norm, self.own)
    }
}

/// The norm of `rows.channels` channels at once; see [`NormMaker`].
pub(crate) fn norm_of(
    gpu: &Gpu,
    rows: &Rows,
    constants: Option<&Buf>,
    input: (Arg, DType),
    affine: (Arg, Arg),
    eps: f64,
) -> Result<(Norm, Option<Buf>)> {
    let maker = NormMaker::new(gpu, rows, constants, eps)?;
    maker.prepare(&(0..rows.channels), rows, input, affine)?;
    Ok(maker.finish())
}

/// What flows back through a norm's statistics, `p x + q` of each channel.
pub(crate) struct Through {
    p: Buf,
    q: Buf,
}

/// One value for each sample and channel: what multiplies the gradient behind the activation,
/// and the gradient of the activation's mean.
pub(crate) type Gate<'a> = (&'a Buf, &'a Buf);

/// `act(norm(x)) * gate + residual` into `y`.
pub(crate) fn normalise(
    gpu: &Gpu,
    rows: &Rows,
    norm: NormView,
    (x, dtype): (Arg, DType),
    active: bool,
    (gate, residual): (Arg, Arg),
    y: &Buf,
) -> Result<()> {
    let blocks = rows.blocks(rows.count());
    let list = args![
        x,
        norm.scale,
        norm.shift,
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
    norm: Option<NormView>,
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
pub(crate) fn channel_sums(gpu: &Gpu, x: View, dims: &[usize]) -> Result<Buf> {
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
    norm: Option<NormView>,
    (x, dtype): (Arg, DType),
) -> Result<(Buf, usize)> {
    let blocks = rows.blocks(rows.count());
    let partial = gpu.uninit(DType::F64, rows.count() * blocks)?;
    let list = args![
        x,
        norm.map_or(Arg::NULL, |n| n.scale.into()),
        norm.map_or(Arg::NULL, |n| n.shift.into()),
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
    norm: NormView,
    (u, x, dtype): (Arg, Arg, DType),
    active: bool,
) -> Result<(Buf, Buf)> {
    let (n, blocks) = (rows.count(), rows.blocks(rows.count()));
    let partial = gpu.uninit(DType::F64, 5 * n * blocks)?;
    let list = args![
        u,
        x,
        norm.scale,
        norm.shift,
        norm.mean,
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

/// What flows through the norm's statistics; the gradients of its parameters go to `gamma` and `beta`.
pub(crate) fn norm_gradient(
    gpu: &Gpu,
    rows: &Rows,
    norm: NormView,
    sums: &Buf,
    gate: Option<Gate<'_>>,
    (gamma, beta): (View, View),
) -> Result<Through> {
    let new = || gpu.uninit(DType::F32, rows.channels);
    let made = Through {
        p: new()?,
        q: new()?,
    };
    let list = args![
        sums,
        gate.map(|g| g.0),
        gate.map(|g| g.1),
        norm.scale,
        norm.mean,
        norm.inv_std,
        gamma,
        beta,
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

/// The gradient of the norm's input into `dx`, which may be `u` or `x`.
pub(crate) fn norm_back(
    gpu: &Gpu,
    rows: &Rows,
    (norm, through): (NormView, &Through),
    (u, x, dtype): (Arg, Arg, DType),
    active: bool,
    gate: Option<Gate<'_>>,
    dx: Arg,
) -> Result<()> {
    let blocks = rows.blocks(rows.count());
    let list = args![
        u,
        x,
        norm.scale,
        norm.shift,
        &through.p,
        &through.q,
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

/// Back through a norm, and SiLU behind it if `active`, without a gate: the gradients of its parameters
/// go to `parameters`, that of its input to `dx`, which may be `u` or `x`.
pub(crate) fn norm_backward(
    gpu: &Gpu,
    rows: &Rows,
    norm: NormView,
    inputs: (Arg, Arg, DType),
    active: bool,
    parameters: (View, View),
    dx: Option<Arg>,
) -> Result<()> {
    let (sums, _) = slope_sums(gpu, rows, norm, inputs, active)?;
    let through = norm_gradient(gpu, rows, norm, &sums, None, parameters)?;
    match dx {
        Some(dx) => norm_back(gpu, rows, (norm, &through), inputs, active, None, dx),
        None => Ok(()),
    }
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
    let constants = running.map(|r| constants(&gpu, r)).transpose()?;
    let (value, norm, made) = {
        let xs = gpu.read(&x)?;
        let (g, b) = (gpu.read_f32(&gamma)?, gpu.read_f32(&beta)?);
        let affine = (Arg::from(&g), Arg::from(&b));
        let input = (Arg::from(&xs), xs.dtype);
        let (norm, made) = norm_of(&gpu, &rows, constants.as_ref(), input, affine, eps)?;
        let y = gpu.uninit(xs.dtype, xs.len)?;
        let none = (Arg::NULL, Arg::NULL);
        normalise(&gpu, &rows, norm.view(), input, active, none, &y)?;
        (y, norm, made)
    };
    let made = made.map(batch_statistics).transpose()?;
    let backward = move |[x, gamma, beta]: [&Tensor; 3], dy: &Tensor| {
        let gpu = Gpu::of(OP, dy)?;
        let (xs, u) = (gpu.read(x)?, gpu.read(dy)?);
        let inputs = (Arg::from(&u), Arg::from(&xs), xs.dtype);
        let new = |dtype, t: &Tensor| gpu.uninit(dtype, t.elem_count());
        let (dgamma, dbeta) = (new(DType::F32, gamma)?, new(DType::F32, beta)?);
        let dx = x.track_op().then(|| new(xs.dtype, x)).transpose()?;
        let parameters = (View::from(&dgamma), View::from(&dbeta));
        let to = dx.as_ref().map(Arg::from);
        norm_backward(&gpu, &rows, norm.view(), inputs, active, parameters, to)?;
        let of = |t: &Tensor, g: Buf| t.track_op().then(|| g.tensor(t.shape()));
        let dx = dx.map(|dx| dx.tensor(x.shape()));
        Ok([dx, of(gamma, dgamma), of(beta, dbeta)])
    };
    let y = record3(OP, value, x.shape(), [&x, &gamma, &beta], backward)?;
    Ok((y, made))
}

/// Means and biased variances, which lie one after the other, as tensors.
pub(crate) fn batch_statistics(both: Buf) -> Result<(Tensor, Tensor)> {
    let channels = both.len / 2;
    let both = both.tensor((2, channels));
    Ok((both.get(0)?, both.get(1)?))
}
