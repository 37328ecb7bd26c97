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

/// Runs `f` on the elements of a contiguous `f32` CPU tensor.
pub(crate) fn with_f32<R>(
    op: &'static str,
    tensor: &Tensor,
    f: impl FnOnce(&[f32]) -> R,
) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(f32_slice(op, storage, layout)?)),
        _ => Err(invalid(
            op,
            "device",
            "a CPU tensor",
            format!("{:?}", tensor.device()),
        )
        .into()),
    }
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
