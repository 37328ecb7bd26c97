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

/// Weighted sums of shifted rows; `out` holds whole steps.
pub(crate) fn fir(
    simd: Simd,
    out: &mut [f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
    w: &[f32],
) {
    check(out.len(), src.len(), base, offsets);
    assert!(w.len() >= offsets.len());
    #[cfg(target_arch = "x86_64")]
    if simd == Simd::Avx512 && simd.is_available() {
        // SAFETY: the processor has the features; the tap's reads were just checked.
        return unsafe { avx512::fir(out, src, base, offsets, w) };
    }
    fir_portable(simd, out, src, base, offsets, w);
}

multiversion! {
    fn fir_portable(
        out: &mut [f32], src: &[f32], base: isize, offsets: &[usize], w: &[f32],
    ) = fir_body;
}

#[inline(always)]
fn fir_body<const FMA: bool>(
    out: &mut [f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
    w: &[f32],
) {
    let n = out.len() / STEP;
    let mut at = 0;
    while n - at >= 4 {
        four_steps::<FMA>(out, src, base, offsets, w, at * STEP);
        at += 4;
    }
    while at < n {
        step::<FMA>(out, src, base, offsets, w, at * STEP);
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
fn four_steps<const FMA: bool>(
    out: &mut [f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
    w: &[f32],
    at: usize,
) {
    let (mut a, mut b, mut c, mut d) = ([0.0; STEP], [0.0; STEP], [0.0; STEP], [0.0; STEP]);
    for (offset, w) in offsets.iter().zip(w) {
        let start = (base + *offset as isize) as usize + at;
        // SAFETY: `fir` has checked that `out.len()` elements lie behind each `base + offset`,
        // and `at + 4 * STEP` is at most `out.len()`.
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
fn step<const FMA: bool>(
    out: &mut [f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
    w: &[f32],
    at: usize,
) {
    let mut acc = [0.0; STEP];
    for (offset, w) in offsets.iter().zip(w) {
        let start = (base + *offset as isize) as usize + at;
        // SAFETY: as in `four_steps`, with one step.
        acc = add::<FMA>(acc, *w, unsafe { read(src, start) });
    }
    out[at..at + STEP].copy_from_slice(&acc);
}

/// Adds the inner products of `dy` with the shifted rows to `sums`.
pub(crate) fn correlate(
    simd: Simd,
    sums: &mut [f64],
    dy: &[f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
) {
    let group = [9, 5]
        .into_iter()
        .find(|g| offsets.len().is_multiple_of(*g));
    let group = group.unwrap_or(1);
    for (sums, offsets) in sums.chunks_mut(group).zip(offsets.chunks(group)) {
        match group {
            9 => correlate9(simd, sums, dy, src, base, offsets),
            5 => correlate5(simd, sums, dy, src, base, offsets),
            _ => correlate1(simd, sums, dy, src, base, offsets),
        }
    }
}

multiversion! {
    fn correlate9(sums: &mut [f64], dy: &[f32], src: &[f32], base: isize, offsets: &[usize])
        = correlate9_body;
}
multiversion! {
    fn correlate5(sums: &mut [f64], dy: &[f32], src: &[f32], base: isize, offsets: &[usize])
        = correlate5_body;
}
multiversion! {
    fn correlate1(sums: &mut [f64], dy: &[f32], src: &[f32], base: isize, offsets: &[usize])
        = correlate1_body;
}

#[inline(always)]
fn correlate9_body<const FMA: bool>(s: &mut [f64], dy: &[f32], x: &[f32], b: isize, o: &[usize]) {
    correlate_taps::<FMA, 9>(s, dy, x, b, o);
}

#[inline(always)]
fn correlate5_body<const FMA: bool>(s: &mut [f64], dy: &[f32], x: &[f32], b: isize, o: &[usize]) {
    correlate_taps::<FMA, 5>(s, dy, x, b, o);
}

#[inline(always)]
fn correlate1_body<const FMA: bool>(s: &mut [f64], dy: &[f32], x: &[f32], b: isize, o: &[usize]) {
    correlate_taps::<FMA, 1>(s, dy, x, b, o);
}

#[inline(always)]
fn correlate_taps<const FMA: bool, const N: usize>(
    sums: &mut [f64],
    dy: &[f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
) {
    check(dy.len(), src.len(), base, offsets);
    let starts: [usize; N] = std::array::from_fn(|j| (base + offsets[j] as isize) as usize);
    let mut acc = [[0.0f32; STEP]; N];
    for step in 0..dy.len() / STEP {
        // SAFETY: whole steps of `dy`; `check` has found as many elements behind each start.
        let d = unsafe { read(dy, step * STEP) };
        for j in 0..N {
            // SAFETY: as above.
            let x = unsafe { read(src, starts[j] + step * STEP) };
            for i in 0..STEP {
                acc[j][i] = madd::<FMA>(d[i], x[i], acc[j][i]);
            }
        }
    }
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum += f64::from(acc.iter().sum::<f32>());
    }
}

/// Panics unless every tap reads inside `src`.
#[inline(always)]
fn check(n: usize, src: usize, base: isize, offsets: &[usize]) {
    assert!(n.is_multiple_of(STEP));
    let fits = |offset: &usize| {
        let start = base + *offset as isize;
        start >= 0 && start as usize + n <= src
    };
    assert!(offsets.iter().all(fits), "a tap outside its buffer");
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

    use super::STEP;

    /// # Safety
    /// `out.len()` elements of `src` must lie behind each `base + offset`, there must be a
    /// weight for each offset, and `out` must hold whole steps.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn fir(
        out: &mut [f32],
        src: &[f32],
        base: isize,
        offsets: &[usize],
        w: &[f32],
    ) {
        let n = out.len() / STEP;
        let mut at = 0;
        // SAFETY: steps `at..at + N` lie inside `out`; the caller's promise for the rest.
        unsafe {
            while n - at >= 8 {
                steps::<8>(out, src, base, offsets, w, at * STEP);
                at += 8;
            }
            while n - at >= 3 {
                steps::<3>(out, src, base, offsets, w, at * STEP);
                at += 3;
            }
            while at < n {
                steps::<1>(out, src, base, offsets, w, at * STEP);
                at += 1;
            }
        }
    }

    /// # Safety
    /// As for [`fir`], and `at + N * STEP` at most `out.len()`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn steps<const N: usize>(
        out: &mut [f32],
        src: &[f32],
        base: isize,
        offsets: &[usize],
        w: &[f32],
        at: usize,
    ) {
        let mut acc = [_mm512_setzero_ps(); N];
        for (offset, w) in offsets.iter().zip(w) {
            let start = (base + *offset as isize) as usize + at;
            let w = _mm512_set1_ps(*w);
            for j in 0..N {
                // SAFETY: the caller's promise.
                let x = unsafe { _mm512_loadu_ps(src.as_ptr().add(start + j * STEP)) };
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
            for simd in Simd::available() {
                let mut out = vec![f32::NAN; n];
                fir(simd, &mut out, &src, 3, &offsets, &w);
                for (i, got) in out.iter().enumerate() {
                    let want: f64 = (0..taps).map(|t| f64::from(w[t]) * at(t, i)).sum();
                    assert!(
                        (f64::from(*got) - want).abs() < 1e-5,
                        "{simd:?} {steps} {taps}"
                    );
                }
                let mut sums = vec![0.5; taps];
                correlate(simd, &mut sums, &src[..n], &src, 3, &offsets);
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
