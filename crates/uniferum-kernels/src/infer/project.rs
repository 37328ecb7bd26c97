//! The narrowing matrix products and the weights scaled for them.

use super::format::{BLOCK, Format};
use super::rows::{multiply, tiles};
use crate::simd::{Lanes, lane_dispatch};

/// One block of output channels of consecutive voxels.
#[derive(Clone, Copy)]
pub(super) struct Projection {
    /// The first voxel's first channels.
    pub(super) x: *const u32,
    /// Words from one block of input channels to the next.
    pub(super) block_stride: usize,
    /// Words of the input channels.
    pub(super) inputs: usize,
    /// Weights `[input word][lane]` and the sixteen biases.
    pub(super) weight: *const u32,
    pub(super) bias: *const f32,
    pub(super) voxels: usize,
    /// What is added to the result, or null.
    pub(super) residual: *const u32,
    pub(super) out: *mut u32,
}

lane_dispatch! {
    /// `W x + b`, and the residual if there is one.
    ///
    /// # Safety
    /// The pointers must be valid for the sizes that stand beside them; `out` may be
    /// `residual`.
    pub(super) unsafe fn project[F: Format](p: &Projection) = project_body;
}

#[inline(always)]
unsafe fn project_body<L: Lanes, F: Format>(p: &Projection) {
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(L, p.voxels / 2, project_tile(p));
        if let Some((voxel, y)) = odd_voxel::<L, F>(p) {
            F::store::<L>(p.out.add(voxel * F::WORDS), y);
        }
    }
}

#[inline(always)]
unsafe fn project_tile<L: Lanes, F: Format, const N: usize>(p: &Projection, at: usize) {
    // SAFETY: two times `N` voxels from `2 * at` on.
    unsafe {
        let acc = both::<L, F, N>(p, at);
        for side in 0..2 {
            for n in 0..N {
                let voxel = 2 * at + side * N + n;
                let y = add_residual::<L, F>(p, voxel, acc[side][n]);
                F::store::<L>(p.out.add(voxel * F::WORDS), y);
            }
        }
    }
}

#[inline(always)]
unsafe fn both<L: Lanes, F: Format, const N: usize>(p: &Projection, at: usize) -> [[L::F; N]; 2] {
    // SAFETY: two times `N` voxels from `2 * at` on.
    unsafe {
        let x = p.x.add(2 * at * F::WORDS);
        let x = [x, x.add(N * F::WORDS)];
        let source = (x, p.block_stride, 4 * N * F::WORDS);
        multiply::<L, F, N>(source, p.inputs, p.weight, L::load(p.bias))
    }
}

#[inline(always)]
unsafe fn add_residual<L: Lanes, F: Format>(p: &Projection, voxel: usize, y: L::F) -> L::F {
    if p.residual.is_null() {
        return y;
    }
    // SAFETY: the residual has as many voxels as the result.
    unsafe { L::add(y, F::load::<L>(p.residual.add(voxel * F::WORDS))) }
}

/// The last of an odd number of voxels.
#[inline(always)]
unsafe fn odd_voxel<L: Lanes, F: Format>(p: &Projection) -> Option<(usize, L::F)> {
    if p.voxels.is_multiple_of(2) {
        return None;
    }
    // SAFETY: the last voxel, twice.
    unsafe {
        let voxel = p.voxels - 1;
        let x = [p.x.add(voxel * F::WORDS); 2];
        let bias = L::load(p.bias);
        let acc = multiply::<L, F, 1>((x, p.block_stride, 0), p.inputs, p.weight, bias);
        Some((voxel, add_residual::<L, F>(p, voxel, acc[0][0])))
    }
}

lane_dispatch! {
    /// `silu(W x + b)` in single precision, whatever the format of `x`: the head.
    ///
    /// # Safety
    /// As for [`project`].
    pub(super) unsafe fn head[F: Format](p: &Projection) = head_body;
}

#[inline(always)]
unsafe fn head_body<L: Lanes, F: Format>(p: &Projection) {
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(L, p.voxels / 2, head_tile(p));
        if let Some((voxel, y)) = odd_voxel::<L, F>(p) {
            L::store(p.out.add(voxel * BLOCK).cast(), L::silu(y));
        }
    }
}

#[inline(always)]
unsafe fn head_tile<L: Lanes, F: Format, const N: usize>(p: &Projection, at: usize) {
    // SAFETY: two times `N` voxels from `2 * at` on.
    unsafe {
        let acc = both::<L, F, N>(p, at);
        for side in 0..2 {
            for n in 0..N {
                let to = p.out.add((2 * at + side * N + n) * BLOCK);
                L::store(to.cast(), L::silu(acc[side][n]));
            }
        }
    }
}

lane_dispatch! {
    /// `W x + b` in single precision, whatever the format of `x`.
    ///
    /// # Safety
    /// As for [`project`].
    pub(super) unsafe fn plain[F: Format](p: &Projection) = plain_body;
}

#[inline(always)]
unsafe fn plain_body<L: Lanes, F: Format>(p: &Projection) {
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(L, p.voxels / 2, plain_tile(p));
        if let Some((voxel, y)) = odd_voxel::<L, F>(p) {
            L::store(p.out.add(voxel * BLOCK).cast(), y);
        }
    }
}

#[inline(always)]
unsafe fn plain_tile<L: Lanes, F: Format, const N: usize>(p: &Projection, at: usize) {
    // SAFETY: two times `N` voxels from `2 * at` on.
    unsafe {
        let acc = both::<L, F, N>(p, at);
        for side in 0..2 {
            for n in 0..N {
                let to = p.out.add((2 * at + side * N + n) * BLOCK);
                L::store(to.cast(), acc[side][n]);
            }
        }
    }
}

lane_dispatch! {
    /// Multiplies the rows of a transposed matrix of one block of outputs by a gate each
    /// and packs them.
    ///
    /// # Safety
    /// `weight` must have an even number `inputs` of rows of sixteen, `gates` as many
    /// numbers, and `out` room for the packed rows.
    pub(super) unsafe fn gate[F: Format](
        weight: *const f32, gates: *const f32, inputs: usize, out: *mut u32,
    ) = gate_body;
}

#[inline(always)]
unsafe fn gate_body<L: Lanes, F: Format>(
    weight: *const f32,
    gates: *const f32,
    inputs: usize,
    out: *mut u32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for i in (0..inputs).step_by(F::PACK) {
            let row = |i: usize| L::mul(L::load(weight.add(i * BLOCK)), L::splat(*gates.add(i)));
            let second = if F::PACK == 2 {
                row(i + 1)
            } else {
                L::splat(0.0)
            };
            let packed = F::pack::<L>([row(i), second]);
            L::store_words(out.add(i / F::PACK * BLOCK), packed);
        }
    }
}
