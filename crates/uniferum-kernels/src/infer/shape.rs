//! How a block's work is cut into pieces that fit the cache.

use std::ops::Range;

use super::format::{BLOCK, Format};
use super::stem::ImageRows;
use crate::geometry::{Geometry, Padding3};
use crate::parallel::part;

/// Bytes of the lines that one piece keeps: what the second-level cache holds of them
/// beside the narrow maps.
const LINES: usize = 384 << 10;

/// Bytes of a wide map from which on it is written past the caches.
const STREAM: usize = 24 << 20;

/// Channel blocks of a piece at most.
pub(super) const MAX_GROUP: usize = 4;

/// Pieces for each thread that are enough to share the work evenly.
const PIECES: usize = 4;

/// The cut of the wide half of a block: pieces of (depth, rows, channel blocks).
#[derive(Debug, Clone, Copy)]
pub(super) struct WideShape {
    pub(super) geometry: Geometry,
    pub(super) blocks: usize,
    /// Runs of output planes, runs of output rows, groups of channel blocks.
    pub(super) parts: [usize; 3],
    /// Line rows of one plane.
    pub(super) line_rows: usize,
    /// Columns of one line, with padding.
    pub(super) line_width: usize,
    /// Whether the result is too large to be found in a cache by whoever reads it next.
    pub(super) stream: bool,
    /// Padded image rows, for the block behind the stem.
    pub(super) image: Option<(ImageRows, usize)>,
}

impl WideShape {
    pub(super) fn new<F: Format>(
        input: [usize; 3],
        kernel: usize,
        stride: usize,
        channels: usize,
        image_channels: Option<usize>,
        threads: usize,
    ) -> crate::Result<Self> {
        let op = "inference network";
        let geometry = Geometry::new(op, input, [kernel; 3], [stride; 3], Padding3::Same)?;
        let blocks = channels.div_ceil(BLOCK);
        let [depth, height, width] = geometry.output;
        let line_width = (width - 1) * stride + kernel;
        // The stem's image rows are prepared once for all channel blocks of a piece.
        let group = if image_channels.is_some() {
            blocks.min(MAX_GROUP)
        } else {
            1
        };
        let row_bytes = kernel * line_width * BLOCK * size_of::<u32>() * group / F::PACK;
        let input_rows = (LINES / row_bytes).max(kernel);
        let rows = ((input_rows - kernel) / stride + 1).min(height);
        let strips = height.div_ceil(rows);
        let groups = blocks.div_ceil(group);
        let wanted = (PIECES * threads).div_ceil(strips * groups);
        // Each run of planes computes the planes before its first once more.
        let runs = wanted.min(depth.div_ceil(2 * kernel)).max(1);
        let input_rows = (height.div_ceil(strips) - 1) * stride + kernel;
        let even = input_rows.next_multiple_of(2);
        Ok(Self {
            geometry,
            blocks,
            parts: [runs, strips, groups],
            stream: blocks * geometry.out_voxels() * BLOCK * 4 / F::PACK >= STREAM,
            line_rows: even / F::PACK,
            line_width,
            image: image_channels.map(|channels| (ImageRows::new::<F>(even, input[2]), channels)),
        })
    }

    pub(super) fn pieces(&self) -> usize {
        self.parts.iter().product()
    }

    /// The piece's planes, rows and channel blocks, and the number of its place in the
    /// volume. Pieces of the same place follow each other: they read the same voxels.
    pub(super) fn piece(&self, index: usize) -> ([Range<usize>; 3], usize) {
        let [_, strips, groups] = self.parts;
        let (place, group) = (index / groups, index % groups);
        let [depth, height, _] = self.geometry.output;
        let ranges = [
            part(depth, place / strips, self.parts[0]),
            part(height, place % strips, strips),
            part(self.blocks, group, groups),
        ];
        (ranges, place)
    }

    pub(super) fn places(&self) -> usize {
        self.parts[0] * self.parts[1]
    }

    /// Words of one plane of lines of one channel block.
    pub(super) fn plane_words(&self) -> usize {
        self.line_rows * self.line_width * BLOCK
    }

    pub(super) fn line_words(&self) -> usize {
        let group = self.blocks.div_ceil(self.parts[2]);
        group * self.geometry.kernel[0] * self.plane_words()
    }

    /// Words of scratch memory that a piece needs.
    pub(super) fn scratch_words(&self) -> usize {
        let image = self.image.map_or(0, |(rows, channels)| {
            channels * super::stem::KERNEL * rows.group_words()
        });
        self.line_words() + image
    }

    /// Words of the wide result.
    pub(super) fn out_words<F: Format>(&self) -> usize {
        self.blocks * self.geometry.out_voxels() * F::WORDS
    }
}

/// The cut of a matrix product over voxels: pieces of (voxels, blocks of outputs).
#[derive(Debug, Clone, Copy)]
pub(super) struct NarrowShape {
    voxels: usize,
    blocks: usize,
    chunk: usize,
    groups: usize,
}

/// Bytes of input that a piece of a matrix product reads again for each block of outputs.
const CHUNK: usize = 128 << 10;

impl NarrowShape {
    pub(super) fn new<F: Format>(
        voxels: usize,
        inputs: usize,
        outputs: usize,
        threads: usize,
    ) -> Self {
        let bytes = inputs.next_multiple_of(BLOCK) * size_of::<u32>() / F::PACK;
        let chunk = (CHUNK / bytes).clamp(64, 1024) / 16 * 16;
        let blocks = outputs.div_ceil(BLOCK);
        let chunks = voxels.div_ceil(chunk);
        let groups = (PIECES * threads).div_ceil(chunks).min(blocks);
        Self {
            voxels,
            blocks,
            chunk,
            groups,
        }
    }

    pub(super) fn pieces(&self) -> usize {
        self.voxels.div_ceil(self.chunk) * self.groups
    }

    /// The piece's voxels and blocks of outputs.
    pub(super) fn piece(&self, index: usize) -> [Range<usize>; 2] {
        let (chunk, group) = (index / self.groups, index % self.groups);
        let start = chunk * self.chunk;
        [
            start..self.voxels.min(start + self.chunk),
            part(self.blocks, group, self.groups),
        ]
    }
}
