//! What the machine can do at most: multiplications and additions in registers, and a copy.

#![allow(dead_code, unreachable_pub)] // Each benchmark uses a part of this module.

use std::time::Instant;

use rayon::prelude::*;

/// Multiplications and additions in flight.
const CHAINS: usize = 12;
const ROUNDS: usize = 4_000_000;

/// Operations a second of all threads.
fn threads(work: fn() -> f64) -> f64 {
    let once = || {
        let start = Instant::now();
        let lanes = rayon::current_num_threads();
        let sums: Vec<f64> = (0..lanes)
            .into_par_iter()
            .with_max_len(1)
            .map(|_| work())
            .collect();
        sums.iter().sum::<f64>() / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}

/// Peak in single precision, FLOP/s.
pub fn f32_flops() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature.
            return threads(|| unsafe { x86::avx512() });
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return threads(|| unsafe { x86::avx2() });
        }
    }
    threads(portable)
}

/// Peak of bf16 products, FLOP/s; `None` where the processor has none.
pub fn bf16_flops() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the processor has the feature.
        return Some(threads(|| unsafe { x86::avx512_bf16() }));
    }
    None
}

/// A number that the compiler does not know, another one for each chain: it would compute equal
/// chains once.
fn first(chain: usize) -> f32 {
    std::hint::black_box(1.0 + chain as f32)
}

fn portable() -> f64 {
    let mut acc: [[f32; 4]; CHAINS] = std::array::from_fn(|i| [first(i); 4]);
    for _ in 0..ROUNDS {
        for a in acc.iter_mut().flatten() {
            *a = *a * 0.999 + 0.001;
        }
    }
    std::hint::black_box(acc);
    (2 * 4 * CHAINS * ROUNDS) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CHAINS, ROUNDS, first};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> f64 {
        let (m, c) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
        let mut acc = [_mm512_setzero_ps(); CHAINS];
        for (i, a) in acc.iter_mut().enumerate() {
            *a = _mm512_set1_ps(first(i));
        }
        for _ in 0..ROUNDS {
            for a in &mut acc {
                *a = _mm512_fmadd_ps(*a, m, c);
            }
        }
        std::hint::black_box(acc);
        (2 * 16 * CHAINS * ROUNDS) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> f64 {
        let (m, c) = (_mm256_set1_ps(0.999), _mm256_set1_ps(0.001));
        let mut acc = [_mm256_set1_ps(1.0); CHAINS];
        for (i, a) in acc.iter_mut().enumerate() {
            *a = _mm256_set1_ps(first(i));
        }
        for _ in 0..ROUNDS {
            for a in &mut acc {
                *a = _mm256_fmadd_ps(*a, m, c);
            }
        }
        std::hint::black_box(acc);
        (2 * 8 * CHAINS * ROUNDS) as f64
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn avx512_bf16() -> f64 {
        let ones = _mm512_set1_ps(1.0);
        let pairs = _mm512_cvtne2ps_pbh(ones, ones);
        let mut acc = [ones; CHAINS];
        for (i, a) in acc.iter_mut().enumerate() {
            *a = _mm512_set1_ps(first(i));
        }
        for _ in 0..ROUNDS {
            for a in &mut acc {
                *a = _mm512_dpbf16_ps(*a, pairs, pairs);
            }
        }
        std::hint::black_box(acc);
        (2 * 32 * CHAINS * ROUNDS) as f64
    }
}

/// Bytes a second of copying far more than the caches hold, read and written.
pub fn copy_bytes() -> f64 {
    const FLOATS: usize = 1 << 26;
    const CHUNK: usize = 1 << 16;
    let from = vec![1.0f32; FLOATS];
    let mut to = vec![0.0f32; FLOATS];
    let mut once = || {
        let start = Instant::now();
        to.par_chunks_mut(CHUNK)
            .zip(from.par_chunks(CHUNK))
            .for_each(|(to, from)| to.copy_from_slice(from));
        (8 * FLOATS) as f64 / start.elapsed().as_secs_f64()
    };
    (0..7).map(|_| once()).fold(0.0, f64::max)
}
