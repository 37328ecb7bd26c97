//! The linear map of a transformer.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::error::invalid;
use crate::gemm::{Mat, gemm};
use crate::memory::zeros;
use crate::parallel::{accumulate, part};
use crate::weighted::{self, Weighted};

const OP: &str = "linear";

/// `x wᵀ + b` over the last axis, with backward.
///
/// A weight that is a constant costs nothing in backward, which composed operations of candle
/// do not manage: they compute the gradients of constants too.
///
/// # Shapes
/// `x` `[..., K]`, `weight` `[N, K]`, `bias` `[N]`; the result is `[..., N]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (n, k) = weight.dims2()?;
    if x.dims().last() != Some(&k) || k == 0 || n == 0 || bias.dims() != [n] {
        let expected = format!("x [.., {k}], bias [{n}]");
        let got = format!("{:?}, {:?}", x.dims(), bias.dims());
        return Err(invalid(OP, "shapes", expected, got).into());
    }
    on_cuda!(x => crate::cuda::linear(OP, x, weight, bias));
    weighted::apply(Linear { n, k }, x, weight, Some(bias))
}

struct Linear {
    n: usize,
    k: usize,
}

impl Weighted for Linear {
    const OP: &'static str = OP;

    fn result(&self, x: &Shape) -> Shape {
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.n;
        }
        dims.into()
    }

    fn forward(&self, x: &[f32], w: &[f32], b: Option<&[f32]>) -> Vec<f32> {
        let &Self { n, k } = self;
        let rows = x.len() / k;
        let mut y = zeros(rows * n);
        if let Some(b) = b {
            y.par_chunks_mut(n)
                .with_min_len(16)
                .for_each(|y| y.copy_from_slice(b));
        }
        let (x, w) = (Mat::rows(x, rows, k, k), Mat::rows(w, n, k, k));
        gemm(x, w.t(), &mut y, n, true, true);
        y
    }

    fn grad_input(&self, w: &[f32], dy: &[f32]) -> Vec<f32> {
        let &Self { n, k } = self;
        let rows = dy.len() / n;
        let mut dx = zeros(rows * k);
        let (dy, w) = (Mat::rows(dy, rows, n, n), Mat::rows(w, n, k, k));
        gemm(dy, w, &mut dx, k, false, true);
        dx
    }

    fn grad_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let &Self { n, k } = self;
        let rows = dy.len() / n;
        let mut dw = zeros(n * k);
        let (dy, x) = (Mat::rows(dy, rows, n, n), Mat::rows(x, rows, k, k));
        gemm(dy.t(), x, &mut dw, k, false, true);
        dw
    }

    fn grad_bias(&self, dy: &[f32]) -> Vec<f32> {
        const ROWS: usize = 64;
        let rows = dy.len() / self.n;
        let tasks = rows.div_ceil(ROWS);
        accumulate(self.n, tasks, |task, sums| {
            for row in part(rows, task, tasks) {
                let dy = &dy[row * self.n..][..self.n];
                sums.iter_mut().zip(dy).for_each(|(s, d)| *s += d);
            }
        })
    }
}
