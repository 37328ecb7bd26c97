//! Activations: one function of every element, with backward.

use std::marker::PhantomData;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::host;
use crate::memory::zeros;
use crate::simd::Simd;

/// Elements of a task: long enough to hide the cost of handing it out.
const CHUNK: usize = 1 << 13;

/// A function of one number and its derivative, over slices.
pub(crate) trait Activation: Send + Sync + 'static {
    /// The operation's name.
    const OP: &'static str;

    /// `y = f(x)`.
    fn forward(simd: Simd, y: &mut [f32], x: &[f32]);

    /// `dx = dy f'(x)`.
    fn backward(simd: Simd, dx: &mut [f32], x: &[f32], dy: &[f32]);
}

/// The activation of every element of a CPU tensor.
pub(crate) fn activate<A: Activation>(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Elementwise::<A>(PhantomData))
}

struct Elementwise<A>(PhantomData<A>);

impl<A: Activation> CustomOp1 for Elementwise<A> {
    fn name(&self) -> &'static str {
        A::OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(A::OP, x, layout)?;
        let simd = Simd::detect();
        let mut y = zeros(x.len());
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| A::forward(simd, y, x));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        host::gradient(A::OP, x, [x, &dy.contiguous()?], |[x, dy]| {
            let simd = Simd::detect();
            let mut dx = zeros(x.len());
            dx.par_chunks_mut(CHUNK)
                .zip(x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK)))
                .for_each(|(dx, (x, dy))| A::backward(simd, dx, x, dy));
            dx
        })
    }
}
