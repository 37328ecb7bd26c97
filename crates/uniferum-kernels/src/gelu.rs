//! The exact GELU of BERT, by the error function.

use candle_core::{Result, Tensor};

use crate::activation::{Activation, activate};
use crate::simd::{Simd, exp, madd, multiversion};

const OP: &str = "gelu_erf";

/// `x Φ(x)` with the normal distribution function Φ, as BERT's "gelu"; vectorised, with backward.
///
/// # Shapes
/// Any; the result has the same.
///
/// # Errors
/// For a tensor that is not `f32`.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x => crate::cuda::gelu(OP, x));
    activate::<Gelu>(x)
}

struct Gelu;

impl Activation for Gelu {
    const OP: &'static str = OP;

    fn forward(simd: Simd, y: &mut [f32], x: &[f32]) {
        gelu(simd, y, x);
    }

    fn backward(simd: Simd, dx: &mut [f32], x: &[f32], dy: &[f32]) {
        gelu_grad(simd, dx, x, dy);
    }
}

multiversion! {
    /// `y = x Φ(x)`.
    pub(crate) fn gelu(y: &mut [f32], x: &[f32]) = gelu_body;
}

#[inline(always)]
fn gelu_body<const FMA: bool>(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = *x * normal::<FMA>(*x);
    }
}

multiversion! {
    /// `dx = dy (Φ(x) + x φ(x))`.
    fn gelu_grad(dx: &mut [f32], x: &[f32], dy: &[f32]) = gelu_grad_body;
}

#[inline(always)]
fn gelu_grad_body<const FMA: bool>(dx: &mut [f32], x: &[f32], dy: &[f32]) {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
        let density = INV_SQRT_TAU * exp::<FMA>(-0.5 * *x * *x);
        *dx = *dy * madd::<FMA>(*x, density, normal::<FMA>(*x));
    }
}

/// Φ, from a Chebyshev fit of erfc whose relative error is below 1.2e-7 everywhere (Press et al.,
/// Numerical Recipes, section 6.2).
#[inline(always)]
fn normal<const FMA: bool>(x: f32) -> f32 {
    let z = (x * std::f32::consts::FRAC_1_SQRT_2).abs();
    let t = 1.0 / madd::<FMA>(0.5, z, 1.0);
    let mut p = 0.170_872_77;
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = madd::<FMA>(p, t, c);
    }
    let tail = 0.5 * t * exp::<FMA>(madd::<FMA>(-z, z, p));
    if x >= 0.0 { 1.0 - tail } else { tail }
}
