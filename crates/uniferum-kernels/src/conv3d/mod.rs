//! Dense and grouped 3-D convolution.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;

use candle_core::{Result, Shape, Tensor};

use crate::depthwise;
use crate::error::{check_shape, invalid};
use crate::geometry::{Conv3dConfig, Geometry, dims5};
use crate::weighted::{self, Weighted};

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
        check_shape(OP, "bias", bias, &[conv.c_out])?;
    }
    on_cuda!(x => cuda::conv3d(OP, x, weight, bias, cfg));
    weighted::apply(conv, x, weight, bias)
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

    pub(crate) fn out_dims(&self) -> [usize; 5] {
        let [d, h, w] = self.geometry.output;
        [self.batch, self.c_out, d, h, w]
    }
}

impl Weighted for Conv3d {
    const OP: &'static str = OP;

    fn result(&self, _x: &Shape) -> Shape {
        Shape::from(&self.out_dims())
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        cpu::forward(self, x, weight, bias)
    }

    fn grad_input(&self, weight: &[f32], dy: &[f32]) -> Vec<f32> {
        cpu::grad_input(self, weight, dy)
    }

    fn grad_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        cpu::grad_weight(self, x, dy)
    }

    fn grad_bias(&self, dy: &[f32]) -> Vec<f32> {
        cpu::channel_sums(dy, self.batch, self.c_out, self.geometry.out_voxels())
    }
}
