//! `uniferum bench`: the speed of one part on this machine, as one line of JSON.

mod ask;
mod encoder;
mod line;
mod model;
mod prepare;
mod train_step;

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
    Encoder(encoder::Args),
    TrainStep(train_step::Args),
    Ask(ask::Args),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.part {
        Part::Prepare(args) => prepare::run(args, global),
        Part::Encoder(args) => encoder::run(args, global),
        Part::TrainStep(args) => train_step::run(args, global),
        Part::Ask(args) => ask::run(args, global),
    }
}
