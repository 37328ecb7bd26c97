//! Transformer operations composed of candle's differentiable ones.

use candle_core::{D, Device, Result, Tensor};

pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    centred
        .broadcast_div(&deviation)?
        .broadcast_mul(weight)?
        .broadcast_add(bias)
}

pub(crate) fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// Softmax attention of `[B, H, T, D]`; `mask` is `[B, T]` with 0 for keys not to be seen.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: &Tensor,
    dropped: Option<(f32, u64)>,
) -> Result<Tensor> {
    let scale = 1.0 / (q.dim(D::Minus1)? as f64).sqrt();
    let hidden = mask.affine(1e4, -1e4)?.unsqueeze(1)?.unsqueeze(1)?;
    let scores = (q.matmul(&k.t()?)? * scale)?.broadcast_add(&hidden)?;
    let peak = scores.max_keepdim(D::Minus1)?.detach();
    let weights = scores.broadcast_sub(&peak)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let weights = match dropped {
        Some((p, seed)) => dropout(&weights, p, seed)?,
        None => weights,
    };
    weights.matmul(v)
}

/// Zeroes each value with probability `p` and scales the others up.
pub(crate) fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    let kept = 1.0 / (1.0 - p);
    let mask: Vec<f32> = (0..x.elem_count() as u64)
        .map(|i| {
            let bits = crate::model::mix(seed ^ crate::model::mix(i)) >> 40;
            if (bits as f32) < p * (1u64 << 24) as f32 {
                0.0
            } else {
                kept
            }
        })
        .collect();
    let mask = Tensor::from_vec(mask, x.shape(), &Device::Cpu)?.to_device(x.device())?;
    x * mask
}
