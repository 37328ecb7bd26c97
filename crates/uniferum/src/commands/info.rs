//! `uniferum info`: what a bug report should start with.

use candle_core::DeviceLocation;
use uniferum_kernels::DeviceChoice;
use uniferum_kernels::simd::Simd;

use crate::global::Global;

/// Print version, threads, processor features, and the instruction set and the device that are taken
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args, global: &Global) -> anyhow::Result<()> {
    println!("uniferum {}", env!("CARGO_PKG_VERSION"));
    println!(
        "system   {} {}",
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    println!("threads  {}", global.threads);
    println!("simd     {}", simd_features().join(" "));
    let used = Simd::requested()?.unwrap_or_else(Simd::detect);
    println!("kernels  {}", used.name());
    match DeviceChoice::Auto.open()?.location() {
        DeviceLocation::Cpu => println!("device   cpu"),
        DeviceLocation::Cuda { gpu_id } => println!("device   cuda:{gpu_id}"),
        other => println!("device   {other:?}"),
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
