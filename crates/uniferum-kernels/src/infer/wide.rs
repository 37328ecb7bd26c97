//! The wide half of a block: expansion and depthwise convolution, piece by piece.
//!
//! A piece slides along the depth with as many planes of lines as the kernel is deep. Each
//! step makes the planes that come into sight (from the narrow map, or from the image for
//! the block behind the stem), convolves, and keeps the result together with its sum for
//! squeeze-and-excitation. The wide activations before the convolution never leave the
//! cache, and no plane is computed twice but for the rows where strips touch.

use std::ops::Range;
use std::sync::Mutex;

use rayon::prelude::*;

use super::arena::{Buffer, Shared, lock};
use super::block::PackedBlock;
use super::depthwise::{MAX_KERNEL, Plane, depthwise};
use super::format::{BLOCK, Format};
use super::pack;
use super::rows::{Rows, copy, expand, stem};
use super::shape::{MAX_GROUP, WideShape};
use super::stem::{Image, PackedStem, STRIDE};
use crate::simd::Isa;

/// Where a block's input comes from.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The stem over an image.
    Stem(&'a PackedStem, Image<'a>),
    /// A narrow map.
    Map(Shared<u32>),
}

/// Runs all pieces; `out` gets the convolved map, `sums` `[place][channel]` its sums.
///
/// # Safety
/// The source, `out`, `sums` and every scratch buffer must have the sizes that `shape`
/// tells.
pub(super) unsafe fn wide<F: Format>(
    isa: Isa,
    block: &PackedBlock,
    shape: &WideShape,
    source: Source,
    out: Shared<u32>,
    sums: Shared<f64>,
    scratch: &[Mutex<Buffer>],
) {
    let pieces = (0..shape.pieces()).into_par_iter().with_max_len(1);
    pieces.for_each(|index| {
        let thread = rayon::current_thread_index().unwrap_or(0) % scratch.len();
        let mut buffer = lock(&scratch[thread]);
        let ([planes, rows, blocks], place) = shape.piece(index);
        // SAFETY: the buffer is this thread's, and has room for lines and image rows.
        unsafe {
            let lines = buffer.as_mut_ptr();
            let piece = Piece {
                isa,
                block,
                shape,
                source,
                rows,
                blocks,
                lines,
                image: lines.add(shape.line_words()),
                out,
            };
            let totals = piece.run::<F>(planes);
            for (i, total) in piece.blocks.clone().zip(totals) {
                let to = sums.get().add((place * shape.blocks + i) * BLOCK);
                to.copy_from_nonoverlapping(total.as_ptr(), BLOCK);
            }
        }
    });
}

struct Piece<'a> {
    isa: Isa,
    block: &'a PackedBlock,
    shape: &'a WideShape,
    source: Source<'a>,
    rows: Range<usize>,
    blocks: Range<usize>,
    /// `[channel block][slot of the plane][line row][column][lane]`.
    lines: *mut u32,
    image: *mut u32,
    out: Shared<u32>,
}

impl Piece<'_> {
    /// # Safety
    /// As for [`wide`].
    unsafe fn run<F: Format>(&self, planes: Range<usize>) -> [[f64; BLOCK]; MAX_GROUP] {
        let g = &self.shape.geometry;
        let mut totals = [[0.0; BLOCK]; MAX_GROUP];
        // SAFETY: the lines are this piece's. What is not written below is padding.
        unsafe { self.lines.write_bytes(0, self.shape.line_words()) };
        let mut next = 0;
        for plane in planes {
            let top = (plane * g.stride[0]).saturating_sub(g.before[0]);
            let end = (plane * g.stride[0] + g.kernel[0] - g.before[0]).min(g.input[0]);
            for depth in top.max(next)..end {
                // SAFETY: the caller's promise.
                unsafe { self.fill::<F>(depth) };
            }
            next = end;
            for (i, total) in self.blocks.clone().zip(&mut totals) {
                // SAFETY: the planes from `top` to `end` have been filled.
                let sums = unsafe { self.convolve::<F>(plane, i) };
                total
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(t, s)| *t += f64::from(s));
            }
        }
        totals
    }

    /// The first line of the slot that holds plane `depth` of the input.
    unsafe fn slot(&self, block: usize, depth: usize) -> *mut u32 {
        let k = self.shape.geometry.kernel[0];
        let slot = (block - self.blocks.start) * k + depth % k;
        // SAFETY: there are as many slots as the kernel is deep for each block.
        unsafe { self.lines.add(slot * self.shape.plane_words()) }
    }

    /// The input row, perhaps outside the volume, that the lines begin with.
    fn first_row(&self) -> isize {
        let g = &self.shape.geometry;
        (self.rows.start * g.stride[1]) as isize - g.before[1] as isize
    }

    /// Makes the lines of one plane of the input.
    ///
    /// # Safety
    /// As for [`wide`].
    unsafe fn fill<F: Format>(&self, depth: usize) {
        let shape = self.shape;
        let g = &shape.geometry;
        if let (Source::Stem(_, image), Some((rows, _))) = (&self.source, &shape.image) {
            // SAFETY: `image` has room for them.
            unsafe { rows.copy::<F>(self.isa, image, depth, self.first_row(), self.image) };
        }
        let rows = (self.rows.len() - 1) * g.stride[1] + g.kernel[1];
        let stride = shape.line_width * BLOCK;
        for row in (0..rows).step_by(2) {
            let top = self.first_row() + row as isize;
            let keep = [top, top + 1].map(|r| 0 <= r && r < g.input[1] as isize);
            // The rows of the source stay in the first-level cache for all blocks.
            for block in self.blocks.clone() {
                // SAFETY: the pair of rows lies inside the slot.
                unsafe {
                    let line = self.slot(block, depth).add(row / F::PACK * stride);
                    let rows = Rows {
                        source: [std::ptr::null(); 2],
                        keep,
                        ahead: 2 * g.input[2] * F::WORDS,
                        block_stride: 0,
                        row_stride: 0,
                        inputs: 0,
                        weight: std::ptr::null(),
                        bias: std::ptr::null(),
                        width: g.input[2],
                        out: line.add(g.before[2] * BLOCK),
                        out_stride: stride,
                        to_map: false,
                        products: std::ptr::null(),
                    };
                    match self.source {
                        Source::Stem(stem, _) => self.image_rows::<F>(stem, block, row, rows),
                        Source::Map(map) => {
                            let inside = |r: isize| r.clamp(0, g.input[1] as isize - 1) as usize;
                            let rows_at = [top, top + 1].map(inside);
                            self.map_rows::<F>(map, block, depth, rows_at, rows);
                        }
                    }
                }
            }
        }
    }

    unsafe fn image_rows<F: Format>(
        &self,
        packed: &PackedStem,
        block: usize,
        row: usize,
        rows: Rows,
    ) {
        let Some((image, channels)) = self.shape.image else {
            return;
        };
        let words = packed.block_words::<F>();
        // SAFETY: the rows have just been copied; weights and biases fill whole blocks.
        unsafe {
            let from = self.image.add(row * STRIDE * image.row_words).cast_const();
            let rows = Rows {
                source: [from, from.add(STRIDE * image.row_words)],
                block_stride: image.group_words(),
                row_stride: image.row_words,
                inputs: channels * super::stem::KERNEL,
                weight: packed.weight.as_ptr().add(block * words),
                bias: packed.bias.as_ptr().add(block * BLOCK),
                ..rows
            };
            stem::<F>(self.isa, &rows);
        }
    }

    unsafe fn map_rows<F: Format>(
        &self,
        map: Shared<u32>,
        block: usize,
        depth: usize,
        rows_at: [usize; 2],
        rows: Rows,
    ) {
        let g = &self.shape.geometry;
        let block_stride = g.in_voxels() * F::WORDS;
        // SAFETY: the rows lie inside the map; weights and biases fill whole blocks.
        unsafe {
            let source = rows_at.map(|row| {
                let voxel = (depth * g.input[1] + row) * g.input[2];
                map.get().add(voxel * F::WORDS).cast_const()
            });
            let Some(layer) = &self.block.expand else {
                let source = source.map(|s| s.add(block * block_stride));
                return copy::<F>(self.isa, &Rows { source, ..rows });
            };
            let inputs = pack::words::<F>(self.block.inputs);
            let rows = Rows {
                source,
                block_stride,
                inputs,
                weight: layer.weight.as_ptr().add(block * inputs * BLOCK),
                bias: layer.bias.as_ptr().add(block * BLOCK),
                ..rows
            };
            expand::<F>(self.isa, &rows);
        }
    }

    /// Convolves one plane of one channel block; returns its sums.
    ///
    /// # Safety
    /// As for [`wide`], and the planes that the taps see must have been filled.
    unsafe fn convolve<F: Format>(&self, plane: usize, block: usize) -> [f32; BLOCK] {
        let g = &self.shape.geometry;
        let k = g.kernel[0];
        let mut lines = [std::ptr::null(); MAX_KERNEL];
        let mut taps = [k, 0];
        for tap in 0..k {
            if let Some(depth) = g.source(0, plane, tap) {
                // SAFETY: the slot lies inside the lines.
                lines[tap] = unsafe { self.slot(block, depth) };
                taps = [taps[0].min(tap), tap + 1];
            }
        }
        let mut sums = [0.0; BLOCK];
        let voxel = (plane * g.output[1] + self.rows.start) * g.output[2];
        let weights = F::PACK * pack::phase_words::<F>(k);
        // SAFETY: weights and biases fill whole blocks; the rows are this piece's.
        unsafe {
            let call = Plane {
                lines,
                taps,
                line_stride: self.shape.line_width * BLOCK,
                weight: self.block.depthwise.weight.as_ptr().add(block * weights),
                bias: self.block.depthwise.bias.as_ptr().add(block * BLOCK),
                rows: self.rows.len(),
                width: g.output[2],
                out: self
                    .out
                    .get()
                    .add((block * g.out_voxels() + voxel) * F::WORDS),
                stream: self.shape.stream,
                sums: sums.as_mut_ptr(),
            };
            depthwise::<F>(self.isa, k, g.stride[0], &call);
        }
        sums
    }
}
