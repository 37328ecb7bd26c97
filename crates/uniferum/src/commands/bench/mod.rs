//! `uniferum bench`: the speed of one part on this machine, as one line of JSON.

mod line;
mod prepare;

use crate::global::Global;

/// Measure the speed of a part on this machine; prints one line of JSON
///
/// The line has the fields bench, median_s, min_s, max_s, peak_rss_mib, gflop, threads, dtype and simd.
/// Nothing is downloaded: inputs are synthetic unless files are given.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Part,
}

/// What is measured, a file each.
#[derive(Debug, clap::Subcommand)]
enum Part {
    Prepare(prepare::Args),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.part {
        Part::Prepare(args) => prepare::run(args, global),
    }
}
