//! Choosing the device to compute on.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;

use crate::error::{Error, Result, invalid};

/// What `--device` names.
///
/// ```
/// use uniferum_kernels::DeviceChoice;
/// assert_eq!("cuda:1".parse::<DeviceChoice>()?, DeviceChoice::Cuda(1));
/// assert!("auto".parse::<DeviceChoice>()?.open().is_ok());
/// # Ok::<(), uniferum_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU if there is one that works, else the CPU.
    #[default]
    Auto,
    /// The host's processor.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// A GPU is opened with one stream for all threads, and keeps the memory that tensors give
    /// back for the next ones.
    ///
    /// # Errors
    /// [`Error::NoDevice`] when a GPU was asked for by number and this build has no CUDA, there is
    /// no driver, or no such GPU.
    pub fn open(self) -> Result<Device> {
        self.open_for(0)
    }

    /// Opens the device for one of several processes of a machine, numbered from 0: `auto` deals
    /// the GPUs out in turns, every other choice is the same for all of them.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_for(self, process: usize) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(cuda(process % gpus().max(1)).unwrap_or(Device::Cpu)),
            Self::Cuda(number) => cuda(number).map_err(|reason| Error::NoDevice {
                device: self.to_string(),
                reason,
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = match name {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        number
            .map(Self::Cuda)
            .ok_or_else(|| invalid("device", "name", "auto, cpu or cuda:N", name))
    }
}

/// Memory in use on a GPU and all that it has, in bytes; `None` for the CPU.
///
/// What other processes use counts, and so does what is kept for the tensors to come.
#[cfg(not(feature = "cuda"))]
pub fn gpu_memory(_: &Device) -> Option<(usize, usize)> {
    None
}

/// Memory in use on a GPU and all that it has, in bytes; `None` for the CPU.
///
/// What other processes use counts, and so does what is kept for the tensors to come.
#[cfg(feature = "cuda")]
pub fn gpu_memory(device: &Device) -> Option<(usize, usize)> {
    let stream = device.as_cuda_device().ok()?.cuda_stream();
    let (free, total) = stream.context().mem_get_info().ok()?;
    Some((total.saturating_sub(free), total))
}

/// GPUs that this process can see.
#[cfg(not(feature = "cuda"))]
fn gpus() -> usize {
    0
}

#[cfg(feature = "cuda")]
fn gpus() -> usize {
    use candle_core::cuda_backend::cudarc::driver::CudaContext;
    let count = CudaContext::device_count().unwrap_or(0);
    usize::try_from(count).unwrap_or(0)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> std::result::Result<Device, String> {
    Err("this build has no CUDA; build it with `--features cuda`".into())
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> std::result::Result<Device, String> {
    use candle_core::CudaDevice;
    // Backtraces in candle's messages say nothing to who has no driver.
    let first_line = |error: &dyn fmt::Display| {
        let message = error.to_string();
        message.lines().next().unwrap_or_default().to_owned()
    };
    let device = CudaDevice::new_with_stream(number).map_err(|error| {
        let reason = first_line(&error);
        format!("{reason} (is the NVIDIA driver loaded, and is there a GPU {number}?)")
    })?;
    // SAFETY: all tensors of this device live on its one stream, which orders their uses.
    unsafe { device.disable_event_tracking() };
    keep_memory(&device);
    Ok(Device::Cuda(device))
}

/// Lets the driver's pool keep what tensors free; by default each wait for the device gives it
/// back to the system, and the next step asks for it again.
#[cfg(feature = "cuda")]
fn keep_memory(device: &candle_core::CudaDevice) {
    use candle_core::cuda_backend::cudarc::driver::sys;
    let stream = device.cuda_stream();
    let mut pool = std::ptr::null_mut();
    let mut threshold = u64::MAX;
    // SAFETY: both are asked of the device that the stream is of, with places of the types that
    // the driver's documentation names. A driver without pools refuses, which changes nothing.
    unsafe {
        let own = stream.context().cu_device();
        if sys::cuDeviceGetDefaultMemPool(&mut pool, own) == sys::CUresult::CUDA_SUCCESS {
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let place = std::ptr::from_mut(&mut threshold).cast();
            let _ = sys::cuMemPoolSetAttribute(pool, attribute, place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["auto", "cpu", "cuda:0", "cuda:7"] {
            let choice: DeviceChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
        assert_eq!(
            "cuda".parse::<DeviceChoice>().unwrap(),
            DeviceChoice::Cuda(0)
        );
        for name in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
            let error = name.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains("cuda:N"), "{error}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_says_so() {
        assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
        assert_eq!(gpu_memory(&Device::Cpu), None);
        let error = DeviceChoice::Cuda(4096).open().unwrap_err().to_string();
        assert!(error.contains("cuda:4096"), "{error}");
        let reason = if cfg!(feature = "cuda") {
            "driver"
        } else {
            "--features cuda"
        };
        assert!(error.contains(reason), "{error}");
    }
}
