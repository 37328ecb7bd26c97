//! Weights in the order in which the kernels read them.

use half::bf16;

use super::arena::Buffer;
use super::format::{BLOCK, Format};

/// Puts one number, or two as bf16, into a word.
fn word<F: Format>(first: f32, second: f32) -> u32 {
    if F::PACK == 1 {
        return first.to_bits();
    }
    let half = |v| u32::from(bf16::from_f32(v).to_bits());
    half(first) | half(second) << 16
}

/// Words of `count` numbers.
pub(super) fn words<F: Format>(count: usize) -> usize {
    count.div_ceil(F::PACK)
}

/// Numbers, padded with zeros to whole blocks.
pub(super) fn padded(values: &[f32]) -> Vec<f32> {
    let mut values = values.to_vec();
    values.resize(values.len().next_multiple_of(BLOCK), 0.0);
    values
}

/// A matrix `[outputs, inputs]` as `[block of outputs][input][output]` in single precision,
/// an even number of inputs, zeros where there is nothing.
pub(super) fn transposed(weight: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    let rows = inputs.next_multiple_of(2);
    let mut packed = vec![0.0; outputs.div_ceil(BLOCK) * rows * BLOCK];
    for o in 0..outputs {
        for i in 0..inputs {
            let at = (o / BLOCK * rows + i) * BLOCK + o % BLOCK;
            packed[at] = weight[o * inputs + i];
        }
    }
    packed
}

/// A matrix `[outputs, inputs]` as `[block of outputs][word of inputs][output]`.
pub(super) fn matrix<F: Format>(weight: &[f32], outputs: usize, inputs: usize) -> Buffer {
    let at = |o: usize, i: usize| {
        if o < outputs && i < inputs {
            weight[o * inputs + i]
        } else {
            0.0
        }
    };
    let words = words::<F>(inputs);
    Buffer::from_fn(outputs.div_ceil(BLOCK) * words * BLOCK, |index| {
        let (block, rest) = (index / (words * BLOCK), index % (words * BLOCK));
        let (i, o) = (rest / BLOCK * F::PACK, block * BLOCK + rest % BLOCK);
        word::<F>(at(o, i), at(o, i + 1))
    })
}

/// Line rows that the taps along the height touch.
pub(super) const fn line_taps<F: Format>(kernel: usize) -> usize {
    kernel.div_ceil(F::PACK)
}

/// Words of one block's depthwise weights for one phase.
pub(super) const fn phase_words<F: Format>(kernel: usize) -> usize {
    kernel * line_taps::<F>(kernel) * kernel * BLOCK
}

/// Depthwise weights `[channels, k, k, k]` as
/// `[block][phase][depth][line][width][channel]`.
///
/// An output row that begins in the second row of a line (phase 1) has no use for the
/// line's first row, which gets weight zero.
pub(super) fn depthwise<F: Format>(weight: &[f32], channels: usize, k: usize) -> Buffer {
    let at = |c: usize, d: usize, h: Option<usize>, w: usize| match h {
        Some(h) if h < k && c < channels => weight[((c * k + d) * k + h) * k + w],
        _ => 0.0,
    };
    let lines = line_taps::<F>(k);
    let blocks = channels.div_ceil(BLOCK);
    Buffer::from_fn(blocks * F::PACK * phase_words::<F>(k), |index| {
        let (rest, lane) = (index / BLOCK, index % BLOCK);
        let (rest, w) = (rest / k, rest % k);
        let (rest, line) = (rest / lines, rest % lines);
        let (rest, d) = (rest / k, rest % k);
        let (block, phase) = (rest / F::PACK, rest % F::PACK);
        let c = block * BLOCK + lane;
        let h = (line * F::PACK).checked_sub(phase);
        let next = Some(line * F::PACK + 1 - phase);
        word::<F>(at(c, d, h, w), at(c, d, next, w))
    })
}

/// Words of an image row that a row of taps of the stem's kernel reads.
pub(super) const fn stem_taps<F: Format>() -> usize {
    super::stem::KERNEL.div_ceil(F::PACK)
}

/// The stem's weights `[outputs, inputs, 3, 3, 3]` as
/// `[block of outputs][input][depth][height][word of width][output]`.
pub(super) fn stem<F: Format>(weight: &[f32], outputs: usize, inputs: usize) -> Buffer {
    const K: usize = super::stem::KERNEL;
    let rows = inputs * K * K;
    let at = |o: usize, row: usize, w: usize| {
        if o < outputs && w < K {
            weight[(o * rows + row) * K + w]
        } else {
            0.0
        }
    };
    let taps = stem_taps::<F>();
    Buffer::from_fn(outputs.div_ceil(BLOCK) * rows * taps * BLOCK, |index| {
        let (rest, lane) = (index / BLOCK, index % BLOCK);
        let (rest, tap) = (rest / taps, rest % taps);
        let (block, row) = (rest / rows, rest % rows);
        let (o, w) = (block * BLOCK + lane, tap * F::PACK);
        word::<F>(at(o, row, w), at(o, row, w + 1))
    })
}
