//! The columns (voxels of all samples) of a product cut into pieces for the threads.

use crate::gemm::{Mat, gemm, gemm_into};
use crate::parallel::SharedMut;

/// Most columns of a tile.
const WIDEST: usize = 2048;
/// Fewest columns of a tile that a matrix product does well with.
const NARROWEST: usize = 64;

/// Columns `[start, start + len)` of each of `samples` samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    sample: usize,
    pub(super) samples: usize,
    start: usize,
    /// Columns of each sample.
    pub(super) len: usize,
    voxels: usize,
}

/// Cuts `batch` samples of `voxels` columns.
///
/// A tile lies inside one sample or covers whole ones.
pub(super) fn tiles(batch: usize, voxels: usize, widest: usize) -> Vec<Tile> {
    let share = (batch * voxels).div_ceil(4 * rayon::current_num_threads());
    let wanted = share
        .next_multiple_of(16)
        .clamp(NARROWEST, widest.clamp(NARROWEST, WIDEST));
    let tile = |sample, samples, start, len| Tile {
        sample,
        samples,
        start,
        len,
        voxels,
    };
    if voxels >= wanted {
        let step = voxels
            .div_ceil(voxels.div_ceil(wanted))
            .next_multiple_of(16);
        let starts = |b| (0..voxels).step_by(step).map(move |s| (b, s));
        let places = (0..batch).flat_map(starts);
        return places
            .map(|(b, s)| tile(b, 1, s, step.min(voxels - s)))
            .collect();
    }
    let step = wanted / voxels;
    (0..batch)
        .step_by(step)
        .map(|b| tile(b, step.min(batch - b), 0, voxels))
        .collect()
}

impl Tile {
    pub(super) fn columns(&self) -> usize {
        self.samples * self.len
    }

    /// The first column among those of all samples.
    pub(super) fn first(&self) -> usize {
        self.sample * self.voxels + self.start
    }

    /// The samples, each with its place in the tile.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let Self {
            sample,
            samples,
            len,
            ..
        } = *self;
        (0..samples).map(move |i| (sample + i, i * len..(i + 1) * len))
    }

    /// Where channel `c` of sample `b` begins for this tile in `[B, C, voxels]`.
    pub(super) fn place(&self, channels: usize, b: usize, c: usize) -> usize {
        (b * channels + c) * self.voxels + self.start
    }

    /// The tile of `x` `[B, C, voxels]` as a `[C, columns]` matrix; copied only when it covers
    /// several samples.
    pub(super) fn of<'a>(&self, x: &'a [f32], channels: usize, copy: &'a mut Vec<f32>) -> Mat<'a> {
        if self.samples == 1 {
            let x = &x[self.place(channels, self.sample, 0)..];
            return Mat::rows(x, channels, self.len, self.voxels);
        }
        copy.resize(channels * self.columns(), 0.0);
        for c in 0..channels {
            for (b, at) in self.parts() {
                let row = &x[self.place(channels, b, c)..][..self.len];
                copy[c * self.columns()..][at].copy_from_slice(row);
            }
        }
        Mat::rows(copy, channels, self.columns(), self.columns())
    }

    /// Adds `a b` to the tile of `[B, C, voxels]` at `out`; `scratch` is for tiles of several
    /// samples.
    ///
    /// # Safety
    /// `out` must be of that array, and nobody else may access this tile meanwhile.
    pub(super) unsafe fn add_product(
        &self,
        a: Mat<'_>,
        b: Mat<'_>,
        channels: usize,
        out: SharedMut,
        scratch: &mut Vec<f32>,
    ) {
        if self.samples == 1 {
            // SAFETY: the tile's rows lie `voxels` apart in the array; the caller's promise.
            unsafe {
                let to = out.at(self.place(channels, self.sample, 0));
                gemm_into(a, b, to, self.voxels, true, false);
            }
            return;
        }
        scratch.resize(channels * self.columns(), 0.0);
        gemm(a, b, scratch, self.columns(), false, false);
        for c in 0..channels {
            for (sample, at) in self.parts() {
                let from = &scratch[c * self.columns()..][at];
                // SAFETY: a row of the tile; the caller's promise.
                let to = unsafe {
                    let to = out.at(self.place(channels, sample, c));
                    std::slice::from_raw_parts_mut(to, self.len)
                };
                to.iter_mut().zip(from).for_each(|(t, f)| *t += *f);
            }
        }
    }
}
