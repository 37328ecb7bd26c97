//! Attention within sequences of different lengths that lie behind each other, for inference.

use std::ops::Range;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::OP;
use super::cpu::softmax;
use crate::error::invalid;
use crate::gemm::{Mat, gemm, gemm_into};
use crate::host;
use crate::memory::zeros;
use crate::parallel::SharedMut;
use crate::simd::Simd;

/// The rows of one sequence among packed queries and packed keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Rows of `q` that ask.
    pub queries: Range<usize>,
    /// Rows of `k` and `v` that they may see.
    pub keys: Range<usize>,
}

/// `softmax(q kᵀ / sqrt(E / heads)) v` within each span, without padding and without a graph.
///
/// Heads are slices of a row, as a linear map leaves them: nothing is transposed. Rows of the
/// result that no span names are 0.
///
/// # Shapes
/// `q` and the result `[T, E]`; `k` and `v` `[S, E]`.
///
/// # Errors
/// When the shapes do not fit together, for spans outside the rows or that share queries, or
/// for tensors that are not `f32`.
pub fn attention_packed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spans: &[Span],
    heads: usize,
) -> Result<Tensor> {
    let ((rows, width), (keys, _)) = (q.dims2()?, k.dims2()?);
    if k.dims() != [keys, width] || v.dims() != k.dims() || heads == 0 || width % heads != 0 {
        let expected = format!("k and v [S, {width}] and a divisor of {width} heads");
        let got = format!("{:?}, {:?}, {heads} heads", k.dims(), v.dims());
        return Err(invalid(OP, "shapes", expected, got).into());
    }
    check(spans, rows, keys)?;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    on_cuda!(q => super::cuda::packed([&q, &k, &v], spans, (heads, width)));
    let y = host::with_f32(OP, [&q, &k, &v], |qkv| forward(qkv, width, spans, heads))?;
    Ok(host::tensor(y, (rows, width)))
}

fn check(spans: &[Span], rows: usize, keys: usize) -> Result<()> {
    let mut taken = vec![false; rows];
    for span in spans {
        let queries = span.queries.start <= span.queries.end && span.queries.end <= rows;
        let inside = queries && span.keys.end <= keys && !span.keys.is_empty();
        let free = inside && taken[span.queries.clone()].iter().all(|t| !t);
        if !free {
            let expected = format!("own queries below {rows}, keys below {keys}");
            return Err(invalid(OP, "span", expected, format!("{span:?}")).into());
        }
        taken[span.queries.clone()].fill(true);
    }
    Ok(())
}

fn forward([q, k, v]: [&[f32]; 3], width: usize, spans: &[Span], heads: usize) -> Vec<f32> {
    let simd = Simd::detect();
    let own = width / heads;
    let scale = (1.0 / (own as f64).sqrt()) as f32;
    let mut y = zeros(q.len());
    let out = SharedMut::new(&mut y);
    let tasks: Vec<(&Span, usize)> = spans
        .iter()
        .filter(|span| !span.queries.is_empty())
        .flat_map(|span| (0..heads).map(move |head| (span, head)))
        .collect();
    tasks
        .into_par_iter()
        .for_each_init(Vec::new, |scores, (span, head)| {
            let (t, s) = (span.queries.len(), span.keys.len());
            let of = |rows: &'_ [f32], at: &Range<usize>| at.start * width + head * own..rows.len();
            let q = Mat::rows(&q[of(q, &span.queries)], t, own, width);
            let k = Mat::rows(&k[of(k, &span.keys)], s, own, width);
            let v = Mat::rows(&v[of(v, &span.keys)], s, own, width);
            scores.resize(t * s, 0.0);
            gemm(q, k.t(), scores, s, false, false);
            scores
                .chunks_exact_mut(s)
                .for_each(|row| softmax(simd, row, scale));
            let scores = Mat::rows(scores, t, s, s);
            // SAFETY: `check` has found that no other span has these queries, and no other
            // task this head of them.
            unsafe {
                let y = out.at(span.queries.start * width + head * own);
                gemm_into(scores, v, y, width, false, false);
            }
        });
    y
}
