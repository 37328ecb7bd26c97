//! Depthwise 3-D convolution: each channel has its own kernel.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fir;
mod phases;

use candle_core::{Result, Shape, Tensor};

use crate::conv3d::cpu::channel_sums;
use crate::error::{check_shape, invalid};
use crate::geometry::{Conv3dConfig, Geometry, dims5};
use crate::simd::Simd;
use crate::weighted::{self, Weighted};

pub(crate) use phases::Phases;

const OP: &str = "depthwise_conv3d";

/// Depthwise 3-D convolution, with backward: a direct kernel along the width, one task for
/// each sample and channel.
///
/// `cfg.groups` is taken to be the number of channels, whatever it says.
///
/// # Shapes
/// `x` is `[B, C, D, H, W]`, `weight` `[C, 1, K_d, K_h, K_w]`, `bias` `[C]`; the result is
/// `[B, C, D', H', W']`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn depthwise_conv3d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    cfg: &Conv3dConfig,
) -> Result<Tensor> {
    let conv = Depthwise::new(x.dims(), weight.dims(), cfg)?;
    if let Some(bias) = bias {
        check_shape(OP, "bias", bias, &[conv.channels])?;
    }
    on_cuda!(x => crate::conv3d::cuda::conv3d(OP, x, weight, bias, &Conv3dConfig {
        groups: conv.channels,
        ..*cfg
    }));
    weighted::apply(conv, x, weight, bias)
}

/// A depthwise convolution with all its sizes known.
#[derive(Debug, Clone, Copy)]
struct Depthwise {
    batch: usize,
    channels: usize,
    geometry: Geometry,
}

impl Depthwise {
    fn new(x: &[usize], weight: &[usize], cfg: &Conv3dConfig) -> Result<Self> {
        let (batch, channels, input) = dims5(OP, "input shape", x)?;
        let (c_out, one, kernel) = dims5(OP, "weight shape", weight)?;
        if c_out != channels || one != 1 {
            let expected = format!("[{channels}, 1, ..]");
            return Err(invalid(OP, "weight shape", expected, format!("{weight:?}")).into());
        }
        let geometry = Geometry::new(OP, input, kernel, cfg.stride, cfg.padding)?;
        Ok(Self {
            batch,
            channels,
            geometry,
        })
    }
}

impl Weighted for Depthwise {
    const OP: &'static str = OP;

    fn result(&self, _x: &Shape) -> Shape {
        let [d, h, w] = self.geometry.output;
        Shape::from((self.batch, self.channels, d, h, w))
    }

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
        cpu::forward(Simd::detect(), self, x, weight, bias)
    }

    fn grad_input(&self, weight: &[f32], dy: &[f32]) -> Vec<f32> {
        cpu::grad_input(Simd::detect(), self, weight, dy)
    }

    fn grad_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        cpu::grad_weight(Simd::detect(), self, x, dy)
    }

    fn grad_bias(&self, dy: &[f32]) -> Vec<f32> {
        channel_sums(dy, self.batch, self.channels, self.geometry.out_voxels())
    }
}
