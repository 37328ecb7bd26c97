//! Sixteen lanes at a time: the vocabulary of kernels that are written with intrinsics.
//!
//! A kernel is generic over [`Lanes`] and marked `#[inline(always)]`;
//! [`lane_dispatch!`](super::lane_dispatch) compiles it once for each instruction set inside
//! a function that has the set's features, and chooses among those at run time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::{Avx512, Avx512Bf16};
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;

/// Numbers that one vector holds.
pub(crate) const LANES: usize = 16;

/// Coefficients of `2^r` for `|r| <= 1/2`, the highest power first; relative error 8e-8.
const EXP2: [f32; 6] = [
    1.327_647_2e-3,
    9.675_542e-3,
    5.550_713e-2,
    2.402_212e-1,
    6.931_469_4e-1,
    1.0,
];

/// As [`EXP2`] with relative error 7e-5, an eighth of what rounding to bf16 costs.
const EXP2_SHORT: [f32; 4] = [5.517_167e-2, 2.426_111_3e-1, 6.932_609_7e-1, 9.999_280_6e-1];

/// Sixteen single-precision numbers, and sixteen 32-bit words that hold one such number or
/// two bf16 ones (the first in the low half) each.
///
/// # Safety
/// Every function needs the instruction set that the implementing type stands for, and
/// pointers valid for what it reads or writes; none of them need be aligned.
pub(crate) trait Lanes: Copy + 'static {
    /// Sixteen numbers.
    type F: Copy;
    /// Sixteen words.
    type W: Copy;

    /// Accumulators that fit the registers beside what an inner loop needs.
    const ACCUMULATORS: usize;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The nearest integers.
    unsafe fn round(a: Self::F) -> Self::F;
    /// Keeps exponents within what [`scale`](Self::scale) can express.
    unsafe fn clamp_exponent(a: Self::F) -> Self::F;
    /// `a * 2^n` for integral `n`.
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F;

    unsafe fn splat_word(from: *const u32) -> Self::W;
    unsafe fn load_words(from: *const u32) -> Self::W;
    unsafe fn store_words(to: *mut u32, v: Self::W);
    unsafe fn words(v: Self::F) -> Self::W;
    unsafe fn floats(v: Self::W) -> Self::F;

    /// `acc + a.low * b.low + a.high * b.high` of bf16 pairs.
    unsafe fn dot(acc: Self::F, a: Self::W, b: Self::W) -> Self::F;
    /// Rounds to bf16 pairs.
    unsafe fn pair(low: Self::F, high: Self::F) -> Self::W;
    /// Sixteen consecutive bf16 numbers.
    unsafe fn load_bf16(from: *const u32) -> Self::F;
    /// Rounds to sixteen consecutive bf16 numbers.
    unsafe fn store_bf16(to: *mut u32, v: Self::F);

    /// As [`store`](Self::store) past the caches, to an address that is a multiple of 64;
    /// [`fence`](Self::fence) makes it visible to other threads.
    #[inline(always)]
    unsafe fn stream(to: *mut f32, v: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { Self::store(to, v) }
    }

    /// As [`store_bf16`](Self::store_bf16) past the caches, to a multiple of 32.
    #[inline(always)]
    unsafe fn stream_bf16(to: *mut u32, v: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { Self::store_bf16(to, v) }
    }

    /// Orders streamed stores before whatever follows.
    #[inline(always)]
    unsafe fn fence() {}

    /// Asks for a cache line that will be read soon; any address will do.
    #[inline(always)]
    unsafe fn prefetch(_from: *const u32) {}

    /// About `1 / a`, to 12 bits or better.
    #[inline(always)]
    unsafe fn about_recip(a: Self::F) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { Self::div(Self::splat(1.0), a) }
    }

    /// `x / (1 + e^-x)`, to about 3 units in the last place.
    #[inline(always)]
    unsafe fn silu(x: Self::F) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe {
            let e = exp_neg::<Self, 6>(x, &EXP2);
            Self::div(x, Self::add(Self::splat(1.0), e))
        }
    }

    /// `x / (1 + e^-x)`, to about 13 bits: enough for a result that is rounded to bf16.
    #[inline(always)]
    unsafe fn silu_short(x: Self::F) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe {
            let e = exp_neg::<Self, 4>(x, &EXP2_SHORT);
            Self::mul(x, Self::about_recip(Self::add(Self::splat(1.0), e)))
        }
    }
}

/// `e^-x = 2^n 2^r` with `n` the nearest integer to `-x / ln 2`.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn exp_neg<L: Lanes, const N: usize>(x: L::F, coefficients: &[f32; N]) -> L::F {
    // SAFETY: the caller's promise.
    unsafe {
        let t = L::mul(x, L::splat(-std::f32::consts::LOG2_E));
        let t = L::clamp_exponent(t);
        let n = L::round(t);
        let r = L::sub(t, n);
        let mut p = L::splat(coefficients[0]);
        for c in &coefficients[1..] {
            p = L::mul_add(p, r, L::splat(*c));
        }
        L::scale(p, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;
    use crate::simd::{Isa, Simd, lane_dispatch};

    lane_dispatch! {
        unsafe fn silus[](x: &[f32; LANES], y: &mut [[f32; LANES]; 2]) = silus_body;
    }

    #[inline(always)]
    unsafe fn silus_body<L: Lanes>(x: &[f32; LANES], y: &mut [[f32; LANES]; 2]) {
        // SAFETY: sixteen numbers each, and the dispatcher has checked the features.
        unsafe {
            let x = L::load(x.as_ptr());
            L::store(y[0].as_mut_ptr(), L::silu(x));
            L::store(y[1].as_mut_ptr(), L::silu_short(x));
        }
    }

    #[test]
    fn silu_is_accurate_under_every_instruction_set() {
        for isa in Isa::all_available() {
            for step in 0..4000 {
                let x: [f32; LANES] =
                    std::array::from_fn(|i| (step as f32 - 2000.0) * 0.05 + i as f32 * 0.003);
                let mut y = [[0.0; LANES]; 2];
                // SAFETY: the instruction set is available.
                unsafe { silus(isa, &x, &mut y) };
                for i in 0..LANES {
                    let want = oracle::silu(f64::from(x[i]));
                    for (y, relative) in [(y[0][i], 1e-5), (y[1][i], 4e-4)] {
                        let error = (f64::from(y) - want).abs();
                        // Far below zero the result is smaller than any number that matters.
                        assert!(
                            error <= relative * want.abs() + 1e-30,
                            "{isa:?}: silu({}) = {y}, want {want}",
                            x[i]
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn silu_holds_to_the_ends_of_the_range_under_every_instruction_set() {
        for isa in Isa::all_available() {
            let all = |x: f32, holds: fn(f32) -> bool| {
                let mut y = [[0.0; LANES]; 2];
                // SAFETY: the instruction set is available.
                unsafe { silus(isa, &[x; LANES], &mut y) };
                let held = y.iter().flatten().all(|y| holds(*y));
                assert!(held, "{isa:?}: silu({x}) = {y:?}");
            };
            all(f32::INFINITY, |y| y == f32::INFINITY);
            all(1e30, |y| (y / 1e30 - 1.0).abs() < 4e-4);
            all(-1e30, |y| y.abs() < 1e-7);
            all(f32::NAN, f32::is_nan);
            // What has overflowed before stays visible.
            all(f32::NEG_INFINITY, |y| !y.is_finite());
        }
    }

    lane_dispatch! {
        unsafe fn pairs[](a: &[f32; 32], b: &[f32; 32], y: &mut [[f32; LANES]; 3]) = pairs_body;
    }

    #[inline(always)]
    unsafe fn pairs_body<L: Lanes>(a: &[f32; 32], b: &[f32; 32], y: &mut [[f32; LANES]; 3]) {
        // SAFETY: as in `silus_body`.
        unsafe {
            let pack = |v: &[f32; 32]| L::pair(L::load(v.as_ptr()), L::load(v[16..].as_ptr()));
            let sum = L::dot(L::splat(0.5), pack(a), pack(b));
            L::store(y[0].as_mut_ptr(), sum);
            let mut half = [0u32; 8];
            L::store_bf16(half.as_mut_ptr(), L::load(a.as_ptr()));
            L::store(y[1].as_mut_ptr(), L::load_bf16(half.as_ptr()));
            let mut words = [0u32; LANES];
            L::store_words(words.as_mut_ptr(), L::words(L::load(b.as_ptr())));
            let sums = L::add(
                L::floats(L::load_words(words.as_ptr())),
                L::floats(L::splat_word(words.as_ptr())),
            );
            L::store(y[2].as_mut_ptr(), sums);
        }
    }

    #[test]
    fn pairs_multiply_and_round_as_bf16_does() {
        let a: [f32; 32] = std::array::from_fn(|i| ((i * 37 % 64) as f32 - 31.7) * 0.37);
        let b: [f32; 32] = std::array::from_fn(|i| ((i * 29 % 64) as f32 - 30.1) * 0.11);
        let round = |v: f32| half::bf16::from_f32(v).to_f32();
        for isa in Isa::all_available() {
            let mut y = [[0.0; LANES]; 3];
            // SAFETY: the instruction set is available.
            unsafe { pairs(isa, &a, &b, &mut y) };
            for i in 0..LANES {
                let want = 0.5 + round(a[i]) * round(b[i]) + round(a[i + 16]) * round(b[i + 16]);
                assert!((y[0][i] - want).abs() < 1e-4, "{isa:?} lane {i}");
                assert_eq!(y[1][i], round(a[i]), "{isa:?} lane {i}");
                assert_eq!(y[2][i], b[i] + b[0], "{isa:?} lane {i}");
            }
        }
        assert!(Isa::all_available().len() >= Simd::available().len());
    }
}
