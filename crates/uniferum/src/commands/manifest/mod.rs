//! `uniferum manifest`: one table of scans, masks, patients, splits and labels from any collection.

mod collections;
mod merge;
mod output;
mod release;
mod split;
mod table;

use crate::global::Global;

/// Make a manifest: one table of scans, masks, patients, splits and labels
///
/// A manifest is what training, evaluation and preparation read. Each public collection has a
/// subcommand that reads its tables and folders as they are downloaded; `table` reads a table of your
/// own; `merge` puts manifests together and turns CSV into parquet or back.
///
/// Missing labels stay missing, censored outcomes are kept apart, and where Hounsfield units come from
/// is written down for each scan. What is left out is said on standard error.
///
/// Examples:
///   uniferum manifest ct-rate /data/CT-RATE --release v2 --out ct-rate.parquet
///   uniferum manifest inspect /data/inspect --out inspect.parquet --reports-out impressions.csv
///   uniferum manifest merge ct-rate.parquet inspect.parquet --out all.parquet
///   uniferum doctor all.parquet
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[command(subcommand)]
    source: Source,
}

/// Where a manifest comes from.
#[derive(Debug, clap::Subcommand)]
enum Source {
    CtRate(collections::CtRateArgs),
    RadChest(collections::RadChestArgs),
    Inspect(collections::InspectArgs),
    Luna16(collections::Luna16Args),
    Totalsegmentator(collections::TotalSegmentatorArgs),
    Table(Box<table::Args>),
    Release(release::Args),
    ReleaseConfig(release::ConfigArgs),
    Merge(merge::Args),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.source {
        Source::CtRate(args) => collections::ct_rate(args, global),
        Source::RadChest(args) => collections::rad_chest(args, global),
        Source::Inspect(args) => collections::inspect(args, global),
        Source::Luna16(args) => collections::luna16(args, global),
        Source::Totalsegmentator(args) => collections::totalsegmentator(args, global),
        Source::Table(args) => table::run(*args, global),
        Source::Release(args) => release::run(args, global),
        Source::ReleaseConfig(args) => release::config(args, global),
        Source::Merge(args) => merge::run(args, global),
    }
}
