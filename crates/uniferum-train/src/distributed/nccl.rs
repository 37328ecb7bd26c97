//! Processes with a GPU each, over NVIDIA's NCCL.

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr};
use candle_core::cuda_backend::cudarc::nccl::result::NcclError;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, NcclType, ReduceOp};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Storage, Tensor};

use super::meeting::Meeting;
use super::{Communicator, Launch};
use crate::error::{Error, Result};

/// All processes of a job, one GPU each. Gradients are summed on the GPUs and never reach the host.
///
/// A process that dies leaves the others waiting in their next sum: NCCL has no time limit. `mpirun`,
/// `srun` and `torchrun` end a job one of whose processes has failed.
#[derive(Debug)]
pub struct Nccl {
    comm: Comm,
}

impl Nccl {
    /// Joins the other processes of the launch, with the GPU that this one computes on.
    ///
    /// # Errors
    /// [`Error::Distributed`] when the processes do not find each other, share a GPU, or NCCL fails.
    pub fn new(launch: &Launch, device: &Device) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let id = Meeting::from_env(launch)?.share(|| {
            let id = Id::new().map_err(|e| failed("no id", e))?;
            // A C `char` is signed on some machines.
            Ok(id.internal().map(|c| c as u8))
        })?;
        let id = Id::uninit(id.map(|b| b as std::ffi::c_char));
        bind(&stream)?;
        let comm = Comm::from_rank(stream, launch.rank, launch.world, id).map_err(|e| {
            let what = "the processes could not be connected (each needs a GPU of its own; \
                        NCCL_DEBUG=INFO says more)";
            failed(what, e)
        })?;
        Ok(Self { comm })
    }

    /// Sums values of the host by way of the GPU.
    fn sum_host<T: NcclType + DeviceRepr>(&self, values: &mut [T]) -> Result<()> {
        let stream = self.comm.stream();
        let driver = |e| Error::Distributed(format!("copying to or from the GPU: {e}"));
        let mut there = stream.clone_htod(&*values).map_err(driver)?;
        self.comm
            .all_reduce_in_place(&mut there, &ReduceOp::Sum)
            .map_err(|e| failed("a sum over the processes failed", e))?;
        stream.memcpy_dtoh(&there, values).map_err(driver)?;
        stream.synchronize().map_err(driver)
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.comm.rank()
    }

    fn world(&self) -> usize {
        self.comm.world_size()
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        self.sum_host(values)
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        self.sum_host(values)
    }

    fn sum_tensor(&self, values: &Tensor) -> Result<Tensor> {
        let device = values.device().as_cuda_device()?.clone();
        let values = values.to_dtype(DType::F32)?.contiguous()?;
        let (storage, layout) = values.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Err(Error::Distributed("a tensor that is on no GPU".to_owned()));
        };
        let start = layout.start_offset();
        let own = storage.as_cuda_slice::<f32>()?;
        let own = own.slice(start..start + values.elem_count());
        let mut sum = device.alloc_zeros::<f32>(values.elem_count())?;
        bind(&self.comm.stream())?;
        self.comm
            .all_reduce(&own, &mut sum, &ReduceOp::Sum)
            .map_err(|e| failed("a sum over the processes failed", e))?;
        let sum = Storage::Cuda(CudaStorage::wrap_cuda_slice(sum, device));
        let none = BackpropOp::none();
        Ok(Tensor::from_storage(sum, values.shape(), none, false))
    }
}

/// Makes the stream's GPU the one that NCCL's calls of this thread mean.
fn bind(stream: &Arc<CudaStream>) -> Result<()> {
    let bound = stream.context().bind_to_thread();
    bound.map_err(|e| Error::Distributed(format!("the GPU cannot be used: {e}")))
}

fn failed(what: &str, error: NcclError) -> Error {
    Error::Distributed(format!("NCCL: {what}: {:?}", error.0))
}
