//! Access to the host memory of CPU tensors.

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, Tensor};

use crate::error::{Error, invalid};

/// The elements of a contiguous `f32` storage.
pub(crate) fn f32_slice<'a>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else {
        return Err(Error::DType {
            op,
            dtype: dtype(storage),
            device: "CPU",
        }
        .into());
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => Err(invalid(op, "layout", "a contiguous tensor", format!("{layout:?}")).into()),
    }
}

/// Runs `f` on the elements of contiguous `f32` CPU tensors.
pub(crate) fn with_f32<R, const N: usize>(
    op: &'static str,
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let storages = tensors.map(Tensor::storage_and_layout);
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&storages) {
        *slice = match &**storage {
            Storage::Cpu(storage) => f32_slice(op, storage, layout)?,
            other => {
                let got = format!("{:?}", other.device());
                return Err(invalid(op, "device", "a CPU tensor", got).into());
            }
        };
    }
    Ok(f(slices))
}

/// The gradient of an operation's input `of` where backward wants one: `f` of the elements of
/// `from`.
pub(crate) fn gradient<const N: usize>(
    op: &'static str,
    of: &Tensor,
    from: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> Vec<f32>,
) -> Result<Option<Tensor>> {
    if !of.track_op() {
        return Ok(None);
    }
    Ok(Some(tensor(with_f32(op, from, f)?, of.shape())))
}

/// An owned, contiguous CPU tensor outside the autograd graph.
pub(crate) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> Tensor {
    let storage = Storage::Cpu(CpuStorage::F32(data));
    Tensor::from_storage(storage, shape, candle_core::op::BackpropOp::none(), false)
}

fn dtype(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

/// As [`f32_slice`], to write to.
pub(crate) fn f32_slice_mut<'a>(
    op: &'static str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    f32_slice(op, storage, layout)?;
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(data), Some((start, end))) => Ok(&mut data[start..end]),
        _ => Err(invalid(op, "storage", "contiguous f32", "another").into()),
    }
}
