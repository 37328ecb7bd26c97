//! Dense and grouped convolution on CUDA.

use candle_core::{DType, Result, Tensor};

use super::Conv3d;
use crate::batch_norm::cuda::channel_sums;
use crate::cuda::{
    Arg, Buf, Gpu, Grid, Mat, Module, View, Weights, args, module, record2, record3,
};
use crate::depthwise::cuda as depthwise;
use crate::geometry::Conv3dConfig;

const MODULE: Module = module!("conv3d");

/// [`conv3d`](super::conv3d) on CUDA.
pub(crate) fn conv3d(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    cfg: &Conv3dConfig,
) -> Result<Tensor> {
    let conv = Conv3d::new(x.dims(), weight.dims(), cfg)?;
    let shape = conv.out_dims().to_vec();
    let convolution = Convolution::new(conv, x.track_op());
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let bias = bias.map(Tensor::contiguous).transpose()?;
    let gpu = Gpu::of(op, &x)?;
    let value = {
        let (xs, w) = (gpu.read(&x)?, gpu.read_f32(&weight)?);
        let b = bias.as_ref().map(|b| gpu.read_f32(b)).transpose()?;
        let bias = b.as_ref().map(View::from);
        let (x, w) = (View::from(&xs), View::from(&w));
        let rounded = convolution.rounded(&gpu, w, x.dtype)?;
        convolution.forward(&gpu, x, Weights::new(w, rounded.as_ref()), bias)?
    };
    let grads = move |x: &Tensor, weight: &Tensor, dy: &Tensor| {
        let gpu = Gpu::of(op, dy)?;
        let (xs, w, dys) = (gpu.read(x)?, gpu.read_f32(weight)?, gpu.read(dy)?);
        let (xs, w, dys) = (View::from(&xs), View::from(&w), View::from(&dys));
        let dx = || {
            let rounded = convolution.rounded(&gpu, w, dys.dtype)?;
            let weight = Weights::new(w, rounded.as_ref());
            Result::Ok(convolution.grad_input(&gpu, weight, dys)?.tensor(x.shape()))
        };
        let dw = || {
            let dw = gpu.uninit(DType::F32, weight.elem_count())?;
            convolution.grad_weight(&gpu, xs, dys, View::from(&dw))?;
            Result::Ok(dw.tensor(weight.shape()))
        };
        Result::Ok([
            x.track_op().then(dx).transpose()?,
            weight.track_op().then(dw).transpose()?,
        ])
    };
    let Some(bias) = &bias else {
        return record2(op, value, shape, [&x, &weight], move |[x, weight], dy| {
            grads(x, weight, dy)
        });
    };
    record3(
        op,
        value,
        shape,
        [&x, &weight, bias],
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
        Ok(channel_sums(&gpu, View::from(&gpu.read(dy)?), dy.dims())?.tensor(bias.shape()))
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

    /// The volumes of a sample as a matrix `[channels, voxels]`.
    fn volumes(&self, ptr: u64, dtype: DType, channels: usize) -> Mat {
        let n = self.geometry.in_voxels();
        Mat::new(ptr, dtype, n, channels * n)
    }
}

/// How a convolution is computed.
pub(crate) struct Convolution {
    conv: Conv3d,
    /// The walk along the depth that depthwise kernels take, where one channel is read at a time.
    walk: Option<depthwise::Sizes>,
}

impl Convolution {
    /// `track` for a convolution whose input has a gradient.
    pub(crate) fn new(conv: Conv3d, track: bool) -> Self {
        let sizes = depthwise::Sizes::new(conv.batch, conv.c_out, conv.geometry);
        let supported = depthwise::Sizes::supported(&conv.geometry);
        let walk = if !supported {
            None
        } else if conv.groups == conv.c_in && conv.c_in == conv.c_out {
            Some(sizes)
        } else if conv.c_in == 1 && !track {
            // The stem: every output channel is a convolution of the one input channel.
            Some(depthwise::Sizes {
                x_channel: 0,
                x_sample: conv.geometry.in_voxels(),
                ..sizes
            })
        } else {
            None
        };
        Self { conv, walk }
    }

    /// The weight for [`Weights`], where a product reads it.
    pub(crate) fn rounded(&self, gpu: &Gpu, weight: View, dtype: DType) -> Result<Option<Buf>> {
        if self.walk.is_some() || !self.conv.is_product() {
            return Ok(None);
        }
        gpu.rounded(weight, dtype)
    }

    /// The convolution of `x`; `weight` may be the begin of more parameters.
    pub(crate) fn forward(
        &self,
        gpu: &Gpu,
        x: View,
        weight: Weights,
        bias: Option<View>,
    ) -> Result<Buf> {
        let conv = &self.conv;
        let n = conv.geometry.out_voxels();
        let y = gpu.uninit(x.dtype, conv.batch * conv.c_out * n)?;
        let shift = bias.map_or(Arg::NULL, Arg::from);
        if let Some(sizes) = &self.walk {
            let (x, to) = ((Arg::from(x), x.dtype), Arg::from(&y));
            let weight = Arg::from(weight.exact);
            depthwise::forward(gpu, sizes, x, weight, shift, None, to)?;
        } else if conv.is_product() {
            let matrix = weight.matrix(0, conv.c_in);
            let input = conv.volumes(x.at(0), x.dtype, conv.c_in);
            let output = conv.volumes(y.at(0), y.dtype, conv.c_out);
            let sizes = [conv.c_out, n, conv.c_in];
            gpu.gemm(matrix, input, output, sizes, conv.batch, false)?;
            if let Some(bias) = bias {
                gpu.add_bias(&y, bias, n)?;
            }
        } else {
            let args = conv.args(args![x, weight.exact, shift, &y]);
            let grid = Grid::flat(y.len);
            gpu.launch_for(&MODULE, "conv3d_forward", x.dtype, grid, &args)?;
        }
        Ok(y)
    }

    /// The gradient of the input.
    pub(crate) fn grad_input(&self, gpu: &Gpu, weight: Weights, dy: View) -> Result<Buf> {
        let conv = &self.conv;
        let n = conv.geometry.in_voxels();
        let dx = gpu.uninit(dy.dtype, conv.batch * conv.c_in * n)?;
        if let Some(sizes) = &self.walk {
            let (dy, to) = ((Arg::from(dy), dy.dtype), Arg::from(&dx));
            depthwise::grad_input(gpu, sizes, dy, Arg::from(weight.exact), None, to)?;
        } else if conv.is_product() {
            let matrix = weight.matrix(0, conv.c_in);
            let slope = conv.volumes(dy.at(0), dy.dtype, conv.c_out);
            let to = conv.volumes(dx.at(0), dx.dtype, conv.c_in);
            let sizes = [conv.c_in, n, conv.c_out];
            gpu.gemm(matrix.t(), slope, to, sizes, conv.batch, false)?;
        } else {
            let args = conv.args(args![dy, weight.exact, &dx]);
            let grid = Grid::flat(dx.len);
            gpu.launch_for(&MODULE, "conv3d_input_gradient", dy.dtype, grid, &args)?;
        }
        Ok(dx)
    }

    /// The gradient of the weight, of `f32`, into `dw`.
    pub(crate) fn grad_weight(&self, gpu: &Gpu, x: View, dy: View, dw: View) -> Result<()> {
        let conv = &self.conv;
        if let Some(sizes) = &self.walk {
            let input = (Arg::from(x), x.dtype);
            return depthwise::grad_weight(gpu, sizes, input, Arg::from(dy), None, dw);
        }
        if conv.is_product() {
            let slope = conv.volumes(dy.at(0), dy.dtype, conv.c_out);
            let input = conv.volumes(x.at(0), x.dtype, conv.c_in);
            let sizes = [conv.c_out, conv.c_in, conv.geometry.in_voxels()];
            return gpu.outer_products(slope, input, dw, sizes, conv.batch);
        }
        let args = conv.args(args![x, dy, dw]);
        let grid = Grid::new(dw.len, 256);
        gpu.launch_for(&MODULE, "conv3d_weight_gradient", x.dtype, grid, &args)
    }
}
