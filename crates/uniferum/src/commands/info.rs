//! `uniferum info`: what a bug report should start with.

use std::io::Write;

use candle_core::DeviceLocation;
use uniferum_kernels::DeviceChoice;
use uniferum_kernels::simd::Simd;

use crate::global::Global;

/// Print version, threads, processor features, and the instruction set and the device that are taken
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, global: &Global) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    writeln!(out, "uniferum {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "system   {os} {arch}")?;
    writeln!(out, "threads  {}", global.threads)?;
    writeln!(out, "simd     {}", simd_features().join(" "))?;
    let used = Simd::requested()?.unwrap_or_else(Simd::detect);
    writeln!(out, "kernels  {}", used.name())?;
    match DeviceChoice::Auto.open()?.location() {
        DeviceLocation::Cpu => writeln!(out, "device   cpu")?,
        DeviceLocation::Cuda { gpu_id } => writeln!(out, "device   cuda:{gpu_id}")?,
        other => writeln!(out, "device   {other:?}")?,
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn simd_features() -> Vec<&'static str> {
    let all = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn simd_features() -> Vec<&'static str> {
    Vec::new()
}
