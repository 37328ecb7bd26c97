//! Layer normalisation over the last axis.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::error::invalid;
use crate::host;

const OP: &str = "layer_norm";

/// Normalises each row of the last axis to mean 0 and variance 1, then scales and shifts it.
///
/// Differentiable in all three arguments; backward recomputes the statistics instead of keeping them.
///
/// # Shapes
/// `x` and the result `[..., E]`; `weight` and `bias` `[E]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let width = x.dims().last().copied().unwrap_or(0);
    for (what, t) in [("weight", weight), ("bias", bias)] {
        if width == 0 || t.dims() != [width] {
            let got = format!("{:?} for an input {:?}", t.dims(), x.dims());
            return Err(invalid(OP, what, format!("shape [{width}]"), got).into());
        }
    }
    on_cuda!(x => cuda::layer_norm(x, weight, bias, eps));
    x.contiguous()?.apply_op3(
        &weight.contiguous()?,
        &bias.contiguous()?,
        LayerNorm { width, eps },
    )
}

struct LayerNorm {
    width: usize,
    eps: f64,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(OP, x, lx)?;
        let weight = host::f32_slice(OP, weight, lw)?;
        let bias = host::f32_slice(OP, bias, lb)?;
        let y = cpu::forward(x, weight, bias, self.width, self.eps);
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let inputs = [x, weight, &dy.contiguous()?];
        let (dx, dw, db) = host::with_f32(OP, inputs, |[x, w, dy]| {
            cpu::backward(x, w, dy, self.width, self.eps)
        })?;
        Ok((
            Some(host::tensor(dx, x.shape())),
            weight.track_op().then(|| host::tensor(dw, self.width)),
            bias.track_op().then(|| host::tensor(db, self.width)),
        ))
    }
}
