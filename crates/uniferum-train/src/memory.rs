//! How much memory is in use.

use candle_core::Device;

/// Memory in use on a GPU in MiB.
pub(crate) fn gpu_mib(device: &Device) -> Option<f64> {
    let (used, _) = uniferum_kernels::gpu_memory(device)?;
    Some(used as f64 / f64::from(1 << 20))
}

/// Resident memory of this process in MiB, now and at its largest; `None` where the system does not say.
pub fn resident_mib() -> Option<(f64, f64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| -> Option<f64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((kib("VmRSS:")? / 1024.0, kib("VmHWM:")? / 1024.0))
}
