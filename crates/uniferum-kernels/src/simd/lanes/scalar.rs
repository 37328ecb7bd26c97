//! Plain Rust.

use super::{LANES, Lanes};

/// Portable lanes; the compiler may vectorise them for its baseline target.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(f)
}

fn low(word: u32) -> f32 {
    f32::from_bits(word << 16)
}

fn high(word: u32) -> f32 {
    f32::from_bits(word & 0xffff_0000)
}

/// The nearest bf16 number's bits, ties to even.
fn round_bf16(v: f32) -> u32 {
    u32::from(half::bf16::from_f32(v).to_bits())
}

// SAFETY of all unsafe blocks: the pointers are valid for sixteen elements (eight words of
// bf16 pairs, one for `splat_word`), as the trait demands.
impl Lanes for Scalar {
    type F = [f32; LANES];
    type W = [u32; LANES];

    const ACCUMULATORS: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: see above.
        unsafe { from.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::F) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::F>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        map(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        map(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        map(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        map(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        map(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        // Adding and taking away 1.5 * 2^23 leaves the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        map(|i| (a[i] + ROUND) - ROUND)
    }

    #[inline(always)]
    unsafe fn clamp_exponent(a: Self::F) -> Self::F {
        map(|i| a[i].clamp(-126.0, 126.0))
    }

    #[inline(always)]
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F {
        map(|i| a[i] * f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    unsafe fn splat_word(from: *const u32) -> Self::W {
        // SAFETY: see above.
        [unsafe { from.read_unaligned() }; LANES]
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u32) -> Self::W {
        // SAFETY: see above.
        unsafe { from.cast::<Self::W>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_words(to: *mut u32, v: Self::W) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::W>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn words(v: Self::F) -> Self::W {
        v.map(f32::to_bits)
    }

    #[inline(always)]
    unsafe fn floats(v: Self::W) -> Self::F {
        v.map(f32::from_bits)
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::F, a: Self::W, b: Self::W) -> Self::F {
        map(|i| acc[i] + low(a[i]) * low(b[i]) + high(a[i]) * high(b[i]))
    }

    #[inline(always)]
    unsafe fn pair(low: Self::F, high: Self::F) -> Self::W {
        std::array::from_fn(|i| round_bf16(low[i]) | round_bf16(high[i]) << 16)
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> Self::F {
        // SAFETY: see above.
        let words = unsafe { from.cast::<[u32; LANES / 2]>().read_unaligned() };
        map(|i| {
            if i % 2 == 0 {
                low(words[i / 2])
            } else {
                high(words[i / 2])
            }
        })
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u32, v: Self::F) {
        let words: [u32; LANES / 2] =
            std::array::from_fn(|i| round_bf16(v[2 * i]) | round_bf16(v[2 * i + 1]) << 16);
        // SAFETY: see above.
        unsafe { to.cast::<[u32; LANES / 2]>().write_unaligned(words) }
    }
}
