//! Depthwise convolution on CUDA; see `depthwise.cu` for how the kernels walk.

mod tensor_cores;

use candle_core::{DType, Result};

use self::tensor_cores::Walks;
use crate::cuda::{Arg, Buf, Gpu, Grid, Module, View, args, module};
use crate::geometry::Geometry;

const MODULE: Module = module!("depthwise");
/// Blocks that keep the largest of today's devices busy: 8 for each of 132 multiprocessors.
const BLOCKS: usize = 1056;
/// Threads of a block.
const THREADS: usize = 128;

/// The sizes that the kernels work with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) samples: usize,
    pub(crate) channels: usize,
    pub(crate) geometry: Geometry,
    /// Elements from one channel of the input to the next; 0 where all read the same one.
    pub(crate) x_channel: usize,
    /// Elements from one sample of the input to the next.
    pub(crate) x_sample: usize,
    /// Elements from one sample of the output to the next.
    pub(crate) y_sample: usize,
}

impl Sizes {
    /// Of contiguous input and output.
    pub(crate) fn new(samples: usize, channels: usize, geometry: Geometry) -> Self {
        let x_channel = geometry.in_voxels();
        Self {
            samples,
            channels,
            geometry,
            x_channel,
            x_sample: channels * x_channel,
            y_sample: channels * geometry.out_voxels(),
        }
    }

    /// Whether there are kernels for this convolution.
    pub(crate) fn supported(geometry: &Geometry) -> bool {
        let same = |v: [usize; 3]| v[0] == v[1] && v[1] == v[2];
        same(geometry.kernel)
            && same(geometry.stride)
            && matches!(geometry.kernel[0], 3 | 5)
            && matches!(geometry.stride[0], 1 | 2)
    }

    fn name(&self, what: &str, how: &str) -> String {
        let g = &self.geometry;
        format!("depthwise_{what}{how}_k{}s{}", g.kernel[0], g.stride[0])
    }

    /// Zeros before the first voxel where padding is the same on both sides, for which the kernels
    /// that read four voxels at a time are made.
    fn usual_padding(&self) -> usize {
        (self.geometry.kernel[0] - self.geometry.stride[0]) / 2
    }

    /// Whether rows of all these arrays can be read and written four voxels at a time.
    fn in_fours(&self, arrays: &[Arg], dtype: DType) -> bool {
        let g = &self.geometry;
        let strides = [self.x_channel, self.x_sample, self.y_sample];
        let sizes = [g.input[2], g.output[2]].into_iter().chain(strides);
        let aligned = |array: &Arg| match array {
            Arg::Ptr(at) => at % (4 * dtype.size_in_bytes() as u64) == 0,
            _ => false,
        };
        sizes.into_iter().all(|n| n % 4 == 0) && arrays.iter().all(aligned)
    }

    /// How `forward` and `weight_gradient` read the input: as their names end.
    fn reading(&self, lanes: &Lanes, arrays: &[Arg], dtype: DType, normed: bool) -> &'static str {
        let whole = self.geometry.output[2] <= 4 * lanes.across;
        let usual = self.geometry.before[2] == self.usual_padding();
        match whole && usual && self.in_fours(arrays, dtype) {
            false => "_any",
            true if normed => "_normed",
            true => "",
        }
    }

    /// Which kernel takes the gradient of the input of a step of 2, how many bricks behind one another
    /// a thread of it owns, and its grid.
    fn bricks(&self, arrays: &[Arg], dtype: DType) -> (&'static str, usize, Grid) {
        let (g, volumes) = (&self.geometry, self.samples * self.channels);
        if g.before != [self.usual_padding(); 3] {
            let elements = volumes * g.in_voxels();
            return ("_any", 0, Grid::new(elements.div_ceil(THREADS), THREADS));
        }
        let how = if self.in_fours(arrays, dtype) {
            ""
        } else {
            "_ones"
        };
        let [depth, height, width] = g.input;
        let plane = width.div_ceil(4) * height.div_ceil(2);
        let threads = plane.next_multiple_of(32).min(THREADS);
        let blocks = plane.div_ceil(threads) * volumes;
        let bricks = chunk(depth.div_ceil(2), blocks);
        let blocks = blocks * depth.div_ceil(2).div_ceil(bricks);
        (how, bricks, Grid::new(blocks, threads))
    }

    /// Input, output and padding, as the kernels take them.
    fn places(&self) -> Vec<Arg> {
        let g = &self.geometry;
        let all = g.input.iter().chain(&g.output).chain(&g.before);
        all.map(|v| Arg::I32(*v as i32)).collect()
    }
}

/// How a block's threads lie over its outputs.
#[derive(Debug, Clone, Copy)]
struct Lanes {
    across: usize,
    down: usize,
    side: usize,
    tiles: usize,
}

impl Lanes {
    fn new(g: &Geometry) -> Self {
        let [_, height, width] = g.output;
        let rows = if g.kernel[0] == 3 { 2 } else { 1 };
        let groups = height.div_ceil(rows);
        let across = width.div_ceil(4).next_power_of_two().min(32);
        // The power of two that leaves the fewest threads beyond the last row; the largest of these.
        let downs = (0..=(THREADS / across).ilog2()).map(|i| 1 << i);
        let idle = |down: &usize| groups.next_multiple_of(*down);
        let down = downs.rev().min_by_key(idle).unwrap_or(1);
        // The taps of 32 sides fit into shared memory that needs no asking for.
        let side = (THREADS / (across * down)).min(32);
        Self {
            across,
            down,
            side,
            tiles: width.div_ceil(4 * across) * groups.div_ceil(down),
        }
    }

    fn grid(&self, blocks: usize, shared: usize) -> Grid {
        Grid {
            blocks,
            threads: self.across * self.down * self.side,
            shared: self.side * shared * 4,
        }
    }

    fn args(&self, planes: usize) -> [Arg; 4] {
        [self.across, self.down, self.side, planes].map(|v| Arg::I32(v as i32))
    }
}

/// Scale and shift of a norm, with SiLU behind it.
pub(crate) type NormSilu = (View, View);

/// What follows the input's gradient: it is that of an activation whose norm had this input.
pub(crate) type Behind = (Arg, NormSilu);

/// The convolution of `x`, or of its norm and activation, into `y`.
pub(crate) fn forward(
    gpu: &Gpu,
    sizes: &Sizes,
    (x, dtype): (Arg, DType),
    weight: Arg,
    bias: Arg,
    norm: Option<NormSilu>,
    y: Arg,
) -> Result<()> {
    walk(gpu, sizes, (x, dtype), weight, bias, norm, None, y, false)
}

/// The gradient of the input, or of the norm's input behind it, into `dx`.
///
/// The sizes are those of the forward pass, with contiguous channels.
pub(crate) fn grad_input(
    gpu: &Gpu,
    sizes: &Sizes,
    (dy, dtype): (Arg, DType),
    weight: Arg,
    behind: Option<Behind>,
    dx: Arg,
) -> Result<()> {
    let g = &sizes.geometry;
    if g.stride[0] == 1 {
        let turned = Geometry {
            input: g.output,
            output: g.input,
            kernel: g.kernel,
            stride: g.stride,
            // Below 0 where more is padded than the kernel reaches: it is a signed number on the device.
            before: [0, 1, 2].map(|a| (g.kernel[a] - 1).wrapping_sub(g.before[a])),
        };
        let sizes = Sizes {
            geometry: turned,
            x_channel: g.out_voxels(),
            x_sample: sizes.y_sample,
            y_sample: sizes.x_sample,
            ..*sizes
        };
        return walk(
            gpu,
            &sizes,
            (dy, dtype),
            weight,
            Arg::NULL,
            None,
            behind,
            dx,
            true,
        );
    }
    let behind = behind_args(behind);
    let (how, bricks, grid) = sizes.bricks(&[behind[0], dx], dtype);
    let mut args = vec![dy, weight];
    args.extend(behind);
    args.push(dx);
    args.extend(sizes.places());
    args.extend([sizes.samples, sizes.channels].map(|v| Arg::I32(v as i32)));
    args.extend([sizes.y_sample, sizes.x_sample].map(|v| Arg::I64(v as i64)));
    args.push(Arg::I32(bricks as i32));
    let name = sizes.name("input_gradient", how);
    gpu.launch_for(&MODULE, &name, dtype, grid, &args)
}

fn norm_args(norm: Option<NormSilu>) -> [Arg; 2] {
    norm.map_or([Arg::NULL; 2], |(scale, shift)| {
        [scale.into(), shift.into()]
    })
}

fn behind_args(behind: Option<Behind>) -> [Arg; 3] {
    behind.map_or([Arg::NULL; 3], |(x, (scale, shift))| {
        [x, scale.into(), shift.into()]
    })
}

fn walk(
    gpu: &Gpu,
    sizes: &Sizes,
    (x, dtype): (Arg, DType),
    weight: Arg,
    bias: Arg,
    norm: Option<NormSilu>,
    behind: Option<Behind>,
    y: Arg,
    flip: bool,
) -> Result<()> {
    let g = &sizes.geometry;
    let k = g.kernel[0];
    let taps = k * k * k.next_multiple_of(4);
    let lanes = Lanes::new(g);
    let after = behind_args(behind);
    if let Some(walks) = Walks::new(sizes, &[x, y, after[0]], dtype) {
        return walks.forward(gpu, (x, weight, bias, y), norm, behind, flip);
    }
    let how = sizes.reading(&lanes, &[x, y, after[0]], dtype, norm.is_some());
    let planes_of = (sizes.samples * sizes.channels).div_ceil(lanes.side) * lanes.tiles;
    let planes = chunk(g.output[0], planes_of);
    let blocks = planes_of * g.output[0].div_ceil(planes);
    let mut args = vec![x, weight, bias];
    args.extend(norm_args(norm));
    args.extend(after);
    args.push(y);
    args.extend(sizes.places());
    args.extend([sizes.samples, sizes.channels].map(|v| Arg::I32(v as i32)));
    args.extend([sizes.x_sample, sizes.x_channel, sizes.y_sample].map(|v| Arg::I64(v as i64)));
    args.push(Arg::I32(i32::from(flip)));
    args.extend(lanes.args(planes));
    let grid = lanes.grid(blocks, taps);
    gpu.launch_for(&MODULE, &sizes.name("forward", how), dtype, grid, &args)
}

/// Output planes that a block walks over: all of them unless there are too few blocks; at least
/// eight, as each walk reads the planes of its border too.
fn chunk(depth: usize, blocks: usize) -> usize {
    let parts = BLOCKS.div_ceil(blocks.max(1));
    depth.div_ceil(parts).max(depth.min(8)).max(1)
}

/// The gradient of the kernels `[channels, taps]` into `dw`; `norm` as in [`forward`].
pub(crate) fn grad_weight(
    gpu: &Gpu,
    sizes: &Sizes,
    (x, dtype): (Arg, DType),
    dy: Arg,
    norm: Option<NormSilu>,
    dw: View,
) -> Result<()> {
    let (channels, taps) = (sizes.channels, sizes.geometry.taps());
    let (partial, blocks) = match Walks::new(sizes, &[x, dy], dtype) {
        Some(walks) => walks.weights(gpu, (x, dy), norm)?,
        None => weight_sums(gpu, sizes, (x, dtype), dy, norm)?,
    };
    let args = args![&partial, dw, channels as i32, taps as i32, blocks as i32];
    let grid = Grid::flat(channels * taps);
    gpu.launch(&MODULE, "depthwise_weight_sums", grid, args)
}

/// One sum a block of each channel and tap, `[channels, blocks, taps]`, and the blocks.
fn weight_sums(
    gpu: &Gpu,
    sizes: &Sizes,
    (x, dtype): (Arg, DType),
    dy: Arg,
    norm: Option<NormSilu>,
) -> Result<(Buf, usize)> {
    let g = &sizes.geometry;
    let channels = sizes.channels;
    let lanes = Lanes::new(g);
    let how = sizes.reading(&lanes, &[x, dy], dtype, norm.is_some());
    let of_channel = (sizes.samples * lanes.tiles).div_ceil(lanes.side);
    let planes = chunk(g.output[0], channels * of_channel);
    let items = (sizes.samples * lanes.tiles * g.output[0].div_ceil(planes)).div_ceil(lanes.side);
    let blocks = items.min(BLOCKS.div_ceil(channels)).max(1);
    let partial = gpu.uninit(DType::F32, channels * blocks * g.taps())?;
    let mut args = vec![x, dy];
    args.extend(norm_args(norm));
    args.push(Arg::from(&partial));
    args.extend(sizes.places());
    args.extend([sizes.samples, channels].map(|v| Arg::I32(v as i32)));
    args.extend([sizes.x_sample, sizes.x_channel, sizes.y_sample].map(|v| Arg::I64(v as i64)));
    args.extend(lanes.args(planes));
    args.push(Arg::I32(blocks as i32));
    let grid = lanes.grid(channels * blocks, 0);
    let name = sizes.name("weight_gradient", how);
    gpu.launch_for(&MODULE, &name, dtype, grid, &args)?;
    Ok((partial, blocks))
}
