//! Running kernels on CUDA tensors.
//!
//! Each operation's kernels lie beside its CPU file as `.cu`; the build script compiles them to
//! PTX. An operation computes on raw arrays through [`Gpu`], and [`record1`] and its sisters tie
//! the result into candle's graph. Activations are `f32` or `bf16`, parameters and statistics
//! `f32`.

mod args;
mod blas;
mod elementwise;
mod linear;
mod maps;
mod optimizer;
mod record;

use std::ops::Deref;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, LaunchConfig,
};
use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Shape, Storage, Tensor};

use crate::error::{Error, invalid};

pub(crate) use args::{Arg, args};
pub(crate) use blas::{Mat, Weights};
pub(crate) use elementwise::chunks_of_rows;
pub(crate) use linear::linear;
pub(crate) use maps::{dropout, gelu, loss, scale_channels, silu};
pub(crate) use optimizer::{adamw, averages, clip, squared_norm};
pub(crate) use record::{record1, record2, record3};

/// The kernels of one `.cu` file.
pub(crate) struct Module {
    pub(crate) name: &'static str,
    pub(crate) ptx: &'static str,
}

/// Names the compiled kernels of `$name.cu`.
macro_rules! module {
    ($name:literal) => {
        $crate::cuda::Module {
            name: concat!("uniferum_", $name),
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
        }
    };
}
pub(crate) use module;

/// Blocks, threads of a block (whole warps unless the kernel needs no sums) and bytes of shared
/// memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: usize,
    pub(crate) threads: usize,
    pub(crate) shared: usize,
}

impl Grid {
    pub(crate) fn new(blocks: usize, threads: usize) -> Self {
        Self {
            blocks,
            threads,
            shared: 0,
        }
    }

    /// One thread an element.
    pub(crate) fn flat(elements: usize) -> Self {
        Self::new(elements.div_ceil(256), 256)
    }

    /// Enough blocks for elements taken four at a time, each thread several times where there
    /// are many.
    pub(crate) fn streaming(elements: usize) -> Self {
        // 8 blocks of 256 threads fill each of up to 2^4 * 132 multiprocessors' shares.
        Self::new(elements.div_ceil(4 * 256).min(1 << 14), 256)
    }
}

/// Threads for a row of `n` elements taken four at a time: whole warps, at most 256.
pub(crate) fn row_threads(n: usize) -> usize {
    n.div_ceil(4).next_power_of_two().clamp(32, 256)
}

/// The device that an operation runs on.
#[derive(Clone)]
pub(crate) struct Gpu {
    op: &'static str,
    device: CudaDevice,
}

impl Gpu {
    /// The device of `x`.
    pub(crate) fn of(op: &'static str, x: &Tensor) -> Result<Self> {
        match x.device() {
            Device::Cuda(device) => Ok(Self {
                op,
                device: device.clone(),
            }),
            other => Err(invalid(op, "device", "a CUDA device", format!("{other:?}")).into()),
        }
    }

    /// A device of the caller's own.
    pub(crate) fn on(op: &'static str, device: CudaDevice) -> Self {
        Self { op, device }
    }

    /// The stream that everything of this device runs on.
    pub(crate) fn stream(&self) -> Arc<CudaStream> {
        self.device.cuda_stream()
    }

    /// The device, as candle has it.
    pub(crate) fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// The elements of a contiguous `f32` or `bf16` tensor of this device.
    pub(crate) fn read<'a>(&self, x: &'a Tensor) -> Result<Input<'a>> {
        let (storage, layout) = x.storage_and_layout();
        let dtype = x.dtype();
        let Storage::Cuda(cuda) = &*storage else {
            let got = format!("{:?}", x.device());
            return Err(invalid(self.op, "device", "tensors of one device", got).into());
        };
        if cuda.device.id() != self.device.id() {
            let got = format!("{:?}", x.device());
            return Err(invalid(self.op, "device", "tensors of one device", got).into());
        }
        let Some((start, end)) = layout.contiguous_offsets() else {
            let got = format!("{layout:?}");
            return Err(invalid(self.op, "layout", "a contiguous tensor", got).into());
        };
        let Some(base) = pointer(cuda) else {
            return Err(Error::DType {
                op: self.op,
                dtype,
                device: "CUDA",
            }
            .into());
        };
        Ok(Input {
            ptr: base + (start * dtype.size_in_bytes()) as u64,
            len: end - start,
            dtype,
            storage: Box::new(storage),
        })
    }

    /// The elements of a whole tensor of whole numbers.
    pub(crate) fn read_table<'a>(&self, x: &'a Tensor) -> Result<Input<'a>> {
        let (storage, _) = x.storage_and_layout();
        let base = match &*storage {
            Storage::Cuda(cuda) => match &cuda.slice {
                CudaStorageSlice::I32(slice) => Some(slice.device_ptr(slice.stream()).0),
                CudaStorageSlice::I64(slice) => Some(slice.device_ptr(slice.stream()).0),
                _ => None,
            },
            _ => None,
        };
        let got = || format!("{:?} on {:?}", x.dtype(), x.device());
        let ptr = base.ok_or_else(|| invalid(self.op, "table", "i32 or i64 on CUDA", got()))?;
        Ok(Input {
            ptr,
            len: x.elem_count(),
            dtype: x.dtype(),
            storage: Box::new(storage),
        })
    }

    /// As [`read`](Self::read), for parameters, which are `f32`.
    pub(crate) fn read_f32<'a>(&self, x: &'a Tensor) -> Result<Input<'a>> {
        if x.dtype() == DType::F32 {
            return self.read(x);
        }
        let expected = "f32, whatever the activations are";
        let got = format!("{:?}", x.dtype());
        Err(invalid(self.op, "type of a parameter", expected, got).into())
    }

    /// Memory for `len` values that a kernel will write.
    pub(crate) fn uninit(&self, dtype: DType, len: usize) -> Result<Buf> {
        let n = len.max(1);
        let device = self.device.clone();
        // SAFETY: plain numbers, all of which the kernels that are given this memory write
        // before anything reads it.
        let slice = unsafe {
            match dtype {
                DType::F32 => CudaStorageSlice::F32(device.alloc::<f32>(n)?),
                DType::F64 => CudaStorageSlice::F64(device.alloc::<f64>(n)?),
                DType::BF16 => CudaStorageSlice::BF16(device.alloc::<half::bf16>(n)?),
                _ => {
                    return Err(Error::DType {
                        op: self.op,
                        dtype,
                        device: "CUDA",
                    }
                    .into());
                }
            }
        };
        let storage = CudaStorage { slice, device };
        let ptr = pointer(&storage).unwrap_or_default();
        Ok(Buf {
            ptr,
            len,
            dtype,
            storage,
        })
    }

    pub(crate) fn zeros(&self, dtype: DType, len: usize) -> Result<Buf> {
        let mut buf = self.uninit(dtype, len)?;
        let stream = self.device.cuda_stream();
        match &mut buf.storage.slice {
            CudaStorageSlice::F32(s) => stream.memset_zeros(s).w()?,
            CudaStorageSlice::F64(s) => stream.memset_zeros(s).w()?,
            CudaStorageSlice::BF16(s) => stream.memset_zeros(s).w()?,
            _ => {}
        }
        Ok(buf)
    }

    /// The values of a buffer of double precision, once all work before has ended.
    pub(crate) fn download_f64(&self, buf: &Buf) -> Result<Vec<f64>> {
        match &buf.storage.slice {
            CudaStorageSlice::F64(slice) => {
                let mut values = self.device.clone_dtoh(slice)?;
                values.truncate(buf.len);
                Ok(values)
            }
            _ => Err(invalid(self.op, "buffer", "f64", format!("{:?}", buf.dtype)).into()),
        }
    }

    /// Starts `name` for activations of type `dtype`.
    pub(crate) fn launch_for(
        &self,
        module: &Module,
        name: &str,
        dtype: DType,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        let suffix = match dtype {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            _ => {
                return Err(Error::DType {
                    op: self.op,
                    dtype,
                    device: "CUDA",
                }
                .into());
            }
        };
        self.launch(module, &format!("{name}_{suffix}"), grid, args)
    }

    /// Starts the kernel `name`.
    pub(crate) fn launch(
        &self,
        module: &Module,
        name: &str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        if grid.blocks == 0 {
            return Ok(());
        }
        let function = self
            .device
            .get_or_load_custom_func(name, module.name, module.ptx)?;
        let config = LaunchConfig {
            grid_dim: (grid.blocks as u32, 1, 1),
            block_dim: (grid.threads as u32, 1, 1),
            shared_mem_bytes: grid.shared as u32,
        };
        let mut builder = function.builder();
        for arg in args {
            arg.push(&mut builder);
        }
        // SAFETY: the callers, all in this crate, pass the arguments that the kernel declares,
        // with arrays as long as it uses; tests run every kernel against an oracle.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// A tensor's elements on the device, held against writers as long as this lives.
pub(crate) struct Input<'a> {
    ptr: u64,
    pub(crate) len: usize,
    pub(crate) dtype: DType,
    storage: Box<dyn Deref<Target = Storage> + 'a>,
}

impl Input<'_> {
    /// The address of element `at`.
    pub(crate) fn at(&self, at: usize) -> u64 {
        self.ptr + (at * self.dtype.size_in_bytes()) as u64
    }
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        // Tells other streams, if there are any, that the kernels started meanwhile read this.
        if let Storage::Cuda(storage) = &**self.storage {
            pointer(storage);
        }
    }
}

/// Elements on the device that somebody else keeps alive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    ptr: u64,
    pub(crate) len: usize,
    pub(crate) dtype: DType,
}

impl View {
    /// The address of element `at`.
    pub(crate) fn at(&self, at: usize) -> u64 {
        self.ptr + (at * self.dtype.size_in_bytes()) as u64
    }

    /// Some of the elements.
    pub(crate) fn part(&self, range: &std::ops::Range<usize>) -> Self {
        Self {
            ptr: self.at(range.start),
            len: range.len(),
            dtype: self.dtype,
        }
    }
}

impl From<&Input<'_>> for View {
    fn from(input: &Input<'_>) -> Self {
        Self {
            ptr: input.ptr,
            len: input.len,
            dtype: input.dtype,
        }
    }
}

impl From<&Buf> for View {
    fn from(buf: &Buf) -> Self {
        Self {
            ptr: buf.ptr,
            len: buf.len,
            dtype: buf.dtype,
        }
    }
}

/// Memory of the device that an operation makes.
pub(crate) struct Buf {
    ptr: u64,
    pub(crate) len: usize,
    pub(crate) dtype: DType,
    storage: CudaStorage,
}

impl Buf {
    /// The address of element `at`.
    pub(crate) fn at(&self, at: usize) -> u64 {
        self.ptr + (at * self.dtype.size_in_bytes()) as u64
    }

    fn into_storage(mut self) -> CudaStorage {
        // Tells other streams, if there are any, that the kernels started so far write this.
        match &mut self.storage.slice {
            CudaStorageSlice::F32(s) => written(s),
            CudaStorageSlice::F64(s) => written(s),
            CudaStorageSlice::BF16(s) => written(s),
            _ => {}
        }
        self.storage
    }

    /// A tensor of `f32` of another device of the same GPU, whose stream frees it.
    ///
    /// The caller has waited for all that writes it: nothing orders the two streams.
    pub(crate) fn hand_over(self, to: &CudaDevice, shape: impl Into<Shape>) -> Result<Tensor> {
        let CudaStorageSlice::F32(slice) = self.storage.slice else {
            let got = format!("{:?}", self.dtype);
            return Err(invalid("hand_over", "buffer", "f32", got).into());
        };
        let len = slice.len();
        // SAFETY: the slice gives up its memory, which is of that length and type and written.
        let slice = unsafe {
            let pointer = slice.leak();
            to.cuda_stream().upgrade_device_ptr::<f32>(pointer, len)
        };
        let storage = CudaStorage {
            slice: CudaStorageSlice::F32(slice),
            device: to.clone(),
        };
        let none = candle_core::op::BackpropOp::none();
        let storage = Storage::Cuda(storage);
        Ok(Tensor::from_storage(storage, shape, none, false))
    }

    /// A tensor outside the graph.
    pub(crate) fn tensor(self, shape: impl Into<Shape>) -> Tensor {
        let storage = Storage::Cuda(self.into_storage());
        Tensor::from_storage(storage, shape, candle_core::op::BackpropOp::none(), false)
    }
}

fn written<T>(slice: &mut candle_core::cuda_backend::cudarc::driver::CudaSlice<T>) {
    let stream = slice.stream().clone();
    let _ = slice.device_ptr_mut(&stream);
}

/// Where a storage of floating-point numbers begins; its stream waits for writers.
fn pointer(storage: &CudaStorage) -> Option<u64> {
    match &storage.slice {
        CudaStorageSlice::F32(s) => Some(s.device_ptr(s.stream()).0),
        CudaStorageSlice::F64(s) => Some(s.device_ptr(s.stream()).0),
        CudaStorageSlice::BF16(s) => Some(s.device_ptr(s.stream()).0),
        _ => None,
    }
}
