//! The narrowing matrix products and the weights scaled for them.

use std::marker::PhantomData;

use super::amx::{self, Factors, Sums};
use super::format::{BLOCK, Format};
use super::rows::{multiply, tiles};
use crate::simd::{Isa, Lanes, lane_dispatch};

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
    /// `W x`, `[voxel][output]`, where it has been computed already, or null.
    pub(super) products: *const f32,
}

/// What follows a product.
trait Ending {
    /// The format of `x` and of the weights.
    type Format: Format;
    /// Words of a voxel of the result.
    const WORDS: usize;

    /// Takes `y = W x + b` of a voxel.
    ///
    /// # Safety
    /// As for [`Lanes`]; the voxel must be one of the projection's.
    unsafe fn finish<L: Lanes>(p: &Projection, voxel: usize, y: L::F);
}

/// Adds the residual if there is one.
struct Project<F>(PhantomData<F>);

// SAFETY of the unsafe blocks in all endings: the caller's promise.
impl<F: Format> Ending for Project<F> {
    type Format = F;
    const WORDS: usize = F::WORDS;

    #[inline(always)]
    unsafe fn finish<L: Lanes>(p: &Projection, voxel: usize, mut y: L::F) {
        // SAFETY: see above; the residual has as many voxels as the result.
        unsafe {
            if !p.residual.is_null() {
                y = L::add(y, F::load::<L>(p.residual.add(voxel * F::WORDS)));
            }
            F::store::<L>(p.out.add(voxel * F::WORDS), y);
        }
    }
}

/// SiLU, in single precision.
struct Head<F>(PhantomData<F>);

impl<F: Format> Ending for Head<F> {
    type Format = F;
    const WORDS: usize = BLOCK;

    #[inline(always)]
    unsafe fn finish<L: Lanes>(p: &Projection, voxel: usize, y: L::F) {
        // SAFETY: see above.
        unsafe { L::store(p.out.add(voxel * BLOCK).cast(), L::silu(y)) }
    }
}

/// Nothing, in single precision.
struct Plain<F>(PhantomData<F>);

impl<F: Format> Ending for Plain<F> {
    type Format = F;
    const WORDS: usize = BLOCK;

    #[inline(always)]
    unsafe fn finish<L: Lanes>(p: &Projection, voxel: usize, y: L::F) {
        // SAFETY: see above.
        unsafe { L::store(p.out.add(voxel * BLOCK).cast(), y) }
    }
}

/// `W x + b`, and the residual if there is one.
///
/// # Safety
/// The pointers must be valid for the sizes that stand beside them; `out` may be `residual`.
pub(super) unsafe fn project<F: Format>(isa: Isa, p: &Projection) {
    // SAFETY: the caller's promise, here and in the two functions below.
    unsafe { run::<Project<F>>(isa, p) }
}

/// `silu(W x + b)` in single precision, whatever the format of `x`: the head.
///
/// # Safety
/// As for [`project`].
pub(super) unsafe fn head<F: Format>(isa: Isa, p: &Projection) {
    // SAFETY: see above.
    unsafe { run::<Head<F>>(isa, p) }
}

/// `W x + b` in single precision, whatever the format of `x`.
///
/// # Safety
/// As for [`project`].
pub(super) unsafe fn plain<F: Format>(isa: Isa, p: &Projection) {
    // SAFETY: see above.
    unsafe { run::<Plain<F>>(isa, p) }
}

/// The products where a matrix unit computes them, and then their ending.
unsafe fn run<E: Ending>(isa: Isa, p: &Projection) {
    if <E::Format as Format>::PACK != 2 || !isa.tiles() {
        // SAFETY: the caller's promise.
        return unsafe { lanes::<E>(isa, p) };
    }
    let x_words = <E::Format as Format>::WORDS;
    let factors = Factors {
        block_stride: p.block_stride,
        inputs: p.inputs,
        weight: p.weight,
    };
    let mut sums = Sums::new();
    for first in (0..p.voxels).step_by(amx::VOXELS) {
        let voxels = amx::VOXELS.min(p.voxels - first);
        // SAFETY: these voxels are among the caller's.
        unsafe {
            let x = p.x.add(first * x_words);
            amx::neighbours(isa, x, voxels, &factors, &mut sums);
            let part = Projection {
                x,
                voxels,
                residual: match p.residual.is_null() {
                    true => p.residual,
                    false => p.residual.add(first * x_words),
                },
                out: p.out.add(first * E::WORDS),
                products: sums.as_ptr(),
                ..*p
            };
            lanes::<E>(isa, &part);
        }
    }
}

lane_dispatch! {
    /// As [`run`], on vectors.
    ///
    /// # Safety
    /// As for [`project`], and `products` must be null or those of the voxels.
    unsafe fn lanes[E: Ending](p: &Projection) = lanes_body;
}

#[inline(always)]
unsafe fn lanes_body<L: Lanes, E: Ending>(p: &Projection) {
    // SAFETY: the caller's promise.
    unsafe {
        tiles!(L, E, p.voxels / 2, tile(p));
        if !p.voxels.is_multiple_of(2) {
            last_voxel::<L, E>(p);
        }
    }
}

#[inline(always)]
unsafe fn tile<L: Lanes, E: Ending, const N: usize>(p: &Projection, at: usize) {
    // SAFETY: two times `N` voxels from `2 * at` on.
    unsafe {
        let acc = both::<L, E::Format, N>(p, at);
        for side in 0..2 {
            for n in 0..N {
                E::finish::<L>(p, 2 * at + side * N + n, acc[side][n]);
            }
        }
    }
}

#[inline(always)]
unsafe fn both<L: Lanes, F: Format, const N: usize>(p: &Projection, at: usize) -> [[L::F; N]; 2] {
    // SAFETY: two times `N` voxels from `2 * at` on.
    unsafe {
        if !p.products.is_null() {
            let mut acc = [[L::load(p.bias); N]; 2];
            for side in 0..2 {
                for n in 0..N {
                    let product = p.products.add((2 * at + side * N + n) * BLOCK);
                    acc[side][n] = L::add(acc[side][n], L::load(product));
                }
            }
            return acc;
        }
        let x = p.x.add(2 * at * F::WORDS);
        let x = [x, x.add(N * F::WORDS)];
        let source = (x, p.block_stride, 4 * N * F::WORDS);
        multiply::<L, F, N>(source, p.inputs, p.weight, L::load(p.bias))
    }
}

/// The last of an odd number of voxels.
#[inline(always)]
unsafe fn last_voxel<L: Lanes, E: Ending>(p: &Projection) {
    let voxel = p.voxels - 1;
    // SAFETY: the last voxel, twice.
    unsafe {
        let bias = L::load(p.bias);
        let y = if p.products.is_null() {
            let x = [p.x.add(voxel * <E::Format as Format>::WORDS); 2];
            let source = (x, p.block_stride, 0);
            multiply::<L, E::Format, 1>(source, p.inputs, p.weight, bias)[0][0]
        } else {
            L::add(bias, L::load(p.products.add(voxel * BLOCK)))
        };
        E::finish::<L>(p, voxel, y);
    }
}

lane_dispatch! {
    /// As [`plain`], of `blocks` neighbouring blocks of outputs, whose weights lie `next` words apart;
    /// each block's results follow the one's before it.
    ///
    /// Each number of `x` that is loaded serves several products: for the many inputs of a
    /// transformer, loads would otherwise be what the processor waits for. Sets with few registers
    /// take one block after the other.
    ///
    /// # Safety
    /// As for [`project`].
    pub(super) unsafe fn plain_many[F: Format](p: &Projection, next: usize, blocks: usize)
        = plain_many_body;
}

/// Runs `many_tile` for `$blocks` blocks of outputs over all voxels, the widest tiles first.
macro_rules! voxels {
    ($call:expr, $voxels:expr, $blocks:literal, $($n:literal),*) => {{
        let mut at = 0;
        $(while $n <= $voxels - at {
            many_tile::<L, F, $blocks, $n>($call, at);
            at += $n;
        })*
    }};
}

#[inline(always)]
unsafe fn plain_many_body<L: Lanes, F: Format>(p: &Projection, next: usize, blocks: usize) {
    let mut block = 0;
    while block < blocks {
        // SAFETY: the caller's promise, for the blocks from this one on.
        unsafe {
            let p = Projection {
                weight: p.weight.add(block * next),
                bias: p.bias.add(block * BLOCK),
                out: p.out.add(block * p.voxels * BLOCK),
                ..*p
            };
            match blocks - block {
                4.. if L::ACCUMULATORS >= 16 => {
                    voxels!((&p, next), p.voxels, 4, 6, 4, 2, 1);
                    block += 4;
                }
                2.. if L::ACCUMULATORS >= 16 => {
                    voxels!((&p, next), p.voxels, 2, 8, 4, 2, 1);
                    block += 2;
                }
                _ => {
                    lanes_body::<L, Plain<F>>(&p);
                    block += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn many_tile<L: Lanes, F: Format, const BLOCKS: usize, const N: usize>(
    (p, next): (&Projection, usize),
    at: usize,
) {
    // SAFETY: `N` voxels from `at` on, and all blocks of weights, biases and results.
    unsafe {
        let mut acc = [[L::splat(0.0); N]; BLOCKS];
        for block in 0..BLOCKS {
            acc[block] = [L::load(p.bias.add(block * BLOCK)); N];
        }
        let mut x = p.x.add(at * F::WORDS);
        let mut weight = p.weight;
        let mut left = p.inputs;
        while left > 0 {
            let here = left.min(F::WORDS);
            for n in 0..N {
                L::prefetch(x.wrapping_add(p.block_stride + n * F::WORDS));
            }
            for i in 0..here {
                let mut w = [L::load_words(weight); BLOCKS];
                for block in 1..BLOCKS {
                    w[block] = L::load_words(weight.add(block * next));
                }
                weight = weight.add(BLOCK);
                for n in 0..N {
                    let v = L::splat_word(x.add(n * F::WORDS + i));
                    for block in 0..BLOCKS {
                        acc[block][n] = F::mul_add::<L>(acc[block][n], v, w[block]);
                    }
                }
            }
            left -= here;
            x = x.wrapping_add(p.block_stride);
        }
        for block in 0..BLOCKS {
            for n in 0..N {
                let to = p.out.add((block * p.voxels + at + n) * BLOCK);
                L::store(to.cast(), acc[block][n]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::format::{Bf16, F32};
    use crate::simd::Simd;

    /// Packed numbers that bf16 holds exactly: small multiples of 1/4.
    fn numbers<F: Format>(words: usize, seed: usize) -> Vec<u32> {
        let number = |i: usize| ((i * 7 + seed * 5) % 11) as f32 / 4.0 - 1.25;
        let short = |i: usize| number(i).to_bits() >> 16;
        let word = |i: usize| match F::PACK {
            1 => number(i).to_bits(),
            _ => short(2 * i) | short(2 * i + 1) << 16,
        };
        (0..words).map(word).collect()
    }

    /// `plain` block by block, and all blocks together.
    fn products<F: Format>(isa: Isa, voxels: usize, inputs: usize, blocks: usize) -> [Vec<f32>; 2] {
        let stride = voxels * F::WORDS;
        let x = numbers::<F>(inputs.div_ceil(F::WORDS) * stride, 1);
        let weight = numbers::<F>(blocks * inputs * BLOCK, 2);
        let bias: Vec<f32> = (0..blocks * BLOCK).map(|i| i as f32).collect();
        let mut out = [(); 2].map(|()| vec![f32::NAN; blocks * voxels * BLOCK]);
        let call = |block: usize, out: &mut [f32]| Projection {
            x: x.as_ptr(),
            block_stride: stride,
            inputs,
            weight: weight[block * inputs * BLOCK..].as_ptr(),
            bias: bias[block * BLOCK..].as_ptr(),
            voxels,
            residual: std::ptr::null(),
            products: std::ptr::null(),
            out: out[block * voxels * BLOCK..].as_mut_ptr().cast(),
        };
        // SAFETY: all arrays have the sizes that the calls tell.
        unsafe {
            for block in 0..blocks {
                plain::<F>(isa, &call(block, &mut out[0]));
            }
            plain_many::<F>(isa, &call(0, &mut out[1]), inputs * BLOCK, blocks);
        }
        out
    }

    /// All sums are exact in single precision, so that every order gives the same.
    fn all_agree<F: Format>() {
        for voxels in [1, 2, 7, 15, 16, 17, 48, 63, 64, 65, 129] {
            for (inputs, blocks) in [(1, 1), (4, 2), (8, 3), (12, 4), (23, 6), (48, 9)] {
                let scalar = Isa::new(Simd::Scalar);
                let [want, _] = products::<F>(scalar, voxels, inputs, blocks);
                for isa in Isa::all_available() {
                    for got in products::<F>(isa, voxels, inputs, blocks) {
                        assert_eq!(got, want, "{isa:?}, {voxels} voxels, {inputs} words");
                    }
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_products() {
        all_agree::<F32>();
        all_agree::<Bf16>();
    }
}
