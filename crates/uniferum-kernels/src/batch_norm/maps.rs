//! What happens to rows between the convolutions: norm and SiLU in one pass, and their
//! derivatives together with the sums that those of the parameters need.

use crate::simd::{madd, multiversion, reduce, sigmoid};

/// SiLU and its derivative.
#[inline(always)]
fn silu_pair<const FMA: bool>(z: f32) -> (f32, f32) {
    let s = sigmoid::<FMA>(z);
    let y = z * s;
    (y, madd::<FMA>(s, 1.0 - y, y))
}

multiversion! {
    /// `y = gain silu(scale x + shift)`.
    pub(crate) fn norm_silu(y: &mut [f32], x: &[f32], scale: f32, shift: f32, gain: f32)
        = norm_silu_body;
}

#[inline(always)]
fn norm_silu_body<const FMA: bool>(y: &mut [f32], x: &[f32], scale: f32, shift: f32, gain: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        let z = madd::<FMA>(*x, scale, shift);
        *y = gain * (z * sigmoid::<FMA>(z));
    }
}

multiversion! {
    /// The sum of `silu(scale x + shift)`.
    pub(crate) fn norm_silu_sum(x: &[f32], scale: f32, shift: f32) -> f64 = norm_silu_sum_body;
}

#[inline(always)]
fn norm_silu_sum_body<const FMA: bool>(x: &[f32], scale: f32, shift: f32) -> f64 {
    reduce(x, x, |[sum], x, _| {
        let z = madd::<FMA>(x, scale, shift);
        [madd::<FMA>(z, sigmoid::<FMA>(z), sum)]
    })[0]
}

multiversion! {
    /// With `y = silu(scale x + shift)`, `y'` its derivative and `c = x - mean`: the sums of
    /// `u y`, `u y'`, `u y' c`, `y'` and `y' c`.
    pub(crate) fn silu_sums(u: &[f32], x: &[f32], scale: f32, shift: f32, mean: f32) -> [f64; 5]
        = silu_sums_body;
}

#[inline(always)]
fn silu_sums_body<const FMA: bool>(
    u: &[f32],
    x: &[f32],
    scale: f32,
    shift: f32,
    mean: f32,
) -> [f64; 5] {
    reduce(u, x, |[a, b, c, d, e], u, x| {
        let (y, slope) = silu_pair::<FMA>(madd::<FMA>(x, scale, shift));
        let (steep, centred) = (u * slope, x - mean);
        [
            madd::<FMA>(u, y, a),
            b + steep,
            madd::<FMA>(steep, centred, c),
            d + slope,
            madd::<FMA>(slope, centred, e),
        ]
    })
}

/// The gradient of a norm's input behind a SiLU: `scale (gain u + add) y' + p x + q`, with `y'`
/// as in [`silu_sums`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slope {
    pub(crate) scale: f32,
    pub(crate) shift: f32,
    pub(crate) gain: f32,
    pub(crate) add: f32,
    pub(crate) p: f32,
    pub(crate) q: f32,
}

multiversion! {
    /// Replaces `u` by that gradient.
    pub(crate) fn norm_silu_gradient(u: &mut [f32], x: &[f32], slope: &Slope)
        = norm_silu_gradient_body;
}

#[inline(always)]
fn norm_silu_gradient_body<const FMA: bool>(u: &mut [f32], x: &[f32], s: &Slope) {
    let s = *s;
    for (u, x) in u.iter_mut().zip(x) {
        *u = gradient::<FMA>(*u, *x, s);
    }
}

multiversion! {
    /// As [`norm_silu_gradient`], to another place.
    pub(crate) fn norm_silu_gradient_of(out: &mut [f32], u: &[f32], x: &[f32], slope: &Slope)
        = norm_silu_gradient_of_body;
}

#[inline(always)]
fn norm_silu_gradient_of_body<const FMA: bool>(out: &mut [f32], u: &[f32], x: &[f32], s: &Slope) {
    let s = *s;
    for (out, (u, x)) in out.iter_mut().zip(u.iter().zip(x)) {
        *out = gradient::<FMA>(*u, *x, s);
    }
}

#[inline(always)]
fn gradient<const FMA: bool>(u: f32, x: f32, s: Slope) -> f32 {
    let (_, slope) = silu_pair::<FMA>(madd::<FMA>(x, s.scale, s.shift));
    let dy = madd::<FMA>(u, s.gain, s.add) * slope;
    madd::<FMA>(dy, s.scale, madd::<FMA>(x, s.p, s.q))
}

multiversion! {
    /// Replaces `x` by `dz = dy y'` with `y'` as in [`silu_sums`]; returns the sums of `dz` and
    /// of `dz (x - mean)`.
    pub(crate) fn silu_back(
        x: &mut [f32], dy: &[f32], scale: f32, shift: f32, mean: f32,
    ) -> [f64; 2] = silu_back_body;
}

#[inline(always)]
fn silu_back_body<const FMA: bool>(
    x: &mut [f32],
    dy: &[f32],
    scale: f32,
    shift: f32,
    mean: f32,
) -> [f64; 2] {
    const LANES: usize = 16;
    let mut total = [0.0; 2];
    for (x, dy) in x.chunks_mut(4096).zip(dy.chunks(4096)) {
        let mut sums = [[0.0f32; LANES]; 2];
        let mut step = |i: usize, x: &mut f32, dy: f32| {
            let (_, slope) = silu_pair::<FMA>(madd::<FMA>(*x, scale, shift));
            let dz = dy * slope;
            sums[0][i] += dz;
            sums[1][i] = madd::<FMA>(dz, *x - mean, sums[1][i]);
            *x = dz;
        };
        let (lanes, tail) = x.as_chunks_mut::<LANES>();
        let (dy_lanes, dy_tail) = dy.as_chunks::<LANES>();
        for (x, dy) in lanes.iter_mut().zip(dy_lanes) {
            for i in 0..LANES {
                step(i, &mut x[i], dy[i]);
            }
        }
        for (i, (x, dy)) in tail.iter_mut().zip(dy_tail).enumerate() {
            step(i, x, *dy);
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            *total += sums.iter().map(|v| f64::from(*v)).sum::<f64>();
        }
    }
    total
}
