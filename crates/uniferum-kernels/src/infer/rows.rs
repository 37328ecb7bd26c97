//! Kernels that make pairs of line rows: the inputs of a depthwise convolution.

use super::amx::{self, Factors, Sums};
use super::format::{BLOCK, Format};
use super::pack::stem_taps;
use crate::simd::{Isa, Lanes, lane_dispatch};

/// Two neighbouring rows of lines and where they come from.
///
/// A row that lies outside the volume is not computed (`keep`) but filled with zeros.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// The rows' first voxels in the source.
    pub(super) source: [*const u32; 2],
    pub(super) keep: [bool; 2],
    /// Words from a voxel to the one that is read next in its column.
    pub(super) ahead: usize,
    /// Words from one block of the source's channels to the next; for the stem, from one
    /// group of image rows (input channel and depth) to the next.
    pub(super) block_stride: usize,
    /// Words of an image row.
    pub(super) row_stride: usize,
    /// Words of the source's channels; for the stem, groups of image rows.
    pub(super) inputs: usize,
    /// Weights `[input word][lane]` and the sixteen biases.
    pub(super) weight: *const u32,
    pub(super) bias: *const f32,
    pub(super) width: usize,
    /// The first column that is not padding.
    pub(super) out: *mut u32,
    /// Words from one line row to the next.
    pub(super) out_stride: usize,
    /// Whether the result is a narrow map instead of lines; rows not kept are not written.
    pub(super) to_map: bool,
    /// Of an expansion, `W x` `[row][voxel][output]` where it has been computed already, or null;
    /// a row has room for half of what the tiles hold.
    pub(super) products: *const f32,
}

/// Runs `tile::<lanes, kind, N>(arg, first)` for tiles that cover `0..count`, the widest first.
///
/// `N` is half the number of accumulators in flight.
macro_rules! tiles {
    ($lanes:ty, $kind:ty, $count:expr, $tile:ident($arg:expr)) => {{
        let mut at = 0;
        tiles!(@ $lanes, $kind, at, $count, $tile($arg), 8, 4, 3, 2, 1);
    }};
    (@ $lanes:ty, $kind:ty, $at:ident, $count:expr, $tile:ident($arg:expr), $($n:literal),*) => {$(
        if <$lanes>::ACCUMULATORS >= 2 * $n {
            while $n <= $count - $at {
                $tile::<$lanes, $kind, $n>($arg, $at);
                $at += $n;
            }
        }
    )*};
}
pub(super) use tiles;

/// The expansion: `silu(W x + b)` of the voxels of two rows, one block of channels.
///
/// # Safety
/// The pointers must be valid for the sizes that stand beside them.
pub(super) unsafe fn expand<F: Format>(isa: Isa, rows: &Rows) {
    if F::PACK != 2 || !isa.tiles() {
        // SAFETY: the caller's promise.
        return unsafe { expand_lanes::<F>(isa, rows) };
    }
    let factors = Factors {
        block_stride: rows.block_stride,
        inputs: rows.inputs,
        weight: rows.weight,
    };
    let column_words = if rows.to_map { F::WORDS } else { BLOCK };
    let mut sums = Sums::new();
    for column in (0..rows.width).step_by(amx::VOXELS / 2) {
        let width = (amx::VOXELS / 2).min(rows.width - column);
        // SAFETY: these columns are among the caller's.
        unsafe {
            let source = rows.source.map(|x| x.add(column * F::WORDS));
            amx::two_rows(isa, source, width, &factors, &mut sums);
            let part = Rows {
                source,
                width,
                out: rows.out.add(column * column_words),
                products: sums.as_ptr(),
                ..*rows
            };
            expand_lanes::<F>(isa, &part);
        }
    }
}

lane_dispatch! {
    /// As [`expand`], on vectors.
    ///
    /// # Safety
    /// As for that, and `products` must be null or those of the voxels.
    unsafe fn expand_lanes[F: Format](rows: &Rows) = expand_body;
}

#[inline(always)]
unsafe fn expand_body<L: Lanes, F: Format>(rows: &Rows) {
    // SAFETY: the caller's promise.
    unsafe { tiles!(L, F, rows.width, expand_tile(rows)) }
}

#[inline(always)]
unsafe fn expand_tile<L: Lanes, F: Format, const N: usize>(rows: &Rows, column: usize) {
    // SAFETY: the tile's columns lie inside the rows.
    unsafe {
        let at = column * F::WORDS;
        let x = [rows.source[0].add(at), rows.source[1].add(at)];
        let bias = L::load(rows.bias);
        if !rows.products.is_null() {
            let mut acc = [[bias; N]; 2];
            for side in 0..2 {
                for n in 0..N {
                    let voxel = side * (amx::VOXELS / 2) + column + n;
                    let product = L::load(rows.products.add(voxel * BLOCK));
                    acc[side][n] = L::add(bias, product);
                }
            }
            return finish::<L, F, N>(rows, column, acc);
        }
        let source = (x, rows.block_stride, rows.ahead);
        let acc = multiply::<L, F, N>(source, rows.inputs, rows.weight, bias);
        finish::<L, F, N>(rows, column, acc);
    }
}

/// `bias + W x` of `N` voxels from each of two places.
///
/// For every input the sixteen outputs' weights are one vector and a voxel's value is
/// spread over all lanes, so that `2 N` independent sums hide the latency of the unit.
///
/// The source is told by both places, the words from one block of channels to the next, and
/// how many words further on lie the voxels that are wanted soon: rows are about as long as
/// a memory page, across which the processor does not look ahead by itself.
///
/// # Safety
/// `N` voxels of every block must be readable from both places, and the weights behind them.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes, F: Format, const N: usize>(
    (mut x, block_stride, ahead): ([*const u32; 2], usize, usize),
    inputs: usize,
    mut weight: *const u32,
    bias: L::F,
) -> [[L::F; N]; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[bias; N]; 2];
        let mut left = inputs;
        while left > 0 {
            let here = left.min(F::WORDS);
            for n in (0..N).step_by(F::PACK) {
                L::prefetch(x[0].wrapping_add(ahead + n * F::WORDS));
                L::prefetch(x[1].wrapping_add(ahead + n * F::WORDS));
            }
            for i in 0..here {
                let w = L::load_words(weight.add(i * BLOCK));
                for n in 0..N {
                    for side in 0..2 {
                        let v = L::splat_word(x[side].add(n * F::WORDS + i));
                        acc[side][n] = F::mul_add::<L>(acc[side][n], v, w);
                    }
                }
            }
            weight = weight.add(here * BLOCK);
            left -= here;
            x = [
                x[0].wrapping_add(block_stride),
                x[1].wrapping_add(block_stride),
            ];
        }
        acc
    }
}

#[inline(always)]
unsafe fn finish<L: Lanes, F: Format, const N: usize>(
    rows: &Rows,
    column: usize,
    acc: [[L::F; N]; 2],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if rows.to_map {
            for side in 0..2 {
                if rows.keep[side] {
                    let to = rows.out.add(side * rows.out_stride + column * F::WORDS);
                    for n in 0..N {
                        F::store::<L>(to.add(n * F::WORDS), F::silu::<L>(acc[side][n]));
                    }
                }
            }
            return;
        }
        let mut y = [[L::splat(0.0); N]; 2];
        for side in 0..2 {
            if rows.keep[side] {
                for n in 0..N {
                    y[side][n] = F::silu::<L>(acc[side][n]);
                }
            }
        }
        for n in 0..N {
            let to = rows.out.add((column + n) * BLOCK);
            F::store_rows::<L>(to, rows.out_stride, [y[0][n], y[1][n]]);
        }
    }
}

lane_dispatch! {
    /// No expansion: one block of the voxels of two rows as it is.
    ///
    /// # Safety
    /// As for [`expand`].
    pub(super) unsafe fn copy[F: Format](rows: &Rows) = copy_body;
}

#[inline(always)]
unsafe fn copy_body<L: Lanes, F: Format>(rows: &Rows) {
    // SAFETY: the caller's promise.
    unsafe {
        for column in 0..rows.width {
            let mut pair = [L::splat(0.0); 2];
            for side in 0..2 {
                if rows.keep[side] {
                    pair[side] = F::load::<L>(rows.source[side].add(column * F::WORDS));
                }
            }
            let to = rows.out.add(column * BLOCK);
            F::store_rows::<L>(to, rows.out_stride, pair);
        }
    }
}

lane_dispatch! {
    /// The stem: `silu(W * x + b)` with a 3x3x3 kernel of stride 2, one block of channels.
    ///
    /// The sources are the padded image rows that the first taps of each row read.
    ///
    /// # Safety
    /// As for [`expand`].
    pub(super) unsafe fn stem[F: Format](rows: &Rows) = stem_body;
}

#[inline(always)]
unsafe fn stem_body<L: Lanes, F: Format>(rows: &Rows) {
    // SAFETY: the caller's promise.
    unsafe { tiles!(L, F, rows.width, stem_tile(rows)) }
}

#[inline(always)]
unsafe fn stem_tile<L: Lanes, F: Format, const N: usize>(rows: &Rows, column: usize) {
    // SAFETY: the tile's columns lie inside the rows; a voxel's taps begin two numbers
    // after its neighbour's.
    unsafe {
        let step = 2 / F::PACK;
        let mut acc = [[L::load(rows.bias); N]; 2];
        let mut weight = rows.weight;
        for group in 0..rows.inputs {
            for row in 0..super::stem::KERNEL {
                let at = group * rows.block_stride + row * rows.row_stride + column * step;
                for tap in 0..stem_taps::<F>() {
                    let w = L::load_words(weight);
                    weight = weight.add(BLOCK);
                    for n in 0..N {
                        for side in 0..2 {
                            let v = L::splat_word(rows.source[side].add(at + n * step + tap));
                            acc[side][n] = F::mul_add::<L>(acc[side][n], v, w);
                        }
                    }
                }
            }
        }
        finish::<L, F, N>(rows, column, acc);
    }
}

lane_dispatch! {
    /// Copies `count` numbers of an image row behind `before` zeros and fills the rest of
    /// the `words` with zeros.
    ///
    /// # Safety
    /// `words` must leave room for sixteen numbers more than `before + count`.
    pub(super) unsafe fn pad_row[F: Format](
        image: *const f32, count: usize, before: usize, out: *mut u32, words: usize,
    ) = pad_row_body;
}

#[inline(always)]
unsafe fn pad_row_body<L: Lanes, F: Format>(
    image: *const f32,
    count: usize,
    before: usize,
    out: *mut u32,
    words: usize,
) {
    // SAFETY: the caller's promise. In bf16 the row may begin in the middle of a word.
    unsafe {
        out.write_bytes(0, words);
        let number = size_of::<u32>() / F::PACK;
        let first = out.byte_add(before * number);
        let whole = count / BLOCK * BLOCK;
        for i in (0..whole).step_by(BLOCK) {
            F::store::<L>(first.byte_add(i * number), L::load(image.add(i)));
        }
        if whole < count {
            let mut tail = [0.0; BLOCK];
            tail[..count - whole]
                .copy_from_slice(std::slice::from_raw_parts(image.add(whole), count - whole));
            F::store::<L>(first.byte_add(whole * number), L::load(tail.as_ptr()));
        }
    }
}
