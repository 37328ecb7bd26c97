//! Pooling on the host, one task for each sample and channel.

use rayon::prelude::*;

use super::{Kind, Pool, Windows};
use crate::simd::{Simd, sum};

pub(super) fn forward(pool: &Pool, x: &[f32]) -> Vec<f32> {
    let windows = &pool.windows;
    let channels = x.par_chunks(windows.in_voxels());
    if pool.kind == Kind::Mean && windows.is_global() {
        let simd = Simd::detect();
        let n = windows.in_voxels() as f64;
        return channels.map(|x| (sum(simd, x) / n) as f32).collect();
    }
    let mut y = vec![0.0; channels.len() * windows.out_voxels()];
    y.par_chunks_mut(windows.out_voxels())
        .zip(channels)
        .for_each(|(y, x)| {
            windows.each(|out, window| {
                y[out] = match pool.kind {
                    Kind::Max => x[window.argmax(x)],
                    Kind::Mean => {
                        let total: f32 = window
                            .rows()
                            .map(|(at, n)| x[at..][..n].iter().sum::<f32>())
                            .sum();
                        total / window.count() as f32
                    }
                };
            });
        });
    y
}

pub(super) fn backward(pool: &Pool, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let windows = &pool.windows;
    let mut dx = vec![0.0; x.len()];
    let inputs = x
        .par_chunks(windows.in_voxels())
        .zip(dy.par_chunks(windows.out_voxels()));
    dx.par_chunks_mut(windows.in_voxels())
        .zip(inputs)
        .for_each(|(dx, (x, dy))| {
            windows.each(|out, window| match pool.kind {
                Kind::Max => dx[window.argmax(x)] += dy[out],
                Kind::Mean => {
                    let share = dy[out] / window.count() as f32;
                    for (at, n) in window.rows() {
                        dx[at..][..n].iter_mut().for_each(|d| *d += share);
                    }
                }
            });
        });
    dx
}

/// One window: its first voxel, its size, and the steps between its rows and slices.
struct Window {
    first: usize,
    size: [usize; 3],
    slice: usize,
    row: usize,
}

impl Window {
    /// Start and length of each contiguous row.
    fn rows(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let [depth, height, width] = self.size;
        (0..depth).flat_map(move |d| {
            (0..height).map(move |h| (self.first + d * self.slice + h * self.row, width))
        })
    }

    fn count(&self) -> usize {
        self.size.iter().product()
    }

    /// The first largest voxel; a NaN counts as largest.
    fn argmax(&self, x: &[f32]) -> usize {
        let mut best = self.first;
        for (at, n) in self.rows() {
            for i in at..at + n {
                if x[i] > x[best] || (x[i].is_nan() && !x[best].is_nan()) {
                    best = i;
                }
            }
        }
        best
    }
}

impl Windows {
    fn each(&self, mut f: impl FnMut(usize, Window)) {
        let [_, height, width] = self.input;
        let mut out = 0;
        for d in &self.axes[0] {
            for h in &self.axes[1] {
                for w in &self.axes[2] {
                    let window = Window {
                        first: (d.start * height + h.start) * width + w.start,
                        size: [d.len(), h.len(), w.len()],
                        slice: height * width,
                        row: width,
                    };
                    f(out, window);
                    out += 1;
                }
            }
        }
    }
}
