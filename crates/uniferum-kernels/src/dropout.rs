//! Dropout whose mask is a function of a seed.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::error::invalid;
use crate::host;
use crate::rng::Keep;

const OP: &str = "dropout";
const CHUNK: usize = 1 << 14;

/// Sets each element to 0 with probability `p` and multiplies the others by `1 / (1 - p)`.
///
/// The mask depends on `seed` and on the element's place alone: the same call gives the same result on
/// any number of threads, and backward draws it again instead of keeping it.
///
/// # Shapes
/// Any; the result has the same.
///
/// # Errors
/// For `p` outside `[0, 1)`, or a tensor that is not `f32`.
pub fn dropout(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    check_probability(OP, p)?;
    if p == 0.0 {
        return Ok(x.clone());
    }
    on_cuda!(x => crate::cuda::dropout(OP, x, Keep::new(p, seed)));
    x.contiguous()?.apply_op1(Dropout(Keep::new(p, seed)))
}

pub(crate) fn check_probability(op: &'static str, p: f32) -> Result<()> {
    if (0.0..1.0).contains(&p) {
        return Ok(());
    }
    Err(invalid(op, "dropout probability", "a number in [0, 1)", p).into())
}

struct Dropout(Keep);

impl Dropout {
    fn run(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, (y, x))| {
                let start = chunk * CHUNK;
                for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
                    *y = *x * self.0.factor(start + i);
                }
            });
        y
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.run(host::f32_slice(OP, x, layout)?);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        host::gradient(OP, x, [&dy.contiguous()?], |[dy]| self.run(dy))
    }
}
