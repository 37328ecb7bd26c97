//! Linear maps by a weight, such as convolutions, as nodes of candle's graph on the host, with a bias or without.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use crate::host;

/// A map with all its sizes known but those of a batch, over `f32` slices.
pub(crate) trait Weighted: Send + Sync + 'static {
    /// The operation's name.
    const OP: &'static str;

    /// The shape of the result for an input of that shape.
    fn result(&self, x: &Shape) -> Shape;

    fn forward(&self, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32>;

    fn grad_input(&self, weight: &[f32], dy: &[f32]) -> Vec<f32>;

    fn grad_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32>;

    /// Sums of `dy` over all that one element of the bias is added to.
    fn grad_bias(&self, dy: &[f32]) -> Vec<f32>;
}

/// The map of CPU tensors that fit it.
pub(crate) fn apply<W: Weighted>(
    map: W,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        None => x.apply_op2(&weight, Op(map)),
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, Op(map)),
    }
}

struct Op<W>(W);

impl<W: Weighted> Op<W> {
    fn forward(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(W::OP, x, layout)?;
        let y = self.0.forward(x, weight, bias);
        Ok((CpuStorage::F32(y), self.0.result(layout.shape())))
    }

    /// The gradients of input and weight; `dy` is contiguous.
    fn grads(
        &self,
        x: &Tensor,
        w: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let map = &self.0;
        Ok((
            host::gradient(W::OP, x, [w, dy], |[w, dy]| map.grad_input(w, dy))?,
            host::gradient(W::OP, w, [x, dy], |[x, dy]| map.grad_weight(x, dy))?,
        ))
    }
}

impl<W: Weighted> CustomOp2 for Op<W> {
    fn name(&self) -> &'static str {
        W::OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let w = host::f32_slice(W::OP, w, lw)?;
        self.forward((x, lx), w, None)
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

impl<W: Weighted> CustomOp3 for Op<W> {
    fn name(&self) -> &'static str {
        W::OP
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
        let w = host::f32_slice(W::OP, w, lw)?;
        let b = host::f32_slice(W::OP, b, lb)?;
        self.forward((x, lx), w, Some(b))
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
        let db = host::gradient(W::OP, b, [dy], |[dy]| self.0.grad_bias(dy))?;
        Ok((dx, dw, db))
    }
}
