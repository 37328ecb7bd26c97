//! AdamW and the norm of all gradients on CUDA.

use candle_core::{DType, Result, Tensor};

use super::{Arg, Buf, Gpu, Grid, Module, args, module};
use crate::adamw::AdamW;

const MODULE: Module = module!("adamw");

/// [`adamw_step`](crate::adamw_step) on CUDA, one pass over memory; `clip` is of
/// [`clip_factor`](crate::clip_factor).
pub(crate) fn adamw(
    op: &'static str,
    [parameter, gradient, state]: [&Tensor; 3],
    step: u64,
    o: &AdamW,
    clip: Option<&Tensor>,
) -> Result<()> {
    let gpu = Gpu::of(op, parameter)?;
    let gradient = gradient.contiguous()?;
    // Written in place through the device: nothing of the host's memory is aliased, and the one
    // stream orders these writes against every other use.
    let p = gpu.read_f32(parameter)?;
    let (g, s) = (gpu.read_f32(&gradient)?, gpu.read_f32(state)?);
    let correction1 = 1.0 - o.beta1.powf(step as f64);
    let correction2 = 1.0 - o.beta2.powf(step as f64);
    let mut list = args![&p, &g, &s, p.len as i64].to_vec();
    let numbers = [
        o.beta1,
        o.beta2,
        o.grad_scale,
        1.0 - o.lr * o.weight_decay,
        o.lr / correction1,
        1.0 / correction2.sqrt(),
        o.eps,
    ];
    list.extend(numbers.map(|v| Arg::F32(v as f32)));
    let clip = clip.map(|c| gpu.read_f32(c)).transpose()?;
    list.push(Arg::from(clip.as_ref()));
    gpu.launch(&MODULE, "adamw_f32", Grid::streaming(p.len), &list)
}

/// The sum of squares of several tensors: a launch each, and one number read at the end.
pub(crate) fn squared_norm(op: &'static str, tensors: &[&Tensor]) -> Result<f64> {
    match tensors.first() {
        Some(first) => {
            let gpu = Gpu::of(op, first)?;
            let partial = squares(&gpu, tensors)?;
            Ok(gpu.download_f64(&partial)?.iter().sum())
        }
        None => Ok(0.0),
    }
}

/// [`clip_factor`](crate::clip_factor) on CUDA: nothing is read.
pub(crate) fn clip(op: &'static str, tensors: &[&Tensor], largest: f64) -> Result<Tensor> {
    let gpu = Gpu::of(op, tensors[0])?;
    let partial = squares(&gpu, tensors)?;
    let clip = gpu.uninit(DType::F32, 2)?;
    let list = args![&partial, &clip, partial.len as i64, largest as f32];
    gpu.launch(&MODULE, "clip_f32", Grid::new(1, 256), list)?;
    Ok(clip.tensor(2))
}

/// Sums of squares over blocks of several tensors.
fn squares(gpu: &Gpu, tensors: &[&Tensor]) -> Result<Buf> {
    let tensors: Vec<Tensor> = tensors
        .iter()
        .map(|t| t.contiguous())
        .collect::<Result<_>>()?;
    let blocks = |t: &Tensor| Grid::streaming(t.elem_count()).blocks.min(256);
    let partial = gpu.uninit(DType::F64, tensors.iter().map(blocks).sum())?;
    let mut at = 0;
    for t in tensors.iter().filter(|t| t.elem_count() > 0) {
        let x = gpu.read_f32(t)?;
        let list = args![&x, Arg::Ptr(partial.at(at)), x.len as i64];
        gpu.launch(&MODULE, "squares_f32", Grid::new(blocks(t), 256), list)?;
        at += blocks(t);
    }
    Ok(partial)
}
