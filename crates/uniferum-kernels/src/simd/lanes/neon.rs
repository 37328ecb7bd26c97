//! AArch64 Advanced SIMD: sixteen lanes are four registers, of which there are thirty-two.

use std::arch::aarch64::*;

use super::Lanes;

/// Advanced SIMD, which every AArch64 target of Rust's has.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// All four registers from one expression of their index.
macro_rules! each {
    (|$i:ident| $body:expr) => {
        // SAFETY: the target has Advanced SIMD and the caller vouches for the pointers.
        unsafe {
            [
                {
                    const $i: usize = 0;
                    $body
                },
                {
                    const $i: usize = 1;
                    $body
                },
                {
                    const $i: usize = 2;
                    $body
                },
                {
                    const $i: usize = 3;
                    $body
                },
            ]
        }
    };
}

impl Lanes for Neon {
    type F = [float32x4_t; 4];
    type W = [uint32x4_t; 4];

    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        each!(|_I| vdupq_n_f32(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        each!(|I| vld1q_f32(from.add(4 * I)))
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::F) {
        each!(|I| vst1q_f32(to.add(4 * I), v[I]));
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| vaddq_f32(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| vsubq_f32(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| vmulq_f32(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| vdivq_f32(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|I| vfmaq_f32(c[I], a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        each!(|I| vrndnq_f32(a[I]))
    }

    #[inline(always)]
    unsafe fn clamp_exponent(a: Self::F) -> Self::F {
        each!(|I| vmaxq_f32(vminq_f32(a[I], vdupq_n_f32(126.0)), vdupq_n_f32(-126.0)))
    }

    #[inline(always)]
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F {
        each!(|I| {
            let exponent = vaddq_s32(vcvtnq_s32_f32(n[I]), vdupq_n_s32(127));
            vmulq_f32(a[I], vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        })
    }

    #[inline(always)]
    unsafe fn splat_word(from: *const u32) -> Self::W {
        each!(|_I| vdupq_n_u32(from.read_unaligned()))
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u32) -> Self::W {
        each!(|I| vld1q_u32(from.add(4 * I)))
    }

    #[inline(always)]
    unsafe fn store_words(to: *mut u32, v: Self::W) {
        each!(|I| vst1q_u32(to.add(4 * I), v[I]));
    }

    #[inline(always)]
    unsafe fn words(v: Self::F) -> Self::W {
        each!(|I| vreinterpretq_u32_f32(v[I]))
    }

    #[inline(always)]
    unsafe fn floats(v: Self::W) -> Self::F {
        each!(|I| vreinterpretq_f32_u32(v[I]))
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::F, a: Self::W, b: Self::W) -> Self::F {
        each!(|I| {
            let acc = vfmaq_f32(acc[I], low(a[I]), low(b[I]));
            vfmaq_f32(acc, high(a[I]), high(b[I]))
        })
    }

    #[inline(always)]
    unsafe fn pair(low: Self::F, high: Self::F) -> Self::W {
        each!(|I| {
            let high = vandq_u32(rounded(high[I]), vdupq_n_u32(0xffff_0000));
            vorrq_u32(vshrq_n_u32::<16>(rounded(low[I])), high)
        })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> Self::F {
        each!(|I| {
            let half = vld1_u16(from.add(2 * I).cast());
            vreinterpretq_f32_u32(vshll_n_u16::<16>(half))
        })
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u32, v: Self::F) {
        each!(|I| vst1_u16(to.add(2 * I).cast(), vshrn_n_u32::<16>(rounded(v[I]))));
    }
}

#[inline(always)]
unsafe fn low(v: uint32x4_t) -> float32x4_t {
    // SAFETY: the target has Advanced SIMD.
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(v)) }
}

#[inline(always)]
unsafe fn high(v: uint32x4_t) -> float32x4_t {
    // SAFETY: the target has Advanced SIMD.
    unsafe { vreinterpretq_f32_u32(vandq_u32(v, vdupq_n_u32(0xffff_0000))) }
}

/// Moves the nearest bf16 number, ties to even, into the high halves.
#[inline(always)]
unsafe fn rounded(v: float32x4_t) -> uint32x4_t {
    // SAFETY: the target has Advanced SIMD.
    unsafe {
        let bits = vreinterpretq_u32_f32(v);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)))
    }
}
