//! Pooling on the host, one task for each sample and channel.
//!
//! The rows that a row of outputs looks at are reduced to one row, number by number side by side;
//! only that row is then reduced window by window.

use rayon::prelude::*;

use super::{Kind, Pool, Windows};
use crate::memory::zeros;
use crate::simd::{Simd, sum};

pub(super) fn forward(pool: &Pool, x: &[f32]) -> Vec<f32> {
    let windows = &pool.windows;
    let channels = x.par_chunks(windows.in_voxels());
    if pool.kind == Kind::Mean && windows.is_global() {
        let simd = Simd::detect();
        let n = windows.in_voxels() as f64;
        return channels.map(|x| (sum(simd, x) / n) as f32).collect();
    }
    let mut y = zeros(channels.len() * windows.out_voxels());
    y.par_chunks_mut(windows.out_voxels())
        .zip(channels)
        .for_each(|(y, x)| match pool.kind {
            Kind::Max => windows.reduce(x, y, larger),
            Kind::Mean => {
                windows.reduce(x, y, |a, b| a + b);
                windows.each_row(|out, rows| {
                    for (y, w) in y[out..].iter_mut().zip(&windows.axes[2]) {
                        *y /= (rows.len() * w.len()) as f32;
                    }
                });
            }
        });
    y
}

pub(super) fn backward(pool: &Pool, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let windows = &pool.windows;
    let mut dx = zeros(x.len());
    let inputs = x
        .par_chunks(windows.in_voxels())
        .zip(dy.par_chunks(windows.out_voxels()));
    dx.par_chunks_mut(windows.in_voxels())
        .zip(inputs)
        .for_each(|(dx, (x, dy))| match pool.kind {
            Kind::Max => windows.give_to_largest(x, dy, dx),
            Kind::Mean => windows.spread(dy, dx),
        });
    dx
}

/// The larger of two numbers; a NaN counts as largest.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

impl Windows {
    /// Calls `f` with the first output of each row of outputs and the starts of the input rows
    /// that its windows look at.
    fn each_row(&self, mut f: impl FnMut(usize, &[usize])) {
        let [_, height, width] = self.input;
        let mut rows = Vec::new();
        let mut out = 0;
        for d in &self.axes[0] {
            for h in &self.axes[1] {
                rows.clear();
                rows.extend(
                    d.clone()
                        .flat_map(|d| h.clone().map(move |h| (d * height + h) * width)),
                );
                f(out, &rows);
                out += self.axes[2].len();
            }
        }
    }

    /// Reduces each window by `f`.
    fn reduce(&self, x: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Copy) {
        let width = self.input[2];
        let mut row = vec![0.0; width];
        self.each_row(|out, rows| {
            row.copy_from_slice(&x[rows[0]..][..width]);
            for &start in &rows[1..] {
                let next = &x[start..][..width];
                row.iter_mut().zip(next).for_each(|(r, v)| *r = f(*r, *v));
            }
            for (y, w) in y[out..].iter_mut().zip(&self.axes[2]) {
                let window = &row[w.start..w.end];
                *y = window[1..].iter().fold(window[0], |a, b| f(a, *b));
            }
        });
    }

    /// Adds each output's gradient to its window's first largest voxel.
    fn give_to_largest(&self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let mut y = vec![0.0; dy.len()];
        self.reduce(x, &mut y, larger);
        self.each_row(|out, rows| {
            for (i, w) in self.axes[2].iter().enumerate() {
                let largest = y[out + i];
                let is_largest = |v: &f32| *v == largest || (v.is_nan() && largest.is_nan());
                let first = rows.iter().find_map(|start| {
                    let window = &x[start + w.start..start + w.end];
                    Some(start + w.start + window.iter().position(is_largest)?)
                });
                // A window's largest number is one of its numbers.
                if let Some(first) = first {
                    dx[first] += dy[out + i];
                }
            }
        });
    }

    /// Adds an equal share of each output's gradient to all voxels of its window.
    fn spread(&self, dy: &[f32], dx: &mut [f32]) {
        let width = self.input[2];
        let mut row = vec![0.0; width];
        self.each_row(|out, rows| {
            row.fill(0.0);
            for (dy, w) in dy[out..].iter().zip(&self.axes[2]) {
                let share = dy / (rows.len() * w.len()) as f32;
                row[w.start..w.end].iter_mut().for_each(|r| *r += share);
            }
            for &start in rows {
                let dx = &mut dx[start..][..width];
                dx.iter_mut().zip(&row).for_each(|(d, r)| *d += r);
            }
        });
    }
}
