//! The SiLU (swish) activation.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::host;
use crate::memory::zeros;
use crate::simd::{self, Simd};

const OP: &str = "silu";

/// Elements of a task: long enough to hide the cost of handing it out.
const CHUNK: usize = 1 << 14;

/// `x * sigmoid(x)`, vectorised and parallel, with backward.
///
/// # Shapes
/// Any; the result has the same.
///
/// # Errors
/// For a tensor that is not `f32`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    on_cuda!(x => crate::cuda::silu(OP, x));
    x.contiguous()?.apply_op1(Silu)
}

struct Silu;

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(OP, x, layout)?;
        let simd = Simd::detect();
        let mut y = zeros(x.len());
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| simd::silu(simd, y, x));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let simd = Simd::detect();
        let dx = host::with_f32(OP, x, |x| {
            host::with_f32(OP, &dy, |dy| {
                let mut dx = zeros(x.len());
                let inputs = x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK));
                dx.par_chunks_mut(CHUNK)
                    .zip(inputs)
                    .for_each(|(dx, (x, dy))| simd::silu_grad(simd, dx, x, dy));
                dx
            })
        })??;
        Ok(Some(host::tensor(dx, x.shape())))
    }
}
