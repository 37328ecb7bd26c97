//! One task per sample and head: its score matrix lives in a scratch buffer of the task.

use rayon::prelude::*;

use crate::gemm::{Mat, gemm};
use crate::rng::Keep;
use crate::simd::{Simd, exp, multiversion};

#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
}

impl Plan {
    fn scale(&self) -> f32 {
        (1.0 / (self.width as f64).sqrt()) as f32
    }

    fn query_block(&self) -> usize {
        self.queries * self.width
    }

    fn key_block(&self) -> usize {
        self.keys * self.width
    }

    /// The probabilities of one task, `[T, S]`, before dropout.
    fn probabilities(&self, task: usize, q: &[f32], k: &[f32], mask: Option<&[f32]>) -> Vec<f32> {
        let simd = Simd::detect();
        let mut p = vec![0.0; self.queries * self.keys];
        let q = Mat::rows(q, self.queries, self.width, self.width);
        let k = Mat::rows(k, self.keys, self.width, self.width);
        gemm(q, k.t(), &mut p, self.keys, false, false);
        let sample = task / self.heads;
        let mask = mask.map(|m| &m[sample * self.keys..(sample + 1) * self.keys]);
        for row in p.chunks_exact_mut(self.keys) {
            if let Some(mask) = mask {
                for (score, keep) in row.iter_mut().zip(mask) {
                    if *keep == 0.0 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
            softmax(simd, row, self.scale());
            if let Some(mask) = mask {
                row.iter_mut()
                    .zip(mask)
                    .for_each(|(p, keep)| *p = if *keep == 0.0 { 0.0 } else { *p });
            }
        }
        p
    }

    fn drop(&self, task: usize, p: &mut [f32], keep: Option<Keep>) {
        if let Some(keep) = keep {
            let start = task * p.len();
            p.iter_mut()
                .enumerate()
                .for_each(|(i, p)| *p *= keep.factor(start + i));
        }
    }
}

pub(super) fn forward(
    plan: &Plan,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: Option<&[f32]>,
    keep: Option<Keep>,
) -> Vec<f32> {
    let mut y = vec![0.0; q.len()];
    if plan.query_block() == 0 || plan.key_block() == 0 {
        return y;
    }
    let (qb, kb) = (plan.query_block(), plan.key_block());
    y.par_chunks_mut(qb).enumerate().for_each(|(task, y)| {
        let (q, k, v) = (
            &q[task * qb..][..qb],
            &k[task * kb..][..kb],
            &v[task * kb..][..kb],
        );
        let mut p = plan.probabilities(task, q, k, mask);
        plan.drop(task, &mut p, keep);
        let p = Mat::rows(&p, plan.queries, plan.keys, plan.keys);
        let v = Mat::rows(v, plan.keys, plan.width, plan.width);
        gemm(p, v, y, plan.width, false, false);
    });
    y
}

/// Gradients of one task. With `P` the probabilities, `D` the dropout factors, `dY` what comes back:
/// `dV = (P D)ᵀ dY`, `dS = P (D dY Vᵀ - rowsum(P D dY Vᵀ))`, `dQ = s dS K`, `dK = s dSᵀ Q`.
pub(super) fn backward(
    plan: &Plan,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dy: &[f32],
    mask: Option<&[f32]>,
    keep: Option<Keep>,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let (qb, kb) = (plan.query_block(), plan.key_block());
    if qb == 0 || kb == 0 {
        return (dq, dk, dv);
    }
    let outputs = dq
        .par_chunks_mut(qb)
        .zip(dk.par_chunks_mut(kb))
        .zip(dv.par_chunks_mut(kb));
    outputs.enumerate().for_each(|(task, ((dq, dk), dv))| {
        let (q, k, v) = (
            &q[task * qb..][..qb],
            &k[task * kb..][..kb],
            &v[task * kb..][..kb],
        );
        let queries = |m| Mat::rows(m, plan.queries, plan.width, plan.width);
        let keys = |m| Mat::rows(m, plan.keys, plan.width, plan.width);
        let scores = |m| Mat::rows(m, plan.queries, plan.keys, plan.keys);
        let dy = queries(&dy[task * qb..][..qb]);

        let p = plan.probabilities(task, q, k, mask);
        let mut dropped = p.clone();
        plan.drop(task, &mut dropped, keep);
        gemm(scores(&dropped).t(), dy, dv, plan.width, false, false);

        let mut ds = vec![0.0; p.len()];
        gemm(dy, keys(v).t(), &mut ds, plan.keys, false, false);
        plan.drop(task, &mut ds, keep);
        let scale = plan.scale();
        for (ds, p) in ds
            .chunks_exact_mut(plan.keys)
            .zip(p.chunks_exact(plan.keys))
        {
            let along: f32 = ds.iter().zip(p).map(|(d, p)| d * p).sum();
            ds.iter_mut()
                .zip(p)
                .for_each(|(d, p)| *d = scale * p * (*d - along));
        }
        gemm(scores(&ds), keys(k), dq, plan.width, false, false);
        gemm(scores(&ds).t(), queries(q), dk, plan.width, false, false);
    });
    (dq, dk, dv)
}

multiversion! {
    /// `row = softmax(scale row)` in place; a row of nothing but minus infinity becomes finite numbers
    /// that the caller zeroes.
    pub(super) fn softmax(row: &mut [f32], scale: f32) = softmax_body;
}

#[inline(always)]
fn softmax_body<const FMA: bool>(row: &mut [f32], scale: f32) {
    const LANES: usize = 16;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut tops = [f32::MIN; LANES];
    let (lanes, tail) = row.as_chunks::<LANES>();
    for x in lanes {
        for i in 0..LANES {
            tops[i] = larger(tops[i], x[i]);
        }
    }
    let top = tops.iter().chain(tail).fold(f32::MIN, |m, x| larger(m, *x));
    for x in row.iter_mut() {
        *x = exp::<FMA>((*x - top) * scale);
    }
    let mut sums = [0.0f32; LANES];
    let (lanes, tail) = row.as_chunks::<LANES>();
    for x in lanes {
        for i in 0..LANES {
            sums[i] += x[i];
        }
    }
    let inverse = 1.0 / sums.iter().chain(tail).sum::<f32>();
    for x in row.iter_mut() {
        *x *= inverse;
    }
}
