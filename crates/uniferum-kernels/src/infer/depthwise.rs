//! The depthwise convolution over lines, one block of channels.

use super::format::{BLOCK, Format};
use super::pack::{line_taps, phase_words};
use crate::simd::{Isa, Lanes, lane_dispatch};

/// The largest kernel.
pub(super) const MAX_KERNEL: usize = 5;

/// The rows of one output plane.
#[derive(Clone, Copy)]
pub(super) struct Plane {
    /// Lines of the input planes that the taps along the depth see.
    pub(super) lines: [*const u32; MAX_KERNEL],
    /// The taps whose planes lie inside the volume.
    pub(super) taps: [usize; 2],
    /// Words from one line row to the next.
    pub(super) line_stride: usize,
    /// Weights as [`pack::depthwise`](super::pack::depthwise) orders them, sixteen biases.
    pub(super) weight: *const u32,
    pub(super) bias: *const f32,
    pub(super) rows: usize,
    pub(super) width: usize,
    /// The first voxel; rows follow each other.
    pub(super) out: *mut u32,
    /// Whether the result goes past the caches, being larger than they are.
    pub(super) stream: bool,
    /// Sixteen sums over the results.
    pub(super) sums: *mut f32,
}

/// `silu(w * x + b)` of a plane's voxels, and its sum over them.
///
/// # Safety
/// The kernel must be 3 or 5 and the stride 1 or 2, every pointer valid for the sizes that
/// stand beside it, and all lines written.
pub(super) unsafe fn depthwise<F: Format>(isa: Isa, kernel: usize, stride: usize, plane: &Plane) {
    // SAFETY: the caller's promise.
    unsafe {
        match (kernel, stride) {
            (3, 1) => k3s1::<F>(isa, plane),
            (3, _) => k3s2::<F>(isa, plane),
            (_, 1) => k5s1::<F>(isa, plane),
            (_, _) => k5s2::<F>(isa, plane),
        }
    }
}

/// One compiled copy for each kernel and stride.
macro_rules! sizes {
    ($($name:ident, $body:ident, $k:literal, $s:literal;)*) => {$(
        lane_dispatch! {
            unsafe fn $name[F: Format](plane: &Plane) = $body;
        }

        #[inline(always)]
        unsafe fn $body<L: Lanes, F: Format>(plane: &Plane) {
            // SAFETY: the caller's promise.
            unsafe { columns::<L, F, $k, $s>(plane) }
        }
    )*};
}

sizes! {
    k3s1, k3s1_body, 3, 1;
    k3s2, k3s2_body, 3, 2;
    k5s1, k5s1_body, 5, 1;
    k5s2, k5s2_body, 5, 2;
}

/// Goes down narrow strips of columns, so that the rows which neighbouring output rows
/// share are still in the first-level cache.
#[inline(always)]
unsafe fn columns<L: Lanes, F: Format, const K: usize, const S: usize>(plane: &Plane) {
    // SAFETY: the strips lie inside the plane.
    unsafe {
        let mut at = 0;
        if L::ACCUMULATORS >= 8 {
            while at + 8 <= plane.width {
                strip::<L, F, K, S, 8>(plane, at);
                at += 8;
            }
        }
        while at + 4 <= plane.width {
            strip::<L, F, K, S, 4>(plane, at);
            at += 4;
        }
        while at + 2 <= plane.width {
            strip::<L, F, K, S, 2>(plane, at);
            at += 2;
        }
        if at < plane.width {
            strip::<L, F, K, S, 1>(plane, at);
        }
        if plane.stream {
            L::fence();
        }
    }
}

#[inline(always)]
unsafe fn strip<L: Lanes, F: Format, const K: usize, const S: usize, const N: usize>(
    plane: &Plane,
    column: usize,
) {
    // SAFETY: the strip lies inside the plane.
    unsafe {
        let bias = L::load(plane.bias);
        let mut sum = L::load(plane.sums);
        for row in 0..plane.rows {
            let (line, phase) = (row * S / F::PACK, row * S % F::PACK);
            let weight = plane.weight.add(phase * phase_words::<F>(K));
            let start = line * plane.line_stride + column * S * BLOCK;
            let acc = taps::<L, F, K, S, N>(plane, weight, start, bias);
            let out = plane.out.add((row * plane.width + column) * F::WORDS);
            for n in 0..N {
                let y = F::silu::<L>(acc[n]);
                sum = L::add(sum, y);
                if plane.stream {
                    F::stream::<L>(out.add(n * F::WORDS), y);
                } else {
                    F::store::<L>(out.add(n * F::WORDS), y);
                }
            }
        }
        L::store(plane.sums, sum);
    }
}

#[inline(always)]
unsafe fn taps<L: Lanes, F: Format, const K: usize, const S: usize, const N: usize>(
    plane: &Plane,
    weight: *const u32,
    start: usize,
    bias: L::F,
) -> [L::F; N] {
    // SAFETY: as in `strip`.
    unsafe {
        let mut acc = [bias; N];
        for depth in plane.taps[0]..plane.taps[1] {
            for line in 0..line_taps::<F>(K) {
                let x = plane.lines[depth].add(start + line * plane.line_stride);
                let w = weight.add((depth * line_taps::<F>(K) + line) * K * BLOCK);
                for tap in 0..K {
                    let w = L::load_words(w.add(tap * BLOCK));
                    for n in 0..N {
                        let x = L::load_words(x.add((n * S + tap) * BLOCK));
                        acc[n] = F::mul_add::<L>(acc[n], x, w);
                    }
                }
            }
        }
        acc
    }
}
