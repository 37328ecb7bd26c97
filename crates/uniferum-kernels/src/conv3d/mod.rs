//! Dense and grouped 3-D convolution.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::depthwise;
use crate::error::invalid;
use crate::geometry::{Conv3dConfig, Geometry, dims5};
use crate::host;

const OP: &str = "conv3d";

/// 3-D convolution (cross-correlation, as deep learning has it), with backward.
///
/// A kernel of 1 voxel runs as a matrix product in place, a depthwise one (as many groups as
/// channels) as [`depthwise_conv3d`](crate::depthwise_conv3d), others through small lowered
/// slabs; no full-size copy of the input is made.
///
/// # Shapes
/// `x` is `[B, C_in, D, H, W]`, `weight` `[C_out, C_in / groups, K_d, K_h, K_w]`, `bias`
/// `[C_out]`; the result is `[B, C_out, D', H', W']`.
///
/// # Errors
/// When shapes, groups or the kernel's size do not fit together, or for a tensor that is not
/// `f32`.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use uniferum_kernels::{Conv3dConfig, Padding3, conv3d};
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::ones((1, 2, 8, 7, 6), candle_core::DType::F32, &Device::Cpu)?;
/// let weight = Tensor::ones((4, 2, 3, 3, 3), candle_core::DType::F32, &Device::Cpu)?;
/// let cfg = Conv3dConfig { stride: [2; 3], padding: Padding3::Same, ..Default::default() };
/// assert_eq!(conv3d(&x, &weight, None, &cfg)?.dims(), [1, 4, 4, 4, 3]);
/// # Ok(()) }
/// ```
pub fn conv3d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    cfg: &Conv3dConfig,
) -> Result<Tensor> {
    let conv = Conv3d::new(x.dims(), weight.dims(), cfg)?;
    if cfg.groups > 1 && cfg.groups == conv.c_in && conv.c_out == conv.c_in {
        return depthwise::depthwise_conv3d(x, weight, bias, cfg);
    }
    if let Some(bias) = bias {
        check_bias(OP, bias, conv.c_out)?;
    }
    on_cuda!(x => cuda::conv3d(OP, x, weight, bias, cfg));
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        None => x.apply_op2(&weight, conv),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, conv),
    }
}

pub(crate) fn check_bias(op: &'static str, bias: &Tensor, c_out: usize) -> Result<()> {
    if bias.dims() == [c_out] {
        return Ok(());
    }
    Err(invalid(
        op,
        "bias shape",
        format!("[{c_out}]"),
        format!("{:?}", bias.dims()),
    )
    .into())
}

/// A convolution with all its sizes known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv3d {
    pub(crate) batch: usize,
    pub(crate) c_in: usize,
    pub(crate) c_out: usize,
    pub(crate) groups: usize,
    pub(crate) geometry: Geometry,
}

impl Conv3d {
    pub(crate) fn new(x: &[usize], weight: &[usize], cfg: &Conv3dConfig) -> Result<Self> {
        let (batch, c_in, input) = dims5(OP, "input shape", x)?;
        let (c_out, c_group, kernel) = dims5(OP, "weight shape", weight)?;
        let groups = cfg.groups;
        if groups == 0 || c_in % groups != 0 || c_out % groups != 0 {
            let expected = format!("a divisor of the channels {c_in} and {c_out}");
            return Err(invalid(OP, "groups", expected, groups).into());
        }
        if c_group != c_in / groups {
            let expected = format!("{} input channels a group", c_in / groups);
            return Err(invalid(OP, "weight shape", expected, c_group).into());
        }
        let geometry = Geometry::new(OP, input, kernel, cfg.stride, cfg.padding)?;
        Ok(Self {
            batch,
            c_in,
            c_out,
            groups,
            geometry,
        })
    }

    pub(crate) fn group_in(&self) -> usize {
        self.c_in / self.groups
    }

    pub(crate) fn group_out(&self) -> usize {
        self.c_out / self.groups
    }

    fn in_shape(&self) -> (usize, usize, usize, usize, usize) {
        let [d, h, w] = self.geometry.input;
        (self.batch, self.c_in, d, h, w)
    }

    pub(crate) fn out_dims(&self) -> [usize; 5] {
        let [d, h, w] = self.geometry.output;
        [self.batch, self.c_out, d, h, w]
    }

    fn out_shape(&self) -> (usize, usize, usize, usize, usize) {
        let [d, h, w] = self.geometry.output;
        (self.batch, self.c_out, d, h, w)
    }

    fn weight_shape(&self) -> (usize, usize, usize, usize, usize) {
        let [d, h, w] = self.geometry.kernel;
        (self.c_out, self.group_in(), d, h, w)
    }

    fn grads(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let dy = dy.contiguous()?;
        let dx = x.track_op().then(|| {
            let grad = host::with_f32(OP, weight, |w| {
                host::with_f32(OP, &dy, |dy| cpu::grad_input(self, w, dy))
            })??;
            Ok::<_, candle_core::Error>(host::tensor(grad, self.in_shape()))
        });
        let dw = weight.track_op().then(|| {
            let grad = host::with_f32(OP, x, |x| {
                host::with_f32(OP, &dy, |dy| cpu::grad_weight(self, x, dy))
            })??;
            Ok::<_, candle_core::Error>(host::tensor(grad, self.weight_shape()))
        });
        Ok([dx.transpose()?, dw.transpose()?])
    }
}

impl CustomOp2 for Conv3d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(OP, x, lx)?;
        let w = host::f32_slice(OP, w, lw)?;
        let y = cpu::forward(self, x, w, None);
        Ok((CpuStorage::F32(y), self.out_shape().into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw] = self.grads(x, w, dy)?;
        Ok((dx, dw))
    }
}

impl CustomOp3 for Conv3d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (host::f32_slice(OP, x, lx)?, host::f32_slice(OP, w, lw)?);
        let y = cpu::forward(self, x, w, Some(host::f32_slice(OP, b, lb)?));
        Ok((CpuStorage::F32(y), self.out_shape().into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw] = self.grads(x, w, dy)?;
        let db = b.track_op().then(|| grad_bias(OP, dy)).transpose()?;
        Ok((dx, dw, db))
    }
}

/// Sums of a gradient `[B, C, D, H, W]` over everything but the channel.
pub(crate) fn grad_bias(op: &'static str, dy: &Tensor) -> Result<Tensor> {
    let (batch, channels, spatial) = dims5(op, "gradient shape", dy.dims())?;
    let voxels = spatial.iter().product();
    let sums = host::with_f32(op, &dy.contiguous()?, |dy| {
        cpu::channel_sums(dy, batch, channels, voxels)
    })?;
    Ok(host::tensor(sums, channels))
}
