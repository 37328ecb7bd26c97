//! Batch normalisation as an affine map per channel, and its derivative likewise.

use gemm::Parallelism;
use rayon::prelude::*;

use super::plan::{LayerPlaces, Plan};
use crate::parallel::part;
use crate::simd::{Simd, sum, sum_squares};

/// Mean and biased variance of each channel.
#[derive(Debug, Clone, Default)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    pub(super) var: Vec<f32>,
}

/// A norm ready for use: `y = scale x + shift`.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) mean: Vec<f32>,
    pub(super) inv_std: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    /// Values per channel that the statistics are of; `None` for constant statistics.
    count: Option<f64>,
}

impl Norm {
    /// `count`: values per channel when the statistics are the batch's own.
    pub(super) fn new(
        statistics: &Statistics,
        weights: &[f32],
        places: &LayerPlaces,
        eps: f64,
        count: Option<usize>,
    ) -> Self {
        let (gamma, beta) = (
            &weights[places.gamma.clone()],
            &weights[places.beta.clone()],
        );
        let inv = |v: &f32| (1.0 / (f64::from(*v) + eps).sqrt()) as f32;
        let inv_std: Vec<f32> = statistics.var.iter().map(inv).collect();
        let scale: Vec<f32> = gamma.iter().zip(&inv_std).map(|(g, i)| g * i).collect();
        let shift = scale.iter().zip(&statistics.mean).zip(beta);
        Self {
            mean: statistics.mean.clone(),
            shift: shift.map(|((s, m), b)| b - s * m).collect(),
            inv_std,
            scale,
            count: count.map(|n| n as f64),
        }
    }

    /// `(p, q)` such that the gradient of the norm's input is `scale dy + p x + q`: what flows
    /// through the statistics, nothing when these are constants.
    pub(super) fn through_statistics(&self, c: usize, dgamma: f64, dbeta: f64) -> (f64, f64) {
        let Some(n) = self.count else {
            return (0.0, 0.0);
        };
        let scale = f64::from(self.scale[c]);
        let p = -scale * f64::from(self.inv_std[c]) * dgamma / n;
        (p, -scale * dbeta / n - p * f64::from(self.mean[c]))
    }
}

/// Mean and biased variance of each row of `[rows, columns]`, in two passes.
pub(super) fn row_statistics(rows: &[f32], columns: usize) -> Statistics {
    let (mean, var) = rows.par_chunks(columns).map(statistics_of).unzip();
    Statistics { mean, var }
}

/// Mean and biased variance of one row.
pub(super) fn statistics_of(row: &[f32]) -> (f32, f32) {
    let simd = Simd::detect();
    let n = row.len() as f64;
    let mean = (sum(simd, row) / n) as f32;
    (mean, (sum_squares(simd, row, mean) / n) as f32)
}

/// Sums and sums of products of a block's input channels, in double precision.
///
/// They give the statistics of every linear combination of the channels, so that an expansion
/// need not be computed to know the statistics of its result.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    pub(super) sums: Vec<f64>,
    /// `[c_in, c_in]`.
    pub(super) products: Vec<f64>,
    count: f64,
}

impl Moments {
    /// Of `x` `[B, c_in, voxels]`.
    pub(super) fn new(plan: &Plan, x: &[f32]) -> Self {
        let (c, n) = (plan.c_in, plan.geometry.in_voxels());
        let parts = n.div_ceil(CHUNK);
        let tasks = plan.batch * parts;
        let lanes = (2 * rayon::current_num_threads()).min(tasks);
        let partial: Vec<(Vec<f64>, Vec<f64>)> = (0..lanes)
            .into_par_iter()
            .map(|lane| {
                let mut total = (vec![0.0; c], vec![0.0; c * c]);
                let mut wide = Vec::new();
                for task in part(tasks, lane, lanes) {
                    let (b, columns) = (task / parts, part(n, task % parts, parts));
                    let x = &x[b * c * n..][..c * n];
                    add_moments(&mut total, &mut wide, x, n, columns);
                }
                total
            })
            .collect();
        let mut sums = vec![0.0; c];
        let mut products = vec![0.0; c * c];
        for (s, p) in partial {
            sums.iter_mut().zip(s).for_each(|(a, b)| *a += b);
            products.iter_mut().zip(p).for_each(|(a, b)| *a += b);
        }
        Self {
            sums,
            products,
            count: plan.in_columns() as f64,
        }
    }

    /// Statistics of `w x` for each row of `w` `[rows, c_in]`.
    pub(super) fn of_combinations(&self, w: &[f32]) -> Statistics {
        let c = self.sums.len();
        let of = |w: &[f32]| {
            let inner =
                |row: &[f64]| -> f64 { row.iter().zip(w).map(|(p, w)| p * f64::from(*w)).sum() };
            let mean = inner(&self.sums) / self.count;
            let squares = self.products.chunks_exact(c).zip(w);
            let squares: f64 = squares.map(|(row, w)| f64::from(*w) * inner(row)).sum();
            let var = (squares / self.count - mean * mean).max(0.0);
            (mean as f32, var as f32)
        };
        let (mean, var) = w.par_chunks(c).map(of).unzip();
        Statistics { mean, var }
    }
}

/// Columns converted to double precision at a time.
const CHUNK: usize = 1024;

fn add_moments(
    (sums, products): &mut (Vec<f64>, Vec<f64>),
    wide: &mut Vec<f64>,
    x: &[f32],
    stride: usize,
    columns: std::ops::Range<usize>,
) {
    let (c, n) = (sums.len(), columns.len());
    wide.clear();
    for row in x.chunks_exact(stride) {
        wide.extend(row[columns.clone()].iter().map(|v| f64::from(*v)));
    }
    for (sum, row) in sums.iter_mut().zip(wide.chunks_exact(n)) {
        *sum += row.iter().sum::<f64>();
    }
    let (rows, columns) = (n as isize, 1);
    // SAFETY: `wide` is [c, n] and `products` [c, c], both row-major and borrowed here alone.
    unsafe {
        gemm::gemm(
            c,
            c,
            n,
            products.as_mut_ptr(),
            1,
            c as isize,
            true,
            wide.as_ptr(),
            columns,
            rows,
            wide.as_ptr(),
            rows,
            columns,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
