//! The first convolution's weights, and the image rows that its kernel reads.

use std::sync::Mutex;

use rayon::prelude::*;

use super::arena::{Buffer, Shared, lock};
use super::format::{BLOCK, Format};
use super::pack;
use super::rows::{Rows, pad_row, stem};
use super::spec::Stem;
use crate::geometry::{Geometry, Padding3};
use crate::simd::Isa;

/// Side of the kernel.
pub(super) const KERNEL: usize = 3;
/// Step of the kernel along every axis.
pub(super) const STRIDE: usize = 2;

#[derive(Debug)]
pub(super) struct PackedStem {
    pub(super) inputs: usize,
    pub(super) weight: Buffer,
    pub(super) bias: Vec<f32>,
}

impl PackedStem {
    pub(super) fn new<F: Format>(stem: &Stem) -> Self {
        let (inputs, outputs) = (stem.inputs, stem.outputs);
        Self {
            inputs,
            weight: pack::stem::<F>(&stem.conv.weight, outputs, inputs),
            bias: pack::padded(&stem.conv.bias),
        }
    }

    /// Words of one block's weights.
    pub(super) fn block_words<F: Format>(&self) -> usize {
        self.inputs * KERNEL * KERNEL * pack::stem_taps::<F>() * BLOCK
    }
}

/// The stem's sizes for one image.
pub(super) fn geometry(image: [usize; 3]) -> crate::Result<Geometry> {
    let (kernel, stride) = ([KERNEL; 3], [STRIDE; 3]);
    Geometry::new("inference network", image, kernel, stride, Padding3::Same)
}

/// An image `[channel][voxel]` and the sizes of the stem over it.
#[derive(Clone, Copy)]
pub(super) struct Image<'a> {
    pub(super) voxels: &'a [f32],
    pub(super) geometry: Geometry,
    pub(super) channels: usize,
}

/// Where padded image rows lie in scratch memory: `[channel and depth][row][word]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageRows {
    /// Rows for each channel and depth.
    pub(super) rows: usize,
    pub(super) row_words: usize,
}

impl ImageRows {
    /// Room for the taps of `rows` rows of the stem's result, `width` wide.
    pub(super) fn new<F: Format>(rows: usize, width: usize) -> Self {
        // The taps of the last column, and what writing sixteen numbers at a time spills.
        let numbers = width * STRIDE + KERNEL + BLOCK;
        Self {
            rows: rows * STRIDE + 1,
            row_words: pack::words::<F>(numbers),
        }
    }

    pub(super) fn group_words(&self) -> usize {
        self.rows * self.row_words
    }

    /// Copies what the rows from `first` on of plane `plane` of the stem's result read.
    ///
    /// # Safety
    /// `out` must have room for [`group_words`](Self::group_words) words for each channel
    /// and tap along the depth.
    pub(super) unsafe fn copy<F: Format>(
        &self,
        isa: Isa,
        image: &Image,
        plane: usize,
        first: isize,
        out: *mut u32,
    ) {
        let g = &image.geometry;
        let [depth, height, width] = g.input;
        let top = first * STRIDE as isize - g.before[1] as isize;
        for channel in 0..image.channels {
            for tap in 0..KERNEL {
                let group = channel * KERNEL + tap;
                // SAFETY: the group lies inside `out`.
                let out = unsafe { out.add(group * self.group_words()) };
                let d = g.source(0, plane, tap);
                for row in 0..self.rows {
                    let h = usize::try_from(top + row as isize)
                        .ok()
                        .filter(|h| *h < height);
                    let source = match d.zip(h) {
                        Some((d, h)) => {
                            let start = ((channel * depth + d) * height + h) * width;
                            &image.voxels[start..][..width]
                        }
                        None => &[],
                    };
                    let (from, count) = (source.as_ptr(), source.len());
                    // SAFETY: a row and its spill fit `row_words`, as `new` counts them.
                    unsafe {
                        let out = out.add(row * self.row_words);
                        pad_row::<F>(isa, from, count, g.before[2], out, self.row_words);
                    }
                }
            }
        }
    }
}

/// Words of scratch memory for [`stem_map`].
pub(super) fn map_scratch_words<F: Format>(inputs: usize, output: [usize; 3]) -> usize {
    inputs * KERNEL * map_rows::<F>(output).group_words()
}

fn map_rows<F: Format>([_, height, width]: [usize; 3]) -> ImageRows {
    ImageRows::new::<F>(height.next_multiple_of(2), width)
}

/// The stem by itself, for networks whose first block needs its result as a whole.
///
/// # Safety
/// `out` must have room for the result, every scratch buffer for
/// [`map_scratch_words`].
pub(super) unsafe fn stem_map<F: Format>(
    isa: Isa,
    packed: &PackedStem,
    image: &Image,
    out: Shared<u32>,
    scratch: &[Mutex<Buffer>],
) {
    let [depth, height, width] = image.geometry.output;
    let padded = map_rows::<F>(image.geometry.output);
    let words = packed.block_words::<F>();
    (0..depth).into_par_iter().for_each(|plane| {
        let thread = rayon::current_thread_index().unwrap_or(0) % scratch.len();
        let mut buffer = lock(&scratch[thread]);
        // SAFETY: the buffer is this thread's and the plane this task's; weights and biases
        // fill whole blocks.
        unsafe {
            let from = buffer.as_mut_ptr();
            padded.copy::<F>(isa, image, plane, 0, from);
            for block in 0..packed.bias.len() / BLOCK {
                for row in (0..height).step_by(2) {
                    let from = from.add(row * STRIDE * padded.row_words).cast_const();
                    let voxel = ((block * depth + plane) * height + row) * width;
                    let rows = Rows {
                        source: [from, from.add(STRIDE * padded.row_words)],
                        keep: [true, row + 1 < height],
                        ahead: 0,
                        block_stride: padded.group_words(),
                        row_stride: padded.row_words,
                        inputs: image.channels * KERNEL,
                        weight: packed.weight.as_ptr().add(block * words),
                        bias: packed.bias.as_ptr().add(block * BLOCK),
                        width,
                        out: out.get().add(voxel * F::WORDS),
                        out_stride: width * F::WORDS,
                        to_map: true,
                        products: std::ptr::null(),
                    };
                    stem::<F>(isa, &rows);
                }
            }
        }
    });
}
