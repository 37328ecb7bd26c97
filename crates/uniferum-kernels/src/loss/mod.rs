//! Elementwise losses of logits, forward and gradient in one stable formula each.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::error::{check_shape, invalid};
use crate::host;
use crate::simd::{Simd, exp, madd, multiversion};

const CHUNK: usize = 1 << 13;

/// Binary cross-entropy of each logit against its target, stable for any logit.
///
/// `max(x, 0) - x y + ln(1 + e^-|x|)`; targets may be fractional. The gradient is `sigmoid(x) - y`.
///
/// # Shapes
/// `logits`, `targets` and the result alike. Targets are constants: they get no gradient.
///
/// # Errors
/// When the shapes differ. Other element types than `f32` are computed in `f32`.
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    apply("bce_with_logits", logits, targets, Kind::Bce)
}

/// Sigmoid focal loss of each logit against its target, stable for any logit.
///
/// `a_t (1 - p_t)^gamma BCE`, with `p_t = p y + (1 - p)(1 - y)` and `a_t` likewise from `alpha`.
///
/// # Shapes
/// `logits`, `targets` and the result alike. Targets are constants: they get no gradient.
///
/// # Errors
/// When the shapes differ, or for `gamma` below 0. Other element types than `f32` are computed in `f32`.
///
/// # Reference
/// Lin et al. 2017, equation 5.
pub fn sigmoid_focal(logits: &Tensor, targets: &Tensor, alpha: f32, gamma: f32) -> Result<Tensor> {
    if gamma.is_nan() || gamma < 0.0 {
        return Err(invalid("sigmoid_focal", "gamma", "a number from 0", gamma).into());
    }
    apply(
        "sigmoid_focal",
        logits,
        targets,
        Kind::Focal { alpha, gamma },
    )
}

fn apply(op: &'static str, logits: &Tensor, targets: &Tensor, kind: Kind) -> Result<Tensor> {
    check_shape(op, "targets", targets, logits.dims())?;
    on_cuda!(logits => crate::cuda::loss(op, logits, targets, kind.focal()));
    let targets = targets
        .detach()
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()?;
    logits
        .to_dtype(DType::F32)?
        .contiguous()?
        .apply_op1(Loss { op, kind, targets })
}

#[derive(Clone, Copy)]
enum Kind {
    Bce,
    Focal { alpha: f32, gamma: f32 },
}

#[cfg(feature = "cuda")]
impl Kind {
    fn focal(self) -> Option<(f32, f32)> {
        match self {
            Self::Bce => None,
            Self::Focal { alpha, gamma } => Some((alpha, gamma)),
        }
    }
}

struct Loss {
    op: &'static str,
    kind: Kind,
    targets: Vec<f32>,
}

impl CustomOp1 for Loss {
    fn name(&self) -> &'static str {
        self.op
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(self.op, x, layout)?;
        let simd = Simd::detect();
        let mut y = vec![0.0; x.len()];
        let inputs = x.par_chunks(CHUNK).zip(self.targets.par_chunks(CHUNK));
        y.par_chunks_mut(CHUNK)
            .zip(inputs)
            .for_each(|(y, (x, t))| match self.kind {
                Kind::Bce => bce(simd, y, x, t),
                Kind::Focal { alpha, gamma } => focal(simd, y, x, t, alpha, gamma),
            });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        host::gradient(self.op, x, [x, &dy.contiguous()?], |[x, dy]| {
            let simd = Simd::detect();
            let mut dx = dy.to_vec();
            let inputs = x.par_chunks(CHUNK).zip(self.targets.par_chunks(CHUNK));
            dx.par_chunks_mut(CHUNK)
                .zip(inputs)
                .for_each(|(dx, (x, t))| match self.kind {
                    Kind::Bce => bce_grad(simd, dx, x, t),
                    Kind::Focal { alpha, gamma } => focal_grad(simd, dx, x, t, alpha, gamma),
                });
            dx
        })
    }
}

/// Cross-entropy and probability of one logit.
#[inline(always)]
fn cross_entropy<const FMA: bool>(x: f32, t: f32) -> (f32, f32) {
    let e = exp::<FMA>(-x.abs());
    let p = if x >= 0.0 {
        1.0 / (1.0 + e)
    } else {
        e / (1.0 + e)
    };
    (x.max(0.0) - x * t + e.ln_1p(), p)
}

multiversion! {
    fn bce(y: &mut [f32], x: &[f32], t: &[f32]) = bce_body;
}

#[inline(always)]
fn bce_body<const FMA: bool>(y: &mut [f32], x: &[f32], t: &[f32]) {
    for ((y, x), t) in y.iter_mut().zip(x).zip(t) {
        *y = cross_entropy::<FMA>(*x, *t).0;
    }
}

multiversion! {
    fn bce_grad(dx: &mut [f32], x: &[f32], t: &[f32]) = bce_grad_body;
}

#[inline(always)]
fn bce_grad_body<const FMA: bool>(dx: &mut [f32], x: &[f32], t: &[f32]) {
    for ((dx, x), t) in dx.iter_mut().zip(x).zip(t) {
        *dx *= cross_entropy::<FMA>(*x, *t).1 - t;
    }
}

/// `(1 - p_t)^exponent`, without a call for the paper's exponents.
#[inline(always)]
fn power(base: f32, exponent: f32) -> f32 {
    if exponent == 2.0 {
        base * base
    } else if exponent == 1.0 {
        base
    } else {
        base.powf(exponent)
    }
}

multiversion! {
    fn focal(y: &mut [f32], x: &[f32], t: &[f32], alpha: f32, gamma: f32) = focal_body;
}

#[inline(always)]
fn focal_body<const FMA: bool>(y: &mut [f32], x: &[f32], t: &[f32], alpha: f32, gamma: f32) {
    for ((y, x), t) in y.iter_mut().zip(x).zip(t) {
        let (ce, p) = cross_entropy::<FMA>(*x, *t);
        let missed = p * (1.0 - t) + (1.0 - p) * t;
        let weight = alpha * t + (1.0 - alpha) * (1.0 - t);
        *y = weight * ce * power(missed, gamma);
    }
}

multiversion! {
    fn focal_grad(dx: &mut [f32], x: &[f32], t: &[f32], alpha: f32, gamma: f32) = focal_grad_body;
}

/// `a_t [(p - t) m^gamma + gamma ce m^(gamma-1) p (1-p) (1-2t)]` with `m = 1 - p_t`.
#[inline(always)]
fn focal_grad_body<const FMA: bool>(dx: &mut [f32], x: &[f32], t: &[f32], alpha: f32, gamma: f32) {
    for ((dx, x), t) in dx.iter_mut().zip(x).zip(t) {
        let (ce, p) = cross_entropy::<FMA>(*x, *t);
        let missed = p * (1.0 - t) + (1.0 - p) * t;
        let weight = alpha * t + (1.0 - alpha) * (1.0 - t);
        let through_p = if gamma == 0.0 || missed == 0.0 {
            0.0
        } else {
            gamma * ce * power(missed, gamma - 1.0) * p * (1.0 - p) * (1.0 - 2.0 * t)
        };
        *dx *= weight * madd::<FMA>(p - t, power(missed, gamma), through_p);
    }
}
