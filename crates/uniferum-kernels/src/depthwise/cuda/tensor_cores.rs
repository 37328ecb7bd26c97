//! Depthwise convolution of bf16 with a step of 1 on tensor cores; see `tensor_cores.cu`.

use std::sync::OnceLock;

use candle_core::{DType, Result};

use super::{BLOCKS, Behind, NormSilu, Sizes, THREADS, behind_args, chunk, norm_args};
use crate::cuda::{Arg, Buf, Gpu, Grid, Module, module};

const MODULE: Module = module!("tensor_cores");
/// Outputs of a window, windows of a warp, rows of a strip, warps of a block, as the kernels have them.
const WINDOW: usize = 8;
const SLOTS: usize = 16;
const TALL: usize = 4;
const WARPS: usize = THREADS / 32;

/// How warps walk over a convolution.
pub(super) struct Walks {
    sizes: Sizes,
    /// Windows of a row in a warp, and output planes of a walk.
    across: usize,
    planes: usize,
    /// Walks through each channel.
    count: usize,
}

impl Walks {
    /// None where the kernels are not made for this convolution or these arrays.
    pub(super) fn new(sizes: &Sizes, arrays: &[Arg], dtype: DType) -> Option<Self> {
        let g = &sizes.geometry;
        let same = g.stride == [1; 3] && g.input == g.output && g.before == g.kernel.map(|k| k / 2);
        let pairs = [g.input[2], sizes.x_channel, sizes.x_sample, sizes.y_sample];
        let aligned = |array: &Arg| matches!(array, Arg::Ptr(at) if at % 4 == 0);
        let fits = same
            && dtype == DType::BF16
            && pairs.into_iter().all(|n| n % 2 == 0)
            && arrays.iter().all(aligned);
        (fits && wanted()).then(|| Self::over(sizes))
    }

    fn over(sizes: &Sizes) -> Self {
        let [depth, height, width] = sizes.geometry.input;
        let windows = width.div_ceil(WINDOW);
        let across = windows.next_power_of_two().min(SLOTS / 2);
        let strips = sizes.samples * height.div_ceil(TALL);
        let flat = windows.div_ceil(across) * (strips * across).div_ceil(SLOTS);
        let planes = chunk(depth, (sizes.channels * flat).div_ceil(WARPS));
        Self {
            sizes: *sizes,
            across,
            planes,
            count: flat * depth.div_ceil(planes),
        }
    }

    fn args(&self) -> Vec<Arg> {
        let s = &self.sizes;
        let [depth, height, width] = s.geometry.input;
        let small = [
            s.samples,
            s.channels,
            depth,
            height,
            width,
            self.across,
            self.planes,
        ];
        let large = [s.x_sample, s.x_channel, s.y_sample];
        let small = small.map(|v| Arg::I32(v as i32));
        small
            .into_iter()
            .chain(large.map(|v| Arg::I64(v as i64)))
            .collect()
    }

    fn name(&self, what: &str, normed: bool) -> String {
        let how = if normed { "_normed" } else { "" };
        format!(
            "depthwise_tensor_{what}{how}_k{}",
            self.sizes.geometry.kernel[0]
        )
    }

    /// As [`walk`](super::walk).
    pub(super) fn forward(
        &self,
        gpu: &Gpu,
        (x, weight, bias, y): (Arg, Arg, Arg, Arg),
        norm: Option<NormSilu>,
        behind: Option<Behind>,
        flip: bool,
    ) -> Result<()> {
        let mut args = vec![x, weight, bias];
        args.extend(norm_args(norm));
        args.extend(behind_args(behind));
        args.push(y);
        args.extend(self.args());
        args.push(Arg::I32(i32::from(flip)));
        let blocks = (self.sizes.channels * self.count).div_ceil(WARPS);
        let name = self.name("forward", norm.is_some());
        gpu.launch(&MODULE, &name, Grid::new(blocks, THREADS), &args)
    }

    /// One sum a block of each channel and tap, `[channels, blocks, taps]`, and the blocks.
    pub(super) fn weights(
        &self,
        gpu: &Gpu,
        (x, dy): (Arg, Arg),
        norm: Option<NormSilu>,
    ) -> Result<(Buf, usize)> {
        let (channels, taps) = (self.sizes.channels, self.sizes.geometry.taps());
        let most = BLOCKS.div_ceil(channels);
        let blocks = self.count.div_ceil(WARPS).min(most).max(1);
        let partial = gpu.uninit(DType::F32, channels * blocks * taps)?;
        let mut args = vec![x, dy];
        args.extend(norm_args(norm));
        args.push(Arg::from(&partial));
        args.extend(self.args());
        args.push(Arg::I32(blocks as i32));
        let name = self.name("weights", norm.is_some());
        gpu.launch(&MODULE, &name, Grid::new(channels * blocks, THREADS), &args)?;
        Ok((partial, blocks))
    }
}

/// `UNIFERUM_TENSOR_CORES=0` leaves these kernels out, to compare.
fn wanted() -> bool {
    static WANTED: OnceLock<bool> = OnceLock::new();
    *WANTED.get_or_init(|| std::env::var("UNIFERUM_TENSOR_CORES").as_deref() != Ok("0"))
}
