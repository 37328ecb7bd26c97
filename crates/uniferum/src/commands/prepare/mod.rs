//! `uniferum prepare`: from scans as they come to a folder of standardised volumes.

mod progress;
mod settings;
mod tables;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use uniferum_ct::HuSource;
use uniferum_ct::batch::{
    Gathered, Input, Job, RunOptions, Sources, Summary, check_apart, gather, plan, prepare,
    scans_at_once,
};

use self::progress::Progress;
use self::settings::{Format, Steps, save_settings};
use self::tables::{check_tables, write_tables};
use super::shard::Part;
use super::tell_left_out;
use crate::global::Global;
use crate::hu::HuArg;

/// Standardise scans: RAS, 1 mm, body centred, lungs in view, one size
///
/// Takes scans, folders, DICOM folders, lists (.txt, a path a line) and tables (.csv with a column
/// `scan`, if wanted also `mask`, `nodules`, `hu_source`, `hu_slope`, `hu_intercept`, as `uniferum
/// manifest` writes them; `uniferum manifest merge` makes a .csv of a .parquet). Writes scans/, masks/
/// and nodules/ (bin/, seg/ and nodule_seg/ with --format bin), the settings (prepare.json), and a
/// ledger with a row a scan. A table comes out again with the paths of the prepared files, ready for
/// training.
///
/// Folders of results below an input, of masks that are named and of DICOM without a CT are passed over. A
/// folder with several DICOM series is an error: each wanted series needs a folder of its own.
///
/// Started again, it goes on where it was: scans whose files are there and unchanged are left alone.
/// The exit code is 1 if a scan could not be prepared; the ledger says why.
///
/// Examples:
///
///   uniferum prepare scans/ --out standardised
///
///   uniferum prepare manifest.csv --out standardised --shard 1/4
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Scans, folders, lists and tables
    #[arg(required = true, value_name = "IN")]
    inputs: Vec<PathBuf>,

    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Folder with TotalSegmentator masks named as the scans (also NAME_seg, NAME_mask): label maps, or
    /// folders with a file a class as `TotalSegmentator -o` writes them; for one scan also its folder of
    /// classes itself
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,

    /// Folder with nodule masks named as the scans
    #[arg(long, value_name = "DIR")]
    nodules: Option<PathBuf>,

    /// Prepare scans without a mask in these folders too, with a warning
    #[arg(long)]
    allow_missing_masks: bool,

    /// What is written: cache (compressed, checksummed, quickest to read), nifti, or the release's bin
    #[arg(long, value_enum, default_value_t = Format::Cache)]
    format: Format,

    #[command(flatten)]
    steps: Steps,

    /// Where the Hounsfield units of all scans come from [default: what the table's hu_source says of each,
    /// else the headers]
    #[arg(long, value_enum)]
    hu: Option<HuArg>,

    /// Table with VolumeName, RescaleSlope and RescaleIntercept for --hu table
    #[arg(long, value_name = "CSV")]
    hu_table: Option<PathBuf>,

    /// Keep the scans' folders below the input folder in the names of the results
    #[arg(long)]
    tree: bool,

    /// Prepare the i-th of n parts, for job arrays that share a folder; `rank`: the part of this process under
    /// mpirun, srun or torchrun
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = super::shard::parse)]
    shard: Part,

    /// Prepare a folder's scans again with other settings than those it was prepared with
    #[arg(long)]
    overwrite: bool,

    /// Try scans again that failed before
    #[arg(long)]
    retry_failed: bool,

    /// Look only at the sizes of finished files, do not check their hashes
    #[arg(long)]
    trust_sizes: bool,

    /// Scans in work at once, about 1 GiB each [default: as threads and free memory allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,

    /// List what would be read and written, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let settings = args.steps.settings(args.format)?;
    check_tables(&args)?;
    let Gathered { inputs, left_out } = gather(&sources(&args))?;
    tell_left_out(&left_out, global);
    ensure!(!inputs.is_empty(), "no scans found in {:?}", args.inputs);
    let by_table =
        |input: &Input| input.problem.is_some() || matches!(input.hu, HuSource::Table { .. });
    ensure!(
        args.hu_table.is_none() || inputs.iter().any(by_table),
        "--hu-table: no scan's Hounsfield units are said to come from it; expected --hu table beside it"
    );
    let jobs = plan(inputs, &settings, args.tree)?;
    if args.dry_run {
        return print_jobs(&jobs, &args);
    }
    check_apart(&jobs, &args.out)?;
    save_settings(&settings, &args)?;
    let options = RunOptions {
        workers: args
            .jobs
            .map_or_else(|| scans_at_once(global.threads), usize::from),
        retry_failed: args.retry_failed,
        trust_sizes: args.trust_sizes,
        shard: args.shard.shard,
    };
    let mut progress = Progress::new(global);
    let summary = prepare(&jobs, &settings, &args.out, &options, &mut |event| {
        progress.show(&event);
    })?;
    progress.end();
    progress.tell_warnings(&args.out);
    write_tables(&args, &settings, &jobs, global)?;
    report(&summary, &args, global)
}

fn sources(args: &Args) -> Sources {
    Sources {
        inputs: args.inputs.clone(),
        exclude: Some(args.out.clone()),
        pass_over_results: true,
        masks: args.masks.clone(),
        mask_classes: super::mask_classes(),
        nodules: args.nodules.clone(),
        allow_missing_masks: args.allow_missing_masks,
        hu: args.hu.map(Into::into),
        hu_table: args.hu_table.clone(),
    }
}

/// What this process would read and write.
fn print_jobs(jobs: &[Job], args: &Args) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let jobs = jobs.iter().enumerate();
    for (_, job) in jobs.filter(|(i, _)| args.shard.shard.has(*i)) {
        print_job(&mut out, job, &args.out)?;
    }
    Ok(())
}

fn print_job(text: &mut impl Write, job: &Job, out: &Path) -> std::io::Result<()> {
    let mut show =
        |from: &Path, to: &Path| writeln!(text, "{} -> {}", from.display(), out.join(to).display());
    show(&job.input.scan, &job.scan)?;
    let masks = [
        (&job.input.mask, &job.mask),
        (&job.input.nodules, &job.nodules),
    ];
    for (from, to) in masks {
        if let (Some(from), Some(to)) = (from, to) {
            show(from, to)?;
        }
    }
    match &job.input.problem {
        Some(problem) => writeln!(text, "  cannot be prepared: {problem}"),
        None => Ok(()),
    }
}

fn report(summary: &Summary, args: &Args, global: &Global) -> anyhow::Result<()> {
    let Summary {
        prepared,
        skipped,
        failed,
        failed_before,
        seconds,
    } = *summary;
    global.hint(format!(
        "{prepared} prepared in {seconds:.1} s, {skipped} were there, {} failed",
        failed + failed_before
    ));
    if failed + failed_before == 0 {
        return Ok(());
    }
    let retry = if failed_before > 0 {
        format!(" ({failed_before} of them before: --retry-failed tries them again)")
    } else {
        String::new()
    };
    bail!(
        "{} of {} scans could not be prepared{retry}; the ledger in {} says why",
        failed + failed_before,
        prepared + skipped + failed + failed_before,
        args.out.display()
    )
}
