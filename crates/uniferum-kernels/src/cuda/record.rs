//! Results of kernels as nodes of candle's graph.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, DType, Error, Layout, Result, Shape,
    Tensor,
};

use super::Buf;

/// A node whose value has been computed before it enters the graph.
struct Recorded<const N: usize, F> {
    name: &'static str,
    dtype: DType,
    value: Mutex<Option<(CudaStorage, Shape)>>,
    backward: F,
}

impl<const N: usize, F> Recorded<N, F>
where
    F: Fn([&Tensor; N], &Tensor) -> Result<[Option<Tensor>; N]>,
{
    fn new(name: &'static str, value: Buf, shape: Shape, backward: F) -> Self {
        Self {
            name,
            dtype: value.dtype,
            value: Mutex::new(Some((value.into_storage(), shape))),
            backward,
        }
    }

    fn take(&self) -> Result<(CudaStorage, Shape)> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || Error::Msg(format!("{}: applied twice", self.name));
        value.take().ok_or_else(gone)
    }

    fn on_cpu<T>(&self) -> Result<T> {
        Err(Error::Msg(format!(
            "{}: a CUDA operation on the CPU",
            self.name
        )))
    }

    fn backward(&self, inputs: [&Tensor; N], dy: &Tensor) -> Result<[Option<Tensor>; N]> {
        (self.backward)(inputs, &dy.to_dtype(self.dtype)?.contiguous()?)
    }
}

/// Implements candle's trait of operations on that many tensors; these traits differ in nothing else.
macro_rules! operation {
    ($op:ident<$n:literal>($($x:ident: $layout:ty),+) -> $gradients:ty) => {
        impl<F> $op for Recorded<$n, F>
        where
            F: Fn([&Tensor; $n], &Tensor) -> Result<[Option<Tensor>; $n]>,
        {
            fn name(&self) -> &'static str {
                self.name
            }

            fn cpu_fwd(&self, $(_: &CpuStorage, _: $layout),+) -> Result<(CpuStorage, Shape)> {
                self.on_cpu()
            }

            fn cuda_fwd(&self, $(_: &CudaStorage, _: $layout),+) -> Result<(CudaStorage, Shape)> {
                self.take()
            }

            fn bwd(&self, $($x: &Tensor,)+ _y: &Tensor, dy: &Tensor) -> Result<$gradients> {
                let [$($x),+] = self.backward([$($x),+], dy)?;
                Ok(($($x),+))
            }
        }
    };
}

operation!(CustomOp1<1>(a: &Layout) -> Option<Tensor>);
operation!(CustomOp2<2>(a: &Layout, b: &Layout) -> (Option<Tensor>, Option<Tensor>));
operation!(CustomOp3<3>(a: &Layout, b: &Layout, c: &Layout)
    -> (Option<Tensor>, Option<Tensor>, Option<Tensor>));

/// The value of an operation of one tensor, with its backward pass: gradients of the inputs
/// that ask for one, from the inputs and the value's gradient.
pub(crate) fn record1<F>(
    name: &'static str,
    value: Buf,
    shape: impl Into<Shape>,
    input: &Tensor,
    backward: F,
) -> Result<Tensor>
where
    F: Fn([&Tensor; 1], &Tensor) -> Result<[Option<Tensor>; 1]> + Send + Sync + 'static,
{
    input.apply_op1(Recorded::new(name, value, shape.into(), backward))
}

/// As [`record1`], of two tensors.
pub(crate) fn record2<F>(
    name: &'static str,
    value: Buf,
    shape: impl Into<Shape>,
    [a, b]: [&Tensor; 2],
    backward: F,
) -> Result<Tensor>
where
    F: Fn([&Tensor; 2], &Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
{
    a.apply_op2(b, Recorded::new(name, value, shape.into(), backward))
}

/// As [`record1`], of three tensors.
pub(crate) fn record3<F>(
    name: &'static str,
    value: Buf,
    shape: impl Into<Shape>,
    [a, b, c]: [&Tensor; 3],
    backward: F,
) -> Result<Tensor>
where
    F: Fn([&Tensor; 3], &Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync + 'static,
{
    a.apply_op3(b, c, Recorded::new(name, value, shape.into(), backward))
}
