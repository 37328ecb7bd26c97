//! How near each operation comes to what the machine can do, as a Markdown table:
//! `cargo bench -p uniferum-kernels --bench roofline`.
//!
//! The bound of an operation is the larger of its arithmetic at the peak rate and of its inputs
//! and outputs at the rate of a copy, both measured first.

mod common;
#[path = "common/peak.rs"]
mod peak;

use std::time::Instant;

/// Seconds that an operation is repeated for, and the fewest repetitions.
const SECONDS: f64 = 0.7;
const FEWEST: usize = 3;

fn main() {
    let (f32_peak, bandwidth) = (peak::f32_flops(), peak::copy_bytes());
    let bf16_peak = peak::bf16_flops();
    println!("f32 peak {:.0} GFLOP/s", f32_peak * 1e-9);
    if let Some(peak) = bf16_peak {
        println!("bf16 peak {:.0} GFLOP/s", peak * 1e-9);
    }
    println!("copy {:.1} GB/s\n", bandwidth * 1e-9);
    println!("| operation | size | ms | GFLOP/s | GB/s | of the bound | bound by |");
    println!("|---|---|---:|---:|---:|---:|---|");
    for make in common::cases() {
        for mut case in make() {
            let seconds = median(&mut case.run);
            let peak = if case.bf16 { bf16_peak } else { None }.unwrap_or(f32_peak);
            let (arithmetic, memory) = (case.flop / peak, case.bytes / bandwidth);
            println!(
                "| {} | {} | {:.2} | {:.1} | {:.1} | {:.0} % | {} |",
                case.name,
                case.size,
                seconds * 1e3,
                case.flop / seconds * 1e-9,
                case.bytes / seconds * 1e-9,
                100.0 * arithmetic.max(memory) / seconds,
                if arithmetic > memory {
                    "arithmetic"
                } else {
                    "memory"
                },
            );
        }
    }
}

fn median(run: &mut dyn FnMut() -> candle_core::Result<()>) -> f64 {
    let mut once = || {
        let start = Instant::now();
        run().expect("the operation fits its input");
        start.elapsed().as_secs_f64()
    };
    once();
    let begun = Instant::now();
    let mut seconds = Vec::new();
    while seconds.len() < FEWEST || begun.elapsed().as_secs_f64() < SECONDS {
        seconds.push(once());
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
