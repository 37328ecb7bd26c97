//! AVX2 with FMA: sixteen lanes are two registers, of which there are sixteen.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Both registers from one expression of their index. Not a closure: those are compiled
/// without the instruction set, and intrinsics become function calls in them.
macro_rules! each {
    (|$i:ident| $body:expr) => {
        // SAFETY: the caller has AVX2 and FMA and vouches for the pointers.
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
            ]
        }
    };
}

// SAFETY of all unsafe blocks: the caller has AVX2 and FMA and vouches for the pointers.
impl Lanes for Avx2 {
    type F = [__m256; 2];
    type W = [__m256i; 2];

    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        each!(|_I| _mm256_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        each!(|I| _mm256_loadu_ps(from.add(8 * I)))
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::F) {
        each!(|I| _mm256_storeu_ps(to.add(8 * I), v[I]));
    }

    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| _mm256_add_ps(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| _mm256_sub_ps(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| _mm256_mul_ps(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each!(|I| _mm256_div_ps(a[I], b[I]))
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|I| _mm256_fmadd_ps(a[I], b[I], c[I]))
    }

    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        each!(|I| _mm256_round_ps::<NEAREST>(a[I]))
    }

    #[inline(always)]
    unsafe fn clamp_exponent(a: Self::F) -> Self::F {
        // The operand that may be NaN comes second, since these return it then.
        each!(|I| {
            let a = _mm256_min_ps(_mm256_set1_ps(126.0), a[I]);
            _mm256_max_ps(_mm256_set1_ps(-126.0), a)
        })
    }

    #[inline(always)]
    unsafe fn scale(a: Self::F, n: Self::F) -> Self::F {
        each!(|I| {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n[I]), _mm256_set1_epi32(127));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            _mm256_mul_ps(a[I], power)
        })
    }

    #[inline(always)]
    unsafe fn stream(to: *mut f32, v: Self::F) {
        each!(|I| _mm256_stream_ps(to.add(8 * I), v[I]));
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
    unsafe fn splat_word(from: *const u32) -> Self::W {
        each!(|_I| _mm256_set1_epi32(from.cast::<i32>().read_unaligned()))
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u32) -> Self::W {
        each!(|I| _mm256_loadu_si256(from.add(8 * I).cast()))
    }

    #[inline(always)]
    unsafe fn store_words(to: *mut u32, v: Self::W) {
        each!(|I| _mm256_storeu_si256(to.add(8 * I).cast(), v[I]));
    }

    #[inline(always)]
    unsafe fn words(v: Self::F) -> Self::W {
        each!(|I| _mm256_castps_si256(v[I]))
    }

    #[inline(always)]
    unsafe fn floats(v: Self::W) -> Self::F {
        each!(|I| _mm256_castsi256_ps(v[I]))
    }

    #[inline(always)]
    unsafe fn dot(acc: Self::F, a: Self::W, b: Self::W) -> Self::F {
        each!(|I| {
            let acc = _mm256_fmadd_ps(low(a[I]), low(b[I]), acc[I]);
            _mm256_fmadd_ps(high(a[I]), high(b[I]), acc)
        })
    }

    #[inline(always)]
    unsafe fn pair(low: Self::F, high: Self::F) -> Self::W {
        each!(|I| {
            let high = _mm256_and_si256(rounded(high[I]), high_halves());
            _mm256_or_si256(_mm256_srli_epi32::<16>(rounded(low[I])), high)
        })
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u32) -> Self::F {
        each!(|I| {
            let half = _mm_loadu_si128(from.add(4 * I).cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
        })
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u32, v: Self::F) {
        let [low, high] = each!(|I| _mm256_srli_epi32::<16>(rounded(v[I])));
        // SAFETY: see above.
        unsafe {
            // Packing works within the two halves of the registers.
            let packed = _mm256_packus_epi32(low, high);
            _mm256_storeu_si256(to.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
        }
    }
}

#[inline(always)]
unsafe fn low(v: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v)) }
}

#[inline(always)]
unsafe fn high(v: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_castsi256_ps(_mm256_and_si256(v, high_halves())) }
}

#[inline(always)]
unsafe fn high_halves() -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_set1_epi32(0xffff_0000_u32.cast_signed()) }
}

/// Moves the nearest bf16 number, ties to even, into the high halves.
#[inline(always)]
unsafe fn rounded(v: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        _mm256_add_epi32(bits, bias)
    }
}
