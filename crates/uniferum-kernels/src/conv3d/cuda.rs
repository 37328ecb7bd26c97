//! Dense and grouped convolution on CUDA.

use candle_core::{DType, Result, Tensor};

use super::{Conv3d, OP};
use crate::batch_norm::cuda::channel_sums;
use crate::cuda::{Arg, Buf, Gpu, Grid, Input, Mat, Module, args, module, record2, record3};
use crate::depthwise::cuda as depthwise;
use crate::geometry::Conv3dConfig;

const MODULE: Module = module!("conv3d");

/// [`conv3d`](super::conv3d) on CUDA, but for depthwise convolutions.
pub(super) fn conv3d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    cfg: &Conv3dConfig,
) -> Result<Tensor> {
    let conv = Conv3d::new(x.dims(), weight.dims(), cfg)?;
    let one_input = conv.c_in == 1 && !x.track_op();
    if one_input && depthwise::Sizes::supported(&conv.geometry) {
        // The stem: every output channel is a convolution of the one input channel.
        let sizes = depthwise::Sizes {
            x_channel: 0,
            x_sample: conv.geometry.in_voxels(),
            ..depthwise::Sizes::new(conv.batch, conv.c_out, conv.geometry)
        };
        return depthwise::apply(x, weight, bias, sizes, (conv.batch, conv.c_out));
    }
    grouped(x, weight, bias, cfg)
}

/// Any convolution, by matrix products where the kernel is one voxel.
pub(crate) fn grouped(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    cfg: &Conv3dConfig,
) -> Result<Tensor> {
    let conv = Conv3d::new(x.dims(), weight.dims(), cfg)?;
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let value = forward(&conv, &x, &weight, bias.as_ref())?;
    let shape = conv.out_shape();
    let of_both = move |x: &Tensor, weight: &Tensor, dy: &Tensor| grads(&conv, x, weight, dy);
    record(OP, value, shape, [&x, &weight], bias.as_ref(), of_both)
}

/// A convolution of any kind as a node of the graph: `grads` gives the gradients of input and
/// weight, that of the bias is the same for all.
pub(crate) fn record<F>(
    op: &'static str,
    value: Buf,
    shape: (usize, usize, usize, usize, usize),
    [x, weight]: [&Tensor; 2],
    bias: Option<&Tensor>,
    grads: F,
) -> Result<Tensor>
where
    F: Fn(&Tensor, &Tensor, &Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
{
    let Some(bias) = bias else {
        return record2(op, value, shape, [x, weight], move |[x, weight], dy| {
            grads(x, weight, dy)
        });
    };
    record3(
        op,
        value,
        shape,
        [x, weight, bias],
        move |[x, weight, bias], dy| {
            let [dx, dw] = grads(x, weight, dy)?;
            Ok([dx, dw, grad_bias(op, bias, dy)?])
        },
    )
}

/// Sums of a gradient `[B, C, ...]` over everything but the channel, if `bias` asks for one.
fn grad_bias(op: &'static str, bias: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
    let sums = || {
        let gpu = Gpu::of(op, dy)?;
        Ok(channel_sums(&gpu, &gpu.read(dy)?, dy.dims())?.tensor(bias.shape()))
    };
    bias.track_op().then(sums).transpose()
}

impl Conv3d {
    fn is_product(&self) -> bool {
        self.geometry.is_pointwise() && self.groups == 1
    }

    fn args(&self, arrays: &[Arg]) -> Vec<Arg> {
        let g = &self.geometry;
        let sizes = [self.batch, self.c_in, self.c_out, self.groups];
        let axes = [g.input, g.output, g.kernel, g.stride, g.before];
        let sizes = sizes.iter().chain(axes.iter().flatten());
        let sizes = sizes.map(|v| Arg::I32(*v as i32));
        arrays.iter().copied().chain(sizes).collect()
    }

    /// The weight of a convolution of one voxel, in the type of the activations.
    fn matrix(&self, gpu: &Gpu, weight: &Input<'_>, dtype: DType) -> Result<(Option<Buf>, Mat)> {
        let cast = (dtype != DType::F32)
            .then(|| gpu.cast(weight, dtype))
            .transpose()?;
        let ptr = cast.as_ref().map_or(weight.at(0), |w| w.at(0));
        Ok((cast, Mat::new(ptr, dtype, self.c_in, 0)))
    }

    /// The volumes of a sample as a matrix `[channels, voxels]`.
    fn volumes(&self, ptr: u64, dtype: DType, channels: usize) -> Mat {
        let n = self.geometry.in_voxels();
        Mat::new(ptr, dtype, n, channels * n)
    }
}

fn forward(conv: &Conv3d, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Buf> {
    let gpu = Gpu::of(OP, x)?;
    let (xs, w) = (gpu.read(x)?, gpu.read_f32(weight)?);
    let b = bias.map(|b| gpu.read_f32(b)).transpose()?;
    let n = conv.geometry.out_voxels();
    let y = gpu.uninit(xs.dtype, conv.batch * conv.c_out * n)?;
    if conv.is_product() {
        let (_cast, matrix) = conv.matrix(&gpu, &w, xs.dtype)?;
        let input = conv.volumes(xs.at(0), xs.dtype, conv.c_in);
        let output = conv.volumes(y.at(0), y.dtype, conv.c_out);
        let sizes = [conv.c_out, n, conv.c_in];
        gpu.gemm(matrix, input, output, sizes, conv.batch, false)?;
        if let Some(b) = &b {
            gpu.add_bias(&y, b, n)?;
        }
        return Ok(y);
    }
    let bias = Arg::from(b.as_ref());
    let args = conv.args(args![&xs, &w, bias, &y]);
    let grid = Grid::flat(y.len);
    gpu.launch_for(&MODULE, "conv3d_forward", xs.dtype, grid, &args)?;
    Ok(y)
}

fn grads(conv: &Conv3d, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
    let gpu = Gpu::of(OP, dy)?;
    let (xs, w, dys) = (gpu.read(x)?, gpu.read_f32(weight)?, gpu.read(dy)?);
    let dx = || {
        let dx = gpu.uninit(dys.dtype, xs.len)?;
        if conv.is_product() {
            let (_cast, matrix) = conv.matrix(&gpu, &w, dys.dtype)?;
            let n = conv.geometry.in_voxels();
            let slope = conv.volumes(dys.at(0), dys.dtype, conv.c_out);
            let to = conv.volumes(dx.at(0), dx.dtype, conv.c_in);
            let sizes = [conv.c_in, n, conv.c_out];
            gpu.gemm(matrix.t(), slope, to, sizes, conv.batch, false)?;
        } else {
            let args = conv.args(args![&dys, &w, &dx]);
            let grid = Grid::flat(dx.len);
            gpu.launch_for(&MODULE, "conv3d_input_gradient", dys.dtype, grid, &args)?;
        }
        Result::Ok(dx.tensor(x.shape()))
    };
    let dw = || {
        let dw = gpu.uninit(DType::F32, w.len)?;
        if conv.is_product() {
            let n = conv.geometry.in_voxels();
            for b in 0..conv.batch {
                let slope = conv.volumes(dys.at(b * conv.c_out * n), dys.dtype, conv.c_out);
                let input = conv.volumes(xs.at(b * conv.c_in * n), xs.dtype, conv.c_in);
                let to = Mat::new(dw.at(0), DType::F32, conv.c_in, 0);
                let sizes = [conv.c_out, conv.c_in, n];
                gpu.gemm(slope, input.t(), to, sizes, 1, b > 0)?;
            }
        } else {
            let args = conv.args(args![&xs, &dys, &dw]);
            let grid = Grid::new(w.len, 256);
            gpu.launch_for(&MODULE, "conv3d_weight_gradient", xs.dtype, grid, &args)?;
        }
        Result::Ok(dw.tensor(weight.shape()))
    };
    Ok([
        x.track_op().then(dx).transpose()?,
        weight.track_op().then(dw).transpose()?,
    ])
}
