//! Timing, peak memory, and the line that every benchmark prints.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use crate::global::Global;

/// Seconds of repeated runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    median: f64,
    min: f64,
    max: f64,
}

impl Timing {
    /// Calls `work` once to warm up and then `runs` times.
    ///
    /// The process's peak memory is counted from the first call on, where the system allows it to be
    /// reset: making the input is no part of the measurement.
    pub(crate) fn of(
        runs: usize,
        mut work: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        reset_peak();
        work()?;
        let mut seconds = Vec::with_capacity(runs.max(1));
        for _ in 0..runs.max(1) {
            let start = Instant::now();
            work()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let n = seconds.len();
        Ok(Self {
            median: (seconds[(n - 1) / 2] + seconds[n / 2]) / 2.0,
            min: seconds[0],
            max: seconds[n - 1],
        })
    }
}

/// The fields of the line, in their order.
#[derive(Debug, Serialize)]
struct Line<'a> {
    bench: &'a str,
    median_s: f64,
    min_s: f64,
    max_s: f64,
    /// Largest resident set since the first run; `null` where the system does not tell.
    peak_rss_mib: Option<f64>,
    /// Floating-point operations of one run in units of 1e9; `null` where they mean nothing.
    gflop: Option<f64>,
    threads: usize,
    dtype: &'a str,
    simd: &'a str,
}

/// Prints the one line of a benchmark to standard output.
pub(crate) fn emit(
    bench: &str,
    timing: Timing,
    gflop: Option<f64>,
    dtype: &str,
    global: &Global,
) -> anyhow::Result<()> {
    let line = Line {
        bench,
        median_s: timing.median,
        min_s: timing.min,
        max_s: timing.max,
        peak_rss_mib: peak_rss_mib(),
        gflop,
        threads: global.threads,
        dtype,
        simd: uniferum_kernels::simd::Simd::detect().name(),
    };
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &line)?;
    writeln!(out)?;
    Ok(())
}

/// Forgets the peak of the resident set so far (Linux; elsewhere the whole life of the process counts).
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident set since the last reset.
fn peak_rss_mib() -> Option<f64> {
    uniferum_train::resident_mib().map(|(_, peak)| peak)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_to_warm_up_and_the_middle_of_the_rest() {
        let mut calls = 0;
        let timing = Timing::of(4, || {
            calls += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(calls, 5);
        assert!(timing.min <= timing.median && timing.median <= timing.max);
        assert!(Timing::of(3, || anyhow::bail!("no")).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_is_told_in_mib() {
        let before = peak_rss_mib().unwrap();
        let block = std::hint::black_box(vec![1u8; 64 << 20]);
        let after = peak_rss_mib().unwrap();
        drop(block);
        assert!(after >= 64.0 && after >= before, "{before} and {after}");
    }
}
