//! The two inner loops of a depthwise convolution, over one flattened plane.
//!
//! ```text
//! fir:        out[i]  = sum over taps  w[tap] * src[base + offset[tap] + i]
//! correlate:  sum[tap] += sum over i   dy[i]  * src[base + offset[tap] + i]
//! ```
//!
//! Rows of a plane follow each other with their padding between them, so that one call covers
//! the whole plane whatever its width; results in the padding are garbage that nobody reads.

use crate::simd::{Simd, madd, multiversion};

/// Elements of one step; the buffers of both loops are whole steps long.
pub(crate) const STEP: usize = 16;

type Lanes = [f32; STEP];

/// Taps that read shifted rows of `src`: each from `base` and its own offset on.
#[derive(Clone, Copy)]
pub(crate) struct Taps<'a> {
    pub(crate) src: &'a [f32],
    pub(crate) base: usize,
    pub(crate) offsets: &'a [usize],
}

impl Taps<'_> {
    /// Panics unless every tap reads `n` elements inside `src`.
    #[inline(always)]
    fn check(&self, n: usize) {
        assert!(n.is_multiple_of(STEP));
        let last = self.src.len().checked_sub(n);
        let fits = |offset: &usize| last.is_some_and(|last| self.start(*offset) <= last);
        assert!(self.offsets.iter().all(fits), "a tap outside its buffer");
    }

    /// The first element that a tap reads.
    #[inline(always)]
    fn start(&self, offset: usize) -> usize {
        self.base + offset
    }
}

/// Weighted sums of shifted rows; `out` holds whole steps.
pub(crate) fn fir(simd: Simd, out: &mut [f32], taps: Taps<'_>, w: &[f32]) {
    taps.check(out.len());
    assert!(w.len() >= taps.offsets.len());
    #[cfg(target_arch = "x86_64")]
    if simd == Simd::Avx512 && simd.is_available() {
        // SAFETY: the processor has the features; the taps' reads were just checked.
        return unsafe { avx512::fir(out, taps, w) };
    }
    fir_portable(simd, out, taps, w);
}

multiversion! {
    fn fir_portable(out: &mut [f32], taps: Taps<'_>, w: &[f32]) = fir_body;
}

#[inline(always)]
fn fir_body<const FMA: bool>(out: &mut [f32], taps: Taps<'_>, w: &[f32]) {
    let n = out.len() / STEP;
    let mut at = 0;
    while n - at >= 4 {
        four_steps::<FMA>(out, taps, w, at * STEP);
        at += 4;
    }
    while at < n {
        step::<FMA>(out, taps, w, at * STEP);
        at += 1;
    }
}

/// `acc + w x`.
#[inline(always)]
fn add<const FMA: bool>(acc: Lanes, w: f32, x: Lanes) -> Lanes {
    let mut sum = acc;
    for i in 0..STEP {
        sum[i] = madd::<FMA>(w, x[i], acc[i]);
    }
    sum
}

/// Four steps whose sums stay in registers: as four variables, since the compiler keeps an
/// array of them in memory, at a hundredth of the speed.
#[inline(always)]
fn four_steps<const FMA: bool>(out: &mut [f32], taps: Taps<'_>, w: &[f32], at: usize) {
    let src = taps.src;
    let (mut a, mut b, mut c, mut d) = ([0.0; STEP], [0.0; STEP], [0.0; STEP], [0.0; STEP]);
    for (offset, w) in taps.offsets.iter().zip(w) {
        let start = taps.start(*offset) + at;
        // SAFETY: `fir` has checked that `out.len()` elements lie behind each tap's start, and
        // `at + 4 * STEP` is at most `out.len()`.
        unsafe {
            a = add::<FMA>(a, *w, read(src, start));
            b = add::<FMA>(b, *w, read(src, start + STEP));
            c = add::<FMA>(c, *w, read(src, start + 2 * STEP));
            d = add::<FMA>(d, *w, read(src, start + 3 * STEP));
        }
    }
    for (out, sums) in out[at..].chunks_exact_mut(STEP).zip([a, b, c, d]) {
        out.copy_from_slice(&sums);
    }
}

#[inline(always)]
fn step<const FMA: bool>(out: &mut [f32], taps: Taps<'_>, w: &[f32], at: usize) {
    let mut acc = [0.0; STEP];
    for (offset, w) in taps.offsets.iter().zip(w) {
        let start = taps.start(*offset) + at;
        // SAFETY: as in `four_steps`, with one step.
        acc = add::<FMA>(acc, *w, unsafe { read(taps.src, start) });
    }
    out[at..at + STEP].copy_from_slice(&acc);
}

multiversion! {
    /// Adds the inner products of `dy` with the shifted rows to `sums`.
    pub(crate) fn correlate(sums: &mut [f64], dy: &[f32], taps: Taps<'_>) = correlate_body;
}

#[inline(always)]
fn correlate_body<const FMA: bool>(sums: &mut [f64], dy: &[f32], taps: Taps<'_>) {
    // As many taps at a time as a plane of 3 x 3 or a row of 5 has.
    match taps.offsets.len() {
        n if n.is_multiple_of(9) => correlate_groups::<FMA, 9>(sums, dy, taps),
        n if n.is_multiple_of(5) => correlate_groups::<FMA, 5>(sums, dy, taps),
        _ => correlate_groups::<FMA, 1>(sums, dy, taps),
    }
}

#[inline(always)]
fn correlate_groups<const FMA: bool, const N: usize>(sums: &mut [f64], dy: &[f32], taps: Taps<'_>) {
    for (sums, offsets) in sums.chunks_mut(N).zip(taps.offsets.chunks(N)) {
        correlate_group::<FMA, N>(sums, dy, Taps { offsets, ..taps });
    }
}

#[inline(always)]
fn correlate_group<const FMA: bool, const N: usize>(sums: &mut [f64], dy: &[f32], taps: Taps<'_>) {
    taps.check(dy.len());
    let starts: [usize; N] = std::array::from_fn(|j| taps.start(taps.offsets[j]));
    let mut acc = [[0.0f32; STEP]; N];
    for step in 0..dy.len() / STEP {
        // SAFETY: whole steps of `dy`; `check` has found as many elements behind each start.
        let d = unsafe { read(dy, step * STEP) };
        for j in 0..N {
            // SAFETY: as above.
            let x = unsafe { read(taps.src, starts[j] + step * STEP) };
            for i in 0..STEP {
                acc[j][i] = madd::<FMA>(d[i], x[i], acc[j][i]);
            }
        }
    }
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum += f64::from(acc.iter().sum::<f32>());
    }
}

/// # Safety
/// `at + STEP` must be at most `src.len()`.
#[inline(always)]
unsafe fn read(src: &[f32], at: usize) -> Lanes {
    debug_assert!(at + STEP <= src.len());
    // SAFETY: the caller's promise; arrays of floats need no alignment beyond a float's.
    unsafe { src.as_ptr().add(at).cast::<Lanes>().read() }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{STEP, Taps};

    /// # Safety
    /// `out.len()` elements must lie behind each tap's start, there must be a weight for each
    /// tap, and `out` must hold whole steps.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fir(out: &mut [f32], taps: Taps<'_>, w: &[f32]) {
        let n = out.len() / STEP;
        let mut at = 0;
        // SAFETY: steps `at..at + N` lie inside `out`; the caller's promise for the rest.
        unsafe {
            while n - at >= 8 {
                steps::<8>(out, taps, w, at * STEP);
                at += 8;
            }
            while n - at >= 3 {
                steps::<3>(out, taps, w, at * STEP);
                at += 3;
            }
            while at < n {
                steps::<1>(out, taps, w, at * STEP);
                at += 1;
            }
        }
    }

    /// # Safety
    /// As for [`fir`], and `at + N * STEP` at most `out.len()`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn steps<const N: usize>(out: &mut [f32], taps: Taps<'_>, w: &[f32], at: usize) {
        let mut acc = [_mm512_setzero_ps(); N];
        for (offset, w) in taps.offsets.iter().zip(w) {
            let start = taps.start(*offset) + at;
            let w = _mm512_set1_ps(*w);
            for j in 0..N {
                // SAFETY: the caller's promise.
                let x = unsafe { _mm512_loadu_ps(taps.src.as_ptr().add(start + j * STEP)) };
                acc[j] = _mm512_fmadd_ps(x, w, acc[j]);
            }
        }
        for j in 0..N {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(at + j * STEP), acc[j]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_loops_agree_with_their_definition_under_every_instruction_set() {
        let src: Vec<f32> = (0..600)
            .map(|i| (i * 37 % 101) as f32 * 0.02 - 1.0)
            .collect();
        for (steps, taps) in [(1, 1), (2, 5), (5, 9), (12, 27), (17, 25)] {
            let offsets: Vec<usize> = (0..taps).map(|t| t * 7 % 97).collect();
            let w: Vec<f32> = (0..taps)
                .map(|t| (t * 13 % 11) as f32 * 0.1 - 0.5)
                .collect();
            let n = steps * STEP;
            let at = |t: usize, i: usize| f64::from(src[3 + offsets[t] + i]);
            let places = Taps {
                src: &src,
                base: 3,
                offsets: &offsets,
            };
            for simd in Simd::available() {
                let mut out = vec![f32::NAN; n];
                fir(simd, &mut out, places, &w);
                for (i, got) in out.iter().enumerate() {
                    let want: f64 = (0..taps).map(|t| f64::from(w[t]) * at(t, i)).sum();
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-5,
                        "{simd:?} {steps} {taps}"
                    );
                }
                let mut sums = vec![0.5; taps];
                correlate(simd, &mut sums, &src[..n], places);
                for (t, got) in sums.iter().enumerate() {
                    let products = (0..n).map(|i| f64::from(src[i]) * at(t, i));
                    let want = 0.5 + products.sum::<f64>();
                    assert!(
                        (got - want).abs() < 1e-4,
                        "{simd:?} {steps} {taps}: {got} {want}"
                    );
                }
            }
        }
    }
}
