//! Attention on CUDA: products by cuBLAS, softmax with mask and dropout by one kernel.

use candle_core::{DType, Result, Tensor};

use super::{OP, Span};
use crate::cuda::{Arg, Buf, Gpu, Grid, Input, Mat, Module, args, module, record3};
use crate::rng::Keep;

const MODULE: Module = module!("attention");
/// Rows of a block, a warp each.
const ROWS: usize = 4;

/// Sizes of one attention; `tasks` samples times heads.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    tasks: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
}

impl Sizes {
    fn rows(&self) -> usize {
        self.tasks * self.queries
    }

    fn scale(&self) -> f32 {
        (1.0 / (self.width as f64).sqrt()) as f32
    }

    fn grid(&self) -> Grid {
        Grid::new(self.rows().div_ceil(ROWS), 32 * ROWS)
    }

    fn of_queries(&self, ptr: u64, dtype: DType) -> Mat {
        Mat::new(ptr, dtype, self.width, self.queries * self.width)
    }

    fn of_keys(&self, ptr: u64, dtype: DType) -> Mat {
        Mat::new(ptr, dtype, self.width, self.keys * self.width)
    }

    fn of_scores(&self, buf: &Buf) -> Mat {
        Mat::new(buf.at(0), buf.dtype, self.keys, self.queries * self.keys)
    }

    /// Probabilities, and what dropout leaves of them in the activations' type.
    fn probabilities(
        &self,
        gpu: &Gpu,
        (q, k): (Mat, Mat),
        mask: Arg,
        (keep, dtype): (Option<Keep>, DType),
    ) -> Result<(Buf, Buf)> {
        let n = self.rows() * self.keys;
        let (p, kept) = (gpu.uninit(DType::F32, n)?, gpu.uninit(dtype, n)?);
        let sizes = [self.queries, self.keys, self.width];
        gpu.gemm(q, k.t(), self.of_scores(&p), sizes, self.tasks, false)?;
        let mut list = args![
            &p,
            mask,
            &kept,
            self.rows() as i64,
            self.keys as i32,
            (self.heads * self.queries) as i32,
            self.scale()
        ]
        .to_vec();
        list.extend(Keep::args(keep));
        gpu.launch_for(&MODULE, "attention_softmax", dtype, self.grid(), &list)?;
        Ok((p, kept))
    }
}

/// [`attention`](super::attention) on CUDA.
pub(super) fn attention(
    [q, k, v]: [&Tensor; 3],
    key_mask: Option<&Tensor>,
    keep: Option<Keep>,
) -> Result<Tensor> {
    let (batch, heads, queries, width) = q.dims4()?;
    let keys = k.dims4()?.2;
    let sizes = Sizes {
        tasks: batch * heads,
        heads,
        queries,
        keys,
        width,
    };
    let mask = key_mask.map(|m| m.detach().to_dtype(DType::F32)?.contiguous());
    let mask = mask.transpose()?;
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let gpu = Gpu::of(OP, &q)?;
    let value = {
        let (qs, ks, vs) = (gpu.read(&q)?, gpu.read(&k)?, gpu.read(&v)?);
        let y = gpu.zeros(qs.dtype, qs.len)?;
        if keys > 0 && width > 0 {
            let m = mask.as_ref().map(|m| gpu.read(m)).transpose()?;
            let both = (
                sizes.of_queries(qs.at(0), qs.dtype),
                sizes.of_keys(ks.at(0), ks.dtype),
            );
            let mask = Arg::from(m.as_ref());
            let (_, kept) = sizes.probabilities(&gpu, both, mask, (keep, qs.dtype))?;
            let values = sizes.of_keys(vs.at(0), vs.dtype);
            let to = sizes.of_queries(y.at(0), y.dtype);
            let shape = [queries, width, keys];
            gpu.gemm(
                sizes.of_scores(&kept),
                values,
                to,
                shape,
                sizes.tasks,
                false,
            )?;
        }
        y
    };
    record3(OP, value, q.shape(), [&q, &k, &v], move |[q, k, v], dy| {
        let gpu = Gpu::of(OP, dy)?;
        let inputs = [gpu.read(q)?, gpu.read(k)?, gpu.read(v)?, gpu.read(dy)?];
        let m = mask.as_ref().map(|m| gpu.read(m)).transpose()?;
        let [dq, dk, dv] = backward(&gpu, &sizes, &inputs, Arg::from(m.as_ref()), keep)?;
        Ok([
            Some(dq.tensor(q.shape())),
            Some(dk.tensor(k.shape())),
            Some(dv.tensor(v.shape())),
        ])
    })
}

fn backward(
    gpu: &Gpu,
    sizes: &Sizes,
    [q, k, v, dy]: &[Input<'_>; 4],
    mask: Arg,
    keep: Option<Keep>,
) -> Result<[Buf; 3]> {
    let dtype = q.dtype;
    let &Sizes {
        tasks,
        queries,
        keys,
        width,
        ..
    } = sizes;
    let made = [
        gpu.zeros(dtype, q.len)?,
        gpu.zeros(dtype, k.len)?,
        gpu.zeros(dtype, v.len)?,
    ];
    if keys == 0 || width == 0 {
        return Ok(made);
    }
    let [dq, dk, dv] = &made;
    let of_queries = |ptr: u64| sizes.of_queries(ptr, dtype);
    let of_keys = |ptr: u64| sizes.of_keys(ptr, dtype);
    let (qm, km, dym) = (of_queries(q.at(0)), of_keys(k.at(0)), of_queries(dy.at(0)));
    let (p, kept) = sizes.probabilities(gpu, (qm, km), mask, (keep, dtype))?;
    let by_key = [keys, width, queries];
    let from = sizes.of_scores(&kept).t();
    gpu.gemm(from, dym, of_keys(dv.at(0)), by_key, tasks, false)?;
    let dkept = gpu.uninit(DType::F32, p.len)?;
    let to = sizes.of_scores(&dkept);
    let values = of_keys(v.at(0)).t();
    gpu.gemm(dym, values, to, [queries, keys, width], tasks, false)?;
    let ds = gpu.uninit(dtype, p.len)?;
    let mut list = args![
        &p,
        &dkept,
        &ds,
        sizes.rows() as i64,
        keys as i32,
        sizes.scale()
    ]
    .to_vec();
    list.extend(Keep::args(keep));
    gpu.launch_for(
        &MODULE,
        "attention_softmax_back",
        dtype,
        sizes.grid(),
        &list,
    )?;
    let scores = sizes.of_scores(&ds);
    let by_query = [queries, width, keys];
    gpu.gemm(scores, km, of_queries(dq.at(0)), by_query, tasks, false)?;
    gpu.gemm(scores.t(), qm, of_keys(dk.at(0)), by_key, tasks, false)?;
    Ok(made)
}

/// [`attention_packed`](super::attention_packed) on CUDA.
pub(super) fn packed(
    [q, k, v]: [&Tensor; 3],
    spans: &[Span],
    (heads, width): (usize, usize),
) -> Result<Tensor> {
    let gpu = Gpu::of(OP, q)?;
    let (qs, ks, vs) = (gpu.read(q)?, gpu.read(k)?, gpu.read(v)?);
    let y = gpu.zeros(qs.dtype, qs.len)?;
    let own = width / heads;
    // Heads are slices of a row, so that a head is the next sample `own` elements further.
    let head = |ptr: u64| Mat::new(ptr, qs.dtype, width, own);
    for span in spans.iter().filter(|span| !span.queries.is_empty()) {
        let sizes = Sizes {
            tasks: heads,
            heads,
            queries: span.queries.len(),
            keys: span.keys.len(),
            width: own,
        };
        let (first, key) = (span.queries.start * width, span.keys.start * width);
        let both = (head(qs.at(first)), head(ks.at(key)));
        let (_, kept) = sizes.probabilities(&gpu, both, Arg::NULL, (None, qs.dtype))?;
        let shape = [sizes.queries, own, sizes.keys];
        let (values, to) = (head(vs.at(key)), head(y.at(first)));
        gpu.gemm(sizes.of_scores(&kept), values, to, shape, heads, false)?;
    }
    Ok(y.tensor(q.shape()))
}
