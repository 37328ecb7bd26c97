//! The two inner loops of a depthwise convolution, over one flattened plane.
//!
//! ```text
//! fir:        out[i]  = sum over taps  w[tap] * src[base + offset[tap] + i]
//! correlate:  sum[tap] += sum over i   dy[i]  * src[base + offset[tap] + i]
//! ```
//!
//! Rows of a plane follow each other with their padding between them, so that one call covers
//! the whole plane whatever its width; results in the padding are garbage that nobody reads.

use crate::simd::{madd, multiversion};

/// Elements of one step; the buffers of both loops are whole steps long.
pub(crate) const STEP: usize = 16;

type Lanes = [f32; STEP];

multiversion! {
    /// Weighted sums of shifted rows; `out` holds whole steps.
    pub(crate) fn fir(
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
    check(out.len(), src.len(), base, offsets);
    assert!(w.len() >= offsets.len());
    let n = out.len() / STEP;
    let mut at = 0;
    while n - at >= 8 {
        steps::<FMA, 8>(out, src, base, offsets, w, at);
        at += 8;
    }
    while n - at >= 2 {
        steps::<FMA, 2>(out, src, base, offsets, w, at);
        at += 2;
    }
    if n > at {
        steps::<FMA, 1>(out, src, base, offsets, w, at);
    }
}

/// `N` steps whose sums stay in registers.
#[inline(always)]
fn steps<const FMA: bool, const N: usize>(
    out: &mut [f32],
    src: &[f32],
    base: isize,
    offsets: &[usize],
    w: &[f32],
    at: usize,
) {
    let mut acc = [[0.0f32; STEP]; N];
    for (offset, w) in offsets.iter().zip(w) {
        let start = (base + *offset as isize) as usize + at * STEP;
        for j in 0..N {
            // SAFETY: `check` has found `offset + out.len()` elements behind `base` in `src`,
            // and `(at + N) * STEP` is at most `out.len()`.
            let x = unsafe { read(src, start + j * STEP) };
            for i in 0..STEP {
                acc[j][i] = madd::<FMA>(*w, x[i], acc[j][i]);
            }
        }
    }
    for (out, acc) in out[at * STEP..].chunks_exact_mut(STEP).zip(acc) {
        out.copy_from_slice(&acc);
    }
}

/// Adds the inner products of `dy` with the shifted rows to `sums`.
pub(crate) fn correlate(
    simd: crate::simd::Simd,
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
