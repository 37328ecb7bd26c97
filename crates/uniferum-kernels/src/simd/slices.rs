//! Sums and maps over slices, written once and compiled for each instruction set.
//!
//! Reductions keep [`LANES`] partial sums, added up for each [`BLOCK`] elements into `f64`:
//! fast, and exact enough for statistics over a hundred million voxels.

use super::multiversion;

/// Partial sums of a reduction.
pub(crate) const LANES: usize = 32;

/// Elements summed in single precision before they are added to a double.
const BLOCK: usize = 4096;

/// `a * b + c`, fused where the instruction set has it.
#[inline(always)]
pub(crate) fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sums `f(a[i], b[i])` pairwise.
#[inline(always)]
pub(crate) fn reduce<const N: usize>(
    a: &[f32],
    b: &[f32],
    f: impl Fn([f32; N], f32, f32) -> [f32; N],
) -> [f64; N] {
    let n = a.len().min(b.len());
    let mut total = [0.0; N];
    for (a, b) in a[..n].chunks(BLOCK).zip(b[..n].chunks(BLOCK)) {
        // The lanes of each sum side by side: the other way round costs shuffles.
        let mut acc = [[0.0f32; LANES]; N];
        let mut step = |i: usize, a: f32, b: f32| {
            let own = f(std::array::from_fn(|j| acc[j][i]), a, b);
            for (acc, own) in acc.iter_mut().zip(own) {
                acc[i] = own;
            }
        };
        let (a_lanes, a_tail) = a.as_chunks::<LANES>();
        let (b_lanes, b_tail) = b.as_chunks::<LANES>();
        for (a, b) in a_lanes.iter().zip(b_lanes) {
            for i in 0..LANES {
                step(i, a[i], b[i]);
            }
        }
        for (a, b) in a_tail.iter().zip(b_tail) {
            step(0, *a, *b);
        }
        for (total, lanes) in total.iter_mut().zip(acc) {
            *total += lanes.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
    }
    total
}

multiversion! {
    /// The sum.
    pub(crate) fn sum(x: &[f32]) -> f64 = sum_body;
}

#[inline(always)]
fn sum_body<const FMA: bool>(x: &[f32]) -> f64 {
    reduce(x, x, |[s], x, _| [s + x])[0]
}

multiversion! {
    /// The sum of squared distances from `mean`.
    pub(crate) fn sum_squares(x: &[f32], mean: f32) -> f64 = sum_squares_body;
}

#[inline(always)]
fn sum_squares_body<const FMA: bool>(x: &[f32], mean: f32) -> f64 {
    reduce(x, x, |[s], x, _| [madd::<FMA>(x - mean, x - mean, s)])[0]
}

multiversion! {
    /// The inner product.
    pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 = dot_body;
}

#[inline(always)]
fn dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f64 {
    reduce(a, b, |[s], a, b| [madd::<FMA>(a, b, s)])[0]
}

multiversion! {
    /// The sum of `a`, and of `a * (b - mean)`.
    pub(crate) fn sum_and_dot(a: &[f32], b: &[f32], mean: f32) -> [f64; 2] = sum_and_dot_body;
}

#[inline(always)]
fn sum_and_dot_body<const FMA: bool>(a: &[f32], b: &[f32], mean: f32) -> [f64; 2] {
    reduce(a, b, |[s, d], a, b| [s + a, madd::<FMA>(a, b - mean, d)])
}

multiversion! {
    /// `y = scale * x + shift`.
    pub(crate) fn affine(y: &mut [f32], x: &[f32], scale: f32, shift: f32) = affine_body;
}

#[inline(always)]
fn affine_body<const FMA: bool>(y: &mut [f32], x: &[f32], scale: f32, shift: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = madd::<FMA>(*x, scale, shift);
    }
}

multiversion! {
    /// `y = a * x + b * z + c`.
    pub(crate) fn affine2(
        y: &mut [f32], x: &[f32], z: &[f32], a: f32, b: f32, c: f32,
    ) = affine2_body;
}

#[inline(always)]
fn affine2_body<const FMA: bool>(y: &mut [f32], x: &[f32], z: &[f32], a: f32, b: f32, c: f32) {
    for ((y, x), z) in y.iter_mut().zip(x).zip(z) {
        *y = madd::<FMA>(*x, a, madd::<FMA>(*z, b, c));
    }
}

/// The sigmoid, to about 2 units in the last place.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The exponential, to about 2 units in the last place, without branches.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` is a polynomial of degree 6 and `2^n` is
/// written into the exponent's bits. The argument is held within ±87.3 (NaN stays NaN), so
/// neither infinities nor denormals arise.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // The top 16 bits of ln 2, so that `n * LN2_HIGH` is exact, and the rest.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding it leaves the nearest integer in the lowest bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > 87.3 { 87.3 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = madd::<FMA>(n, -LN2_LOW, madd::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = madd::<FMA>(p, r, c);
    }
    let scale = (shifted.to_bits() << 23).wrapping_add(127 << 23);
    p * f32::from_bits(scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Simd;

    #[test]
    fn exp_is_accurate_over_its_whole_range() {
        for i in -873..=873 {
            let x = i as f32 * 0.1;
            let want = f64::from(x).exp();
            for got in [exp::<false>(x), exp::<true>(x)] {
                assert!(
                    (f64::from(got) / want - 1.0).abs() < 4e-7,
                    "exp({x}) = {got}"
                );
            }
        }
        assert!(exp::<false>(f32::NAN).is_nan());
        assert_eq!(exp::<false>(0.0), 1.0);
    }

    #[test]
    fn every_instruction_set_gives_the_same_sums_and_maps() {
        let x: Vec<f32> = (0..10_007)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.11)
            .collect();
        let z: Vec<f32> = (0..10_007)
            .map(|i| ((i * 53 % 89) as f32 - 44.0) * 0.07)
            .collect();
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (xs, zs) = (wide(&x), wide(&z));
        for simd in Simd::available() {
            let close = |a: f64, b: f64| (a - b).abs() < 1e-6 * (1.0 + b.abs()) * 1e2;
            assert!(close(sum(simd, &x), xs.iter().sum()), "{simd:?}");
            let want = xs.iter().map(|v| (v - 0.5).powi(2)).sum();
            assert!(close(sum_squares(simd, &x, 0.5), want), "{simd:?}");
            let want = xs.iter().zip(&zs).map(|(a, b)| a * b).sum();
            assert!(close(dot(simd, &x, &z), want), "{simd:?}");
            let [s, d] = sum_and_dot(simd, &x, &z, 0.25);
            assert!(close(s, xs.iter().sum()), "{simd:?}");
            let want = xs.iter().zip(&zs).map(|(a, b)| a * (b - 0.25)).sum();
            assert!(close(d, want), "{simd:?}");
            let mut y = vec![0.0; x.len()];
            affine2(simd, &mut y, &x, &z, 2.0, -1.0, 0.5);
            for i in 0..y.len() {
                let want = 2.0 * xs[i] - zs[i] + 0.5;
                assert!((f64::from(y[i]) - want).abs() < 1e-5, "{simd:?}");
            }
        }
    }
}
