//! Statistics of a block's activations, and of those that are never computed.

use rayon::prelude::*;

use super::plan::Plan;
use crate::batch_norm::norm::{Statistics, statistics_of};
use crate::gemm::{Mat, gemm};
use crate::parallel::part;
use crate::simd::{Simd, affine, sum};

/// Mean and biased variance of each row of `[rows, columns]`, in two passes.
pub(super) fn row_statistics(rows: &[f32], columns: usize) -> Statistics {
    let rows = rows.par_chunks(columns);
    let own = rows.map(|row| statistics_of(std::iter::once(row)));
    let (mean, var) = own.unzip();
    Statistics { mean, var }
}

/// Means and sums of products of a block's input channels, in double precision.
///
/// They give the statistics of every linear combination of the channels, so that an expansion
/// need not be computed to know the statistics of its result.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    mean: Vec<f64>,
    /// `[c_in, c_in]`, of the distances from the means.
    products: Vec<f64>,
    count: f64,
}

impl Moments {
    /// Of `x` `[B, c_in, voxels]`.
    pub(super) fn new(plan: &Plan, x: &[f32]) -> Self {
        let simd = Simd::detect();
        let (c, n) = (plan.c_in, plan.geometry.in_voxels());
        let count = plan.in_columns() as f64;
        let mean = (0..c).into_par_iter().map(|i| {
            let rows = (0..plan.batch).map(|b| &x[(b * c + i) * n..][..n]);
            rows.map(|row| sum(simd, row)).sum::<f64>() / count
        });
        let mean: Vec<f64> = mean.collect();
        let parts = n.div_ceil(CHUNK);
        let tasks = plan.batch * parts;
        let lanes = (2 * rayon::current_num_threads()).min(tasks);
        let partial: Vec<Vec<f64>> = (0..lanes)
            .into_par_iter()
            .map(|lane| {
                let mut products = Products::new(&mean);
                for task in part(tasks, lane, lanes) {
                    let x = &x[task / parts * c * n..][..c * n];
                    products.add(simd, x, n, part(n, task % parts, parts));
                }
                products.total
            })
            .collect();
        let mut products = vec![0.0; c * c];
        for p in partial {
            products.iter_mut().zip(p).for_each(|(a, b)| *a += b);
        }
        Self {
            mean,
            products,
            count,
        }
    }

    /// Statistics of `w x` for each row of `w` `[rows, c_in]`.
    pub(super) fn of_combinations(&self, w: &[f32]) -> Statistics {
        let c = self.mean.len();
        let rows = self.of_rows(w);
        let of = |(w, row): (&[f32], &[f64])| {
            let inner = |v: &[f64]| v.iter().zip(w).map(|(v, w)| v * f64::from(*w)).sum::<f64>();
            let var = inner(row) / self.count;
            (inner(&self.mean) as f32, var.max(0.0) as f32)
        };
        let (mean, var) = w.par_chunks(c).zip(rows.par_chunks(c)).map(of).unzip();
        Statistics { mean, var }
    }

    /// `w` times the products.
    fn of_rows(&self, w: &[f32]) -> Vec<f64> {
        let c = self.mean.len();
        let w: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
        let rows = w.len() / c;
        let mut out = vec![0.0; w.len()];
        let products = Mat::rows(&self.products, c, c, c);
        gemm(
            Mat::rows(&w, rows, c, c),
            products,
            &mut out,
            c,
            false,
            true,
        );
        out
    }

    /// Adds `p w (x xᵀ) + q (Σ x)ᵀ` to `dw` for each row of `w`.
    pub(super) fn add_products(&self, w: &[f32], through: &[(f64, f64)], dw: &mut [f32]) {
        let c = self.mean.len();
        let rows = self.of_rows(w);
        dw.par_chunks_mut(c)
            .zip(rows.par_chunks(c).zip(w.par_chunks(c)))
            .zip(through)
            .for_each(|((dw, (row, w)), (p, q))| {
                let w = w.iter().map(|w| f64::from(*w));
                let own: f64 = self.mean.iter().zip(w).map(|(m, w)| m * w).sum();
                let along = self.count * (p * own + q);
                for ((dw, row), mean) in dw.iter_mut().zip(row).zip(&self.mean) {
                    *dw += (p * row + along * mean) as f32;
                }
            });
    }
}

/// `(Σ p w wᵀ, Σ q w)` over the rows of `w` `[rows, c]`.
pub(super) fn quadratic_form(w: &[f32], through: &[(f64, f64)]) -> (Vec<f64>, Vec<f64>) {
    let rows = through.len();
    let c = w.len() / rows;
    let (mut form, mut constant) = (vec![0.0; c * c], vec![0.0; c]);
    let wide: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
    let mut scaled = wide.clone();
    for ((row, w), (p, q)) in scaled
        .chunks_exact_mut(c)
        .zip(wide.chunks_exact(c))
        .zip(through)
    {
        row.iter_mut().for_each(|v| *v *= p);
        constant.iter_mut().zip(w).for_each(|(s, w)| *s += q * w);
    }
    let (scaled, wide) = (Mat::rows(&scaled, rows, c, c), Mat::rows(&wide, rows, c, c));
    gemm(scaled.t(), wide, &mut form, c, false, true);
    (form, constant)
}

/// Columns whose products are summed in single precision.
const CHUNK: usize = 1024;

/// Sums of products of the distances from the means.
struct Products<'a> {
    mean: &'a [f64],
    centred: Vec<f32>,
    own: Vec<f32>,
    total: Vec<f64>,
}

impl<'a> Products<'a> {
    fn new(mean: &'a [f64]) -> Self {
        let c = mean.len();
        Self {
            mean,
            centred: Vec::new(),
            own: vec![0.0; c * c],
            total: vec![0.0; c * c],
        }
    }

    /// Adds some columns of `x`, whose rows are `stride` long.
    fn add(&mut self, simd: Simd, x: &[f32], stride: usize, columns: std::ops::Range<usize>) {
        let (c, n) = (self.mean.len(), columns.len());
        self.centred.resize(c * n, 0.0);
        let rows = x.chunks_exact(stride).zip(self.mean);
        for (to, (row, mean)) in self.centred.chunks_exact_mut(n).zip(rows) {
            affine(simd, to, &row[columns.clone()], 1.0, -*mean as f32);
        }
        let centred = Mat::rows(&self.centred, c, n, n);
        gemm(centred, centred.t(), &mut self.own, c, false, false);
        let sums = self.total.iter_mut().zip(&self.own);
        sums.for_each(|(total, own)| *total += f64::from(*own));
    }
}
