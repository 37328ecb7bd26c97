//! Multi-head scaled dot-product attention with a key mask and dropout.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod packed;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use crate::dropout::check_probability;
use crate::error::{check_shape, invalid};
use crate::host;
use crate::rng::Keep;

pub use packed::{Span, attention_packed};

const OP: &str = "attention";

/// `softmax(q kᵀ / sqrt(E)) v` for each sample and head; keys whose mask is 0 take no part.
///
/// With `dropout = Some((p, seed))` probabilities are dropped as [`crate::dropout`] does. Backward
/// recomputes the probabilities: nothing quadratic in the length is kept. A query all of whose keys are
/// masked gives 0.
///
/// # Shapes
/// `q` and the result `[B, H, T, E]`; `k`, `v` `[B, H, S, E]`; `key_mask` `[B, S]`, 0 or 1.
///
/// # Errors
/// When the shapes do not fit together, or for tensors that are not `f32`.
///
/// # Reference
/// Vaswani et al. 2017, section 3.2.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    key_mask: Option<&Tensor>,
    dropout: Option<(f32, u64)>,
) -> Result<Tensor> {
    let (batch, heads, queries, width) = q.dims4()?;
    let keys = k.dims4()?.2;
    for (what, t) in [("k", k), ("v", v)] {
        if t.dims() != [batch, heads, keys, width] {
            let expected = format!("[{batch}, {heads}, S, {width}], S alike in k and v");
            return Err(invalid(OP, what, expected, format!("{:?}", t.dims())).into());
        }
    }
    if let Some(mask) = key_mask {
        check_shape(OP, "key_mask", mask, &[batch, keys])?;
    }
    let keep = dropout
        .filter(|(p, _)| *p != 0.0)
        .map(|(p, seed)| check_probability(OP, p).map(|()| Keep::new(p, seed)))
        .transpose()?;
    on_cuda!(q => cuda::attention([q, k, v], key_mask, keep));
    let op = Attention {
        plan: cpu::Plan {
            heads,
            queries,
            keys,
            width,
        },
        mask: key_mask.map(mask_values).transpose()?,
        keep,
    };
    q.contiguous()?
        .apply_op3(&k.contiguous()?, &v.contiguous()?, op)
}

fn mask_values(mask: &Tensor) -> Result<Vec<f32>> {
    let mask = mask.to_dtype(candle_core::DType::F32)?;
    mask.flatten_all()?.to_vec1()
}

struct Attention {
    plan: cpu::Plan,
    mask: Option<Vec<f32>>,
    keep: Option<Keep>,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let q = host::f32_slice(OP, q, lq)?;
        let k = host::f32_slice(OP, k, lk)?;
        let v = host::f32_slice(OP, v, lv)?;
        let y = cpu::forward(&self.plan, q, k, v, self.mask.as_deref(), self.keep);
        Ok((CpuStorage::F32(y), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let inputs = [q, k, v, &dy.contiguous()?];
        let (dq, dk, dv) = host::with_f32(OP, inputs, |[q, k, v, dy]| {
            cpu::backward(&self.plan, q, k, v, dy, self.mask.as_deref(), self.keep)
        })?;
        Ok((
            Some(host::tensor(dq, q.shape())),
            Some(host::tensor(dk, k.shape())),
            Some(host::tensor(dv, v.shape())),
        ))
    }
}
