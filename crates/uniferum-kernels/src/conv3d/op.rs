//! A convolution on the host as a node of candle's graph, with a bias or without.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::cpu::channel_sums;
use crate::geometry::dims5;
use crate::host;

/// A convolution with all its sizes known, over `f32` slices.
pub(crate) trait HostConv: Send + Sync + 'static {
    /// The operation's name.
    const OP: &'static str;

    /// The sizes of the result, `[B, C_out, D', H', W']`.
    fn result(&self) -> [usize; 5];

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32>;

    fn grad_input(&self, weight: &[f32], dy: &[f32]) -> Vec<f32>;

    fn grad_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32>;
}

/// The convolution of CPU tensors that fit it.
pub(crate) fn convolve<C: HostConv>(
    conv: C,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        None => x.apply_op2(&weight, Op(conv)),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Op(conv)),
    }
}

struct Op<C>(C);

impl<C: HostConv> Op<C> {
    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> (CpuStorage, Shape) {
        let y = self.0.forward(x, weight, bias);
        (CpuStorage::F32(y), Shape::from(&self.0.result()))
    }

    /// The gradients of input and weight; `dy` is contiguous.
    fn grads(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let conv = &self.0;
        Ok((
            host::gradient(C::OP, x, [w, dy], |[w, dy]| conv.grad_input(w, dy))?,
            host::gradient(C::OP, w, [x, dy], |[x, dy]| conv.grad_weight(x, dy))?,
        ))
    }
}

impl<C: HostConv> CustomOp2 for Op<C> {
    fn name(&self) -> &'static str {
        C::OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let w = host::f32_slice(C::OP, w, lw)?;
        Ok(self.forward(host::f32_slice(C::OP, x, lx)?, w, None))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.grads(x, w, &dy.contiguous()?)
    }
}

impl<C: HostConv> CustomOp3 for Op<C> {
    fn name(&self) -> &'static str {
        C::OP
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
        let w = host::f32_slice(C::OP, w, lw)?;
        let b = host::f32_slice(C::OP, b, lb)?;
        Ok(self.forward(host::f32_slice(C::OP, x, lx)?, w, Some(b)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = &dy.contiguous()?;
        let (dx, dw) = self.grads(x, w, dy)?;
        Ok((dx, dw, grad_bias(C::OP, b, dy)?))
    }
}

/// The bias's gradient: sums of `dy` `[B, C, D, H, W]` over everything but the channel.
fn grad_bias(op: &'static str, bias: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
    let (batch, channels, spatial) = dims5(op, "gradient shape", dy.dims())?;
    let voxels = spatial.iter().product();
    host::gradient(op, bias, [dy], |[dy]| {
        channel_sums(dy, batch, channels, voxels)
    })
}
