//! Rows in parallel; a row stays in the first-level cache for all its passes.

use rayon::prelude::*;

use crate::memory::zeros;
use crate::parallel::accumulate;
use crate::simd::{self, Simd, madd, multiversion};

/// Rows of a task.
const ROWS: usize = 16;

pub(super) fn forward(x: &[f32], weight: &[f32], bias: &[f32], width: usize, eps: f64) -> Vec<f32> {
    let simd = Simd::detect();
    let mut y = zeros(x.len());
    y.par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let (mean, rstd) = moments(simd, x, eps);
                normalise(simd, y, x, weight, bias, mean, rstd);
            }
        });
    y
}

pub(super) fn backward(
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    width: usize,
    eps: f64,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let simd = Simd::detect();
    let mut dx = zeros(x.len());
    let rows = x.len() / width;
    dx.par_chunks_mut(ROWS * width)
        .enumerate()
        .for_each(|(task, dx)| {
            let start = task * ROWS * width;
            for (row, dx) in dx.chunks_exact_mut(width).enumerate() {
                let at = start + row * width..start + (row + 1) * width;
                let (x, dy) = (&x[at.clone()], &dy[at]);
                let (mean, rstd) = moments(simd, x, eps);
                let [plain, along] = weighted_sums(simd, x, dy, weight, mean, rstd);
                let n = width as f32;
                input_gradient(simd, dx, x, dy, weight, mean, rstd, plain / n, along / n);
            }
        });
    let mut sums = accumulate(2 * width, rows.div_ceil(ROWS), |task, sums| {
        let (dw, db) = sums.split_at_mut(width);
        for row in task * ROWS..((task + 1) * ROWS).min(rows) {
            let at = row * width..(row + 1) * width;
            let (mean, rstd) = moments(simd, &x[at.clone()], eps);
            add_parameter_gradients(simd, dw, db, &x[at.clone()], &dy[at], mean, rstd);
        }
    });
    let db = sums.split_off(width);
    (dx, sums, db)
}

fn moments(simd: Simd, x: &[f32], eps: f64) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = (simd::sum(simd, x) / n) as f32;
    let variance = simd::sum_squares(simd, x, mean) / n;
    (mean, (1.0 / (variance + eps).sqrt()) as f32)
}

multiversion! {
    /// `y = (x - mean) rstd w + b`.
    fn normalise(
        y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], mean: f32, rstd: f32,
    ) = normalise_body;
}

#[inline(always)]
fn normalise_body<const FMA: bool>(
    y: &mut [f32],
    x: &[f32],
    w: &[f32],
    b: &[f32],
    mean: f32,
    rstd: f32,
) {
    for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
        *y = madd::<FMA>((*x - mean) * rstd, *w, *b);
    }
}

multiversion! {
    /// Sums of `w dy` and of `w dy` times the normalised input.
    fn weighted_sums(
        x: &[f32], dy: &[f32], w: &[f32], mean: f32, rstd: f32,
    ) -> [f32; 2] = weighted_sums_body;
}

#[inline(always)]
fn weighted_sums_body<const FMA: bool>(
    x: &[f32],
    dy: &[f32],
    w: &[f32],
    mean: f32,
    rstd: f32,
) -> [f32; 2] {
    const LANES: usize = 16;
    let mut plain = [0.0f32; LANES];
    let mut along = [0.0f32; LANES];
    let n = x.len();
    let whole = n - n % LANES;
    for i in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let g = w[i + lane] * dy[i + lane];
            plain[lane] += g;
            along[lane] = madd::<FMA>(g, (x[i + lane] - mean) * rstd, along[lane]);
        }
    }
    for i in whole..n {
        let g = w[i] * dy[i];
        plain[0] += g;
        along[0] = madd::<FMA>(g, (x[i] - mean) * rstd, along[0]);
    }
    [plain.iter().sum(), along.iter().sum()]
}

multiversion! {
    /// `dx = rstd (w dy - plain - xhat along)`.
    fn input_gradient(
        dx: &mut [f32], x: &[f32], dy: &[f32], w: &[f32],
        mean: f32, rstd: f32, plain: f32, along: f32,
    ) = input_gradient_body;
}

#[inline(always)]
fn input_gradient_body<const FMA: bool>(
    dx: &mut [f32],
    x: &[f32],
    dy: &[f32],
    w: &[f32],
    mean: f32,
    rstd: f32,
    plain: f32,
    along: f32,
) {
    for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
        let normalised = (*x - mean) * rstd;
        *dx = rstd * madd::<FMA>(-normalised, along, madd::<FMA>(*w, *dy, -plain));
    }
}

multiversion! {
    /// `dw += dy xhat`, `db += dy`.
    fn add_parameter_gradients(
        dw: &mut [f32], db: &mut [f32], x: &[f32], dy: &[f32], mean: f32, rstd: f32,
    ) = add_parameter_gradients_body;
}

#[inline(always)]
fn add_parameter_gradients_body<const FMA: bool>(
    dw: &mut [f32],
    db: &mut [f32],
    x: &[f32],
    dy: &[f32],
    mean: f32,
    rstd: f32,
) {
    for (((dw, db), x), dy) in dw.iter_mut().zip(db.iter_mut()).zip(x).zip(dy) {
        *dw = madd::<FMA>(*dy, (*x - mean) * rstd, *dw);
        *db += *dy;
    }
}
