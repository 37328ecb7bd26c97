//! Copies from page-locked memory and resampling, on a stream of their own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr, PinnedHostSlice, sys};
use candle_core::{CudaDevice, DType, Device, Error, Result, Tensor};

use super::table::Table;
use super::{Noise, OP, Patches, Resampling, Voxels};
use crate::cuda::{Arg, Buf, Gpu, Grid, Module, args, module};
use crate::error::invalid;

const MODULE: Module = module!("augment");

/// Device memory begins at multiples of 256 bytes, and tables behind voxels at multiples of this.
const ALIGNMENT: usize = 16;

/// Page-locked memory grows by this much at least: locking pages takes long.
const GROWTH: usize = 1 << 20;

pub(super) struct Inner {
    /// The device whose tensors are made.
    device: CudaDevice,
    /// The same GPU with another stream.
    loading: Gpu,
    buffers: Buffers,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

/// The driver's name for whichever stream is the calling thread's. Nothing would order what threads of such a
/// device hand over to each other.
const STREAM_OF_THREAD: usize = 2;

impl Inner {
    pub(super) fn of(device: &Device, buffers: usize) -> Result<Option<Self>> {
        let Device::Cuda(device) = device else {
            return Ok(None);
        };
        if device.cuda_stream().cu_stream() as usize == STREAM_OF_THREAD {
            let expected = "one with a stream for all threads, as DeviceChoice opens";
            let got = "a stream for each thread, as of Device::new_cuda";
            return Err(invalid(OP, "device", expected, got).into());
        }
        let ordinal = device.cuda_stream().context().ordinal();
        let loading = CudaDevice::new_with_stream(ordinal)?;
        // SAFETY: what this stream makes is handed over only after waiting for it, and freed by
        // the stream that uses it.
        unsafe { loading.disable_event_tracking() };
        Ok(Some(Self {
            device: device.clone(),
            loading: Gpu::on(OP, loading),
            buffers: Buffers::new(buffers),
        }))
    }

    pub(super) fn image(
        &self,
        volume: Voxels<'_, i16>,
        resampling: &Resampling,
        noise: &Noise,
    ) -> Result<Tensor> {
        check(volume.data.len(), volume.shape)?;
        let table = Table::new(volume.shape, resampling, noise, &[])?;
        let [x, y, z] = table.shape;
        let out = self.loading.uninit(DType::F32, x * y * z)?;
        let name = format!("augment_image_{}", suffix(&table));
        let grid = Grid::new(x * (y * z).div_ceil(512), 256);
        self.stage(bytes_of_i16(volume.data), &table, |[voxels, header]| {
            let list = args![Arg::Ptr(voxels), Arg::Ptr(header), &out];
            self.loading.launch(&MODULE, &name, grid, list)
        })?;
        out.hand_over(&self.device, (1, 1, x, y, z))
    }

    pub(super) fn mask(
        &self,
        mask: Voxels<'_, u8>,
        resampling: &Resampling,
        labels: &[[bool; 256]],
        patches: Patches,
    ) -> Result<Tensor> {
        check(mask.data.len(), mask.shape)?;
        let table = Table::new(mask.shape, resampling, &Noise::default(), labels)?;
        let outputs = patches.tokens.map(|n| n * patches.patch * patches.pool);
        if table.shape != outputs || labels.is_empty() {
            let expected = format!("{outputs:?} outputs for a set of labels");
            let got = format!("{:?} for {}", table.shape, labels.len());
            return Err(invalid(OP, "mask", expected, got).into());
        }
        let [length, cells] = patches.shape();
        let out: Buf = self
            .loading
            .zeros(DType::F32, labels.len() * length * cells)?;
        let name = format!("augment_mask_{}", suffix(&table));
        let grid = Grid::flat(table.shape.iter().product());
        self.stage(mask.data, &table, |[voxels, header]| {
            let [questions, patch, pool] =
                [labels.len(), patches.patch, patches.pool].map(|n| Arg::I32(n as i32));
            let mut list = args![Arg::Ptr(voxels), Arg::Ptr(header), &out].to_vec();
            list.extend([questions, patch, pool]);
            self.loading.launch(&MODULE, &name, grid, &list)
        })?;
        out.hand_over(&self.device, (labels.len(), length, cells))
    }

    /// Brings voxels and table to the device, runs `work` on their addresses and waits for it.
    fn stage(
        &self,
        voxels: &[u8],
        table: &Table,
        work: impl FnOnce([u64; 2]) -> Result<()>,
    ) -> Result<()> {
        let at = voxels.len().next_multiple_of(ALIGNMENT);
        let bytes = at + 4 * table.words.len();
        let stream = self.loading.stream();
        let context = stream.context();
        let mut buffer = self.buffers.take();
        let pinned = buffer.of(bytes, |n| {
            // SAFETY: plain bytes; those that are copied are written first.
            unsafe { context.alloc_pinned::<u8>(n) }.w()
        })?;
        let host = pinned.as_mut_slice().w()?;
        host[..voxels.len()].copy_from_slice(voxels);
        for (place, word) in host[at..bytes].chunks_exact_mut(4).zip(&table.words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        // SAFETY: as long as what is copied there.
        let mut staged: CudaSlice<u8> = unsafe { stream.alloc(bytes) }.w()?;
        let result = stream.memcpy_htod(&host[..bytes], &mut staged).w();
        let base = staged.device_ptr(&stream).0;
        let result = result.and_then(|()| work([base, base + at as u64]));
        // Sleeps, where the stream's own wait would keep a core busy. After a failure, too: the
        // buffer goes back to the others.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        let done = stream.record_event(Some(flags)).w()?;
        done.synchronize().w()?;
        result
    }
}

fn suffix(table: &Table) -> &'static str {
    if table.turned { "turned" } else { "straight" }
}

fn check(len: usize, shape: [usize; 3]) -> Result<()> {
    let voxels = shape.iter().try_fold(1usize, |n, s| n.checked_mul(*s));
    if voxels == Some(len) {
        return Ok(());
    }
    let expected = format!("{shape:?} voxels");
    Err(invalid(OP, "volume", expected, len).into())
}

fn bytes_of_i16(voxels: &[i16]) -> &[u8] {
    let (pointer, bytes) = (voxels.as_ptr().cast::<u8>(), size_of_val(voxels));
    // SAFETY: the same memory, as bytes, for as long.
    unsafe { std::slice::from_raw_parts(pointer, bytes) }
}

/// Page-locked buffers that several threads share.
struct Buffers {
    free: Mutex<Vec<Option<PinnedHostSlice<u8>>>>,
    returned: Condvar,
}

/// A buffer that goes back when it is dropped.
struct Buffer<'a> {
    pool: &'a Buffers,
    memory: Option<PinnedHostSlice<u8>>,
}

impl Buffers {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new((0..count).map(|_| None).collect()),
            returned: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<PinnedHostSlice<u8>>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a free one.
    fn take(&self) -> Buffer<'_> {
        let mut free = self.lock();
        loop {
            if let Some(memory) = free.pop() {
                return Buffer { pool: self, memory };
            }
            let woken = self.returned.wait(free);
            free = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Buffer<'_> {
    /// The buffer's memory, of `bytes` at least.
    fn of(
        &mut self,
        bytes: usize,
        allocate: impl FnOnce(usize) -> Result<PinnedHostSlice<u8>>,
    ) -> Result<&mut PinnedHostSlice<u8>> {
        if self.memory.as_ref().is_none_or(|m| m.len() < bytes) {
            // The old one first: both need not fit.
            self.memory = None;
            self.memory = Some(allocate(bytes.next_multiple_of(GROWTH))?);
        }
        let gone = || Error::Msg(format!("{OP}: no page-locked memory"));
        self.memory.as_mut().ok_or_else(gone)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        self.pool.lock().push(self.memory.take());
        self.pool.returned.notify_one();
    }
}
