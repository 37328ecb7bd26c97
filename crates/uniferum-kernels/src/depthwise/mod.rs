//! Depthwise 3-D convolution: each channel has its own kernel.

mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fir;
mod phases;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::conv3d::{check_bias, grad_bias};
use crate::error::invalid;
use crate::geometry::{Conv3dConfig, Geometry, dims5};
use crate::host;
use crate::simd::Simd;

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
        check_bias(OP, bias, conv.channels)?;
    }
    on_cuda!(x => crate::conv3d::cuda::conv3d(OP, x, weight, bias, &Conv3dConfig {
        groups: conv.channels,
        ..*cfg
    }));
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        None => x.apply_op2(&weight, conv),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, conv),
    }
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

    fn shape(&self, [d, h, w]: [usize; 3]) -> (usize, usize, usize, usize, usize) {
        (self.batch, self.channels, d, h, w)
    }

    fn forward(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let y = cpu::forward(Simd::detect(), self, x, w, bias);
        (CpuStorage::F32(y), self.shape(self.geometry.output).into())
    }

    fn grads(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let dy = dy.contiguous()?;
        let simd = Simd::detect();
        let dx = x.track_op().then(|| {
            let grad = host::with_f32(OP, weight, |w| {
                host::with_f32(OP, &dy, |dy| cpu::grad_input(simd, self, w, dy))
            })??;
            Ok::<_, candle_core::Error>(host::tensor(grad, self.shape(self.geometry.input)))
        });
        let dw = weight.track_op().then(|| {
            let grad = host::with_f32(OP, x, |x| {
                host::with_f32(OP, &dy, |dy| cpu::grad_weight(simd, self, x, dy))
            })??;
            Ok::<_, candle_core::Error>(host::tensor(grad, weight.shape()))
        });
        Ok([dx.transpose()?, dw.transpose()?])
    }
}

impl CustomOp2 for Depthwise {
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
        Ok(self.forward(
            host::f32_slice(OP, x, lx)?,
            host::f32_slice(OP, w, lw)?,
            None,
        ))
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

impl CustomOp3 for Depthwise {
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
        Ok(self.forward(x, w, Some(host::f32_slice(OP, b, lb)?)))
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
