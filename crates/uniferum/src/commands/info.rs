//! `uniferum info`: what a bug report should start with.

use crate::global::Global;

/// Print version, threads and the processor features that the kernels can use
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
    vec!["portable"]
}
