//! Squeeze-and-excitation: channels weighted by what the whole volume says of them.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::error::{check_shape, invalid};
use crate::geometry::dims5;
use crate::host;
use crate::pool::global_avg_pool3d;
use crate::silu::silu;
use crate::simd::{Simd, affine, dot};

const OP: &str = "squeeze_excite";

/// Squeeze-and-excitation with SiLU inside and a sigmoid gate, with backward:
/// `x * sigmoid(W_expand silu(W_reduce mean(x) + b_reduce) + b_expand)`.
///
/// # Shapes
/// `x` and the result are `[B, C, D, H, W]`; `w_reduce` is `[S, C]` and `w_expand` `[C, S]`,
/// either with trailing axes of size 1 as a convolution's weight has; the biases are `[S]`
/// and `[C]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn squeeze_excite(
    x: &Tensor,
    w_reduce: &Tensor,
    b_reduce: &Tensor,
    w_expand: &Tensor,
    b_expand: &Tensor,
) -> Result<Tensor> {
    let (_, channels, _) = dims5(OP, "input shape", x.dims())?;
    let squeezed = b_reduce.elem_count();
    let w_reduce = matrix(w_reduce, "w_reduce", squeezed, channels)?;
    let w_expand = matrix(w_expand, "w_expand", channels, squeezed)?;
    let mean = global_avg_pool3d(x)?.flatten_from(1)?;
    let hidden = silu(&linear(&mean, &w_reduce, b_reduce)?)?;
    let logits = linear(&hidden, &w_expand, b_expand)?;
    scale_channels(x, &sigmoid(&logits)?)
}

/// Multiplies each channel of each sample by its own factor, with backward.
///
/// # Shapes
/// `x` and the result are `[B, C, D, H, W]`, `gate` is `[B, C]`.
///
/// # Errors
/// When the shapes do not fit together, or for a tensor that is not `f32`.
pub fn scale_channels(x: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let (batch, channels, spatial) = dims5(OP, "input shape", x.dims())?;
    check_shape(OP, "gate", gate, &[batch, channels])?;
    on_cuda!(x => crate::cuda::scale_channels(OP, x, gate));
    let op = ScaleChannels {
        voxels: spatial.iter().product(),
    };
    x.contiguous()?.apply_op2(&gate.contiguous()?, op)
}

fn matrix(w: &Tensor, what: &'static str, rows: usize, cols: usize) -> Result<Tensor> {
    let dims = w.dims();
    let fits = dims.len() >= 2 && dims[..2] == [rows, cols] && dims[2..].iter().all(|n| *n == 1);
    if !fits {
        let expected = format!("shape [{rows}, {cols}]");
        return Err(invalid(OP, what, expected, format!("{dims:?}")).into());
    }
    w.reshape((rows, cols))
}

fn linear(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)?.broadcast_add(b)
}

/// By the hyperbolic tangent, which cannot overflow.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5)
}

struct ScaleChannels {
    voxels: usize,
}

impl CustomOp2 for ScaleChannels {
    fn name(&self) -> &'static str {
        "scale_channels"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gate: &CpuStorage,
        lg: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gate) = (host::f32_slice(OP, x, lx)?, host::f32_slice(OP, gate, lg)?);
        Ok((CpuStorage::F32(self.scale(x, gate)), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gate: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = &dy.contiguous()?;
        Ok((
            host::gradient(OP, x, [dy, gate], |[dy, gate]| self.scale(dy, gate))?,
            host::gradient(OP, gate, [x, dy], |[x, dy]| self.inner_products(x, dy))?,
        ))
    }
}

impl ScaleChannels {
    fn scale(&self, x: &[f32], gate: &[f32]) -> Vec<f32> {
        let simd = Simd::detect();
        // Of no voxels there are no chunks of any size.
        let n = self.voxels.max(1);
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(n)
            .zip(x.par_chunks(n))
            .zip(gate)
            .for_each(|((y, x), gate)| affine(simd, y, x, *gate, 0.0));
        y
    }

    fn inner_products(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let simd = Simd::detect();
        let n = self.voxels.max(1);
        x.par_chunks(n)
            .zip(dy.par_chunks(n))
            .map(|(x, dy)| dot(simd, x, dy) as f32)
            .collect()
    }
}
