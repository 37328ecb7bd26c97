//! AVX-512: sixteen lanes are one register, of which there are thirty-two.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX-512 F, BW, DQ and VL; bf16 products by shifting and masking.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// As [`Avx512`], with AVX512-BF16's dot product of pairs.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16;

/// Both types differ in the bf16 functions only.
macro_rules! common {
    () => {
        type F = __m512;
        type W = __m512i;

        const ACCUMULATORS: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_set1_ps(value) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_add_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_sub_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_mul_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_div_ps(a, b) }
        }

        #[inline(always)]
        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }

        #[inline(always)]
        unsafe fn round(a: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_roundscale_ps::<0>(a) }
        }

        #[inline(always)]
        unsafe fn clamp_exponent(a: __m512) -> __m512 {
            // `vscalefps` overflows to infinity and underflows to zero by itself, even where what it
            // scales is not a number because the exponent is infinite.
            a
        }

        #[inline(always)]
        unsafe fn scale(a: __m512, n: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_scalef_ps(a, n) }
        }

        #[inline(always)]
        unsafe fn about_recip(a: __m512) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_rcp14_ps(a) }
        }

        #[inline(always)]
        unsafe fn stream(to: *mut f32, v: __m512) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_stream_ps(to, v) }
        }

        #[inline(always)]
        unsafe fn fence() {
            // SAFETY: a fence touches no memory.
            unsafe { _mm_sfence() }
        }

        #[inline(always)]
        unsafe fn prefetch(from: *const u32) {
            // SAFETY: prefetching never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
        }

        #[inline(always)]
        unsafe fn splat_word(from: *const u32) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }

        #[inline(always)]
        unsafe fn load_words(from: *const u32) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline(always)]
        unsafe fn store_words(to: *mut u32, v: __m512i) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_si512(to.cast(), v) }
        }

        #[inline(always)]
        unsafe fn words(v: __m512) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_castps_si512(v) }
        }

        #[inline(always)]
        unsafe fn floats(v: __m512i) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_castsi512_ps(v) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const u32) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe {
                let half = _mm256_loadu_si256(from.cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
            }
        }
    };
}

impl Lanes for Avx512 {
    common!();

    #[inline(always)]
    unsafe fn dot(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let acc = _mm512_fmadd_ps(low(a), low(b), acc);
            _mm512_fmadd_ps(high(a), high(b), acc)
        }
    }

    #[inline(always)]
    unsafe fn pair(low: __m512, high: __m512) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let high = _mm512_and_si512(rounded(high), high_halves());
            _mm512_or_si512(_mm512_srli_epi32::<16>(rounded(low)), high)
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u32, v: __m512) {
        // SAFETY: the caller's promise.
        unsafe {
            let half = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded(v)));
            _mm256_storeu_si256(to.cast(), half);
        }
    }
}

#[inline(always)]
unsafe fn high_halves() -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_set1_epi32(0xffff_0000_u32.cast_signed()) }
}

#[inline(always)]
unsafe fn low(v: __m512i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v)) }
}

#[inline(always)]
unsafe fn high(v: __m512i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ps(_mm512_and_si512(v, high_halves())) }
}

/// Moves the nearest bf16 number, ties to even, into the high halves.
#[inline(always)]
unsafe fn rounded(v: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        _mm512_add_epi32(bits, bias)
    }
}

impl Lanes for Avx512Bf16 {
    common!();

    #[inline(always)]
    unsafe fn dot(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: the caller's promise; any bits are a `__m512bh`.
        unsafe {
            let a = std::mem::transmute::<__m512i, __m512bh>(a);
            let b = std::mem::transmute::<__m512i, __m512bh>(b);
            _mm512_dpbf16_ps(acc, a, b)
        }
    }

    #[inline(always)]
    unsafe fn pair(low: __m512, high: __m512) -> __m512i {
        // SAFETY: the caller's promise; any `__m512bh` is a `__m512i`.
        unsafe {
            let halves: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_permutexvar_epi16(interleave(), halves)
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u32, v: __m512) {
        // SAFETY: the caller's promise; any `__m256bh` is a `__m256i`.
        unsafe {
            let half: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
            _mm256_storeu_si256(to.cast(), half);
        }
    }

    #[inline(always)]
    unsafe fn stream_bf16(to: *mut u32, v: __m512) {
        // SAFETY: the caller's promise; any `__m256bh` is a `__m256i`.
        unsafe {
            let half: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(v));
            _mm256_stream_si256(to.cast(), half);
        }
    }
}

/// Takes elements `0, 16, 1, 17, ..` of thirty-two.
#[inline(always)]
unsafe fn interleave() -> __m512i {
    const INDICES: [u32; 16] = {
        let mut pairs = [0; 16];
        let mut i = 0;
        while i < 16 {
            pairs[i as usize] = i | (16 + i) << 16;
            i += 1;
        }
        pairs
    };
    // SAFETY: the array is 64 bytes long; the caller vouches for the features.
    unsafe { _mm512_loadu_si512(INDICES.as_ptr().cast()) }
}
