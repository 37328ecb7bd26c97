//! The SiLU (swish) activation.

use candle_core::{Result, Tensor};

use crate::activation::{Activation, activate};
use crate::simd::{Simd, multiversion, sigmoid};

const OP: &str = "silu";

/// `x * sigmoid(x)`, vectorised and parallel, with backward.
///
/// # Shapes
/// Any; the result has the same.
///
/// # Errors
/// For a tensor that is not `f32`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x => crate::cuda::silu(OP, x));
    activate::<Silu>(x)
}

struct Silu;

impl Activation for Silu {
    const OP: &'static str = OP;

    fn forward(simd: Simd, y: &mut [f32], x: &[f32]) {
        forward(simd, y, x);
    }

    fn backward(simd: Simd, dx: &mut [f32], x: &[f32], dy: &[f32]) {
        backward(simd, dx, x, dy);
    }
}

multiversion! {
    /// `y = silu(x)`.
    fn forward(y: &mut [f32], x: &[f32]) = forward_body;
}

#[inline(always)]
fn forward_body<const FMA: bool>(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = *x * sigmoid::<FMA>(*x);
    }
}

multiversion! {
    /// `dx = dy * silu'(x)`.
    fn backward(dx: &mut [f32], x: &[f32], dy: &[f32]) = backward_body;
}

#[inline(always)]
fn backward_body<const FMA: bool>(dx: &mut [f32], x: &[f32], dy: &[f32]) {
    for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
        let s = sigmoid::<FMA>(*x);
        *dx = *dy * s * (1.0 + *x * (1.0 - s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;

    #[test]
    fn every_instruction_set_gives_the_same_activation() {
        let x: Vec<f32> = (0..10_007)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.11)
            .collect();
        for simd in Simd::available() {
            let mut y = vec![0.0; x.len()];
            forward(simd, &mut y, &x);
            for (y, x) in y.iter().zip(&x) {
                let want = oracle::silu(f64::from(*x));
                assert!((f64::from(*y) - want).abs() < 1e-6, "{simd:?} silu({x})");
            }
        }
    }

    #[test]
    fn the_ends_of_the_range_are_those_of_the_function() {
        for simd in Simd::available() {
            // A tail alone, whole vectors, and both.
            for n in [1, 32, 35] {
                let all = |x: f32, holds: fn(f32) -> bool| {
                    let mut y = vec![0.0; n];
                    forward(simd, &mut y, &vec![x; n]);
                    assert!(y.iter().all(|y| holds(*y)), "{simd:?}: silu({x}) = {y:?}");
                };
                all(f32::INFINITY, |y| y == f32::INFINITY);
                all(1e30, |y| y == 1e30);
                all(-1e30, |y| y.abs() < 1e-7);
                all(f32::NAN, f32::is_nan);
                // What has overflowed before stays visible.
                all(f32::NEG_INFINITY, |y| !y.is_finite());
            }
        }
    }
}
