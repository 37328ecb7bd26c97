//! `uniferum prepare`: from scans as they come to a folder of standardised volumes.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use serde_json::Value;
use uniferum_ct::batch::{
    Event, Gathered, HuChoice, Input, Job, LedgerRow, OutputFormat, PrepareSettings, RunOptions,
    Sources, Summary, check_apart, gather, has_writer, plan, prepare, read_ledgers, scans_at_once,
    write_table,
};
use uniferum_ct::resample::Interpolation;
use uniferum_ct::{Compat, HuSource, StandardiseConfig, replace_atomically};
use uniferum_data::changes;

use super::shard::Part;
use super::tell_left_out;
use crate::global::Global;
use crate::shape::Shape;

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

    /// Where the Hounsfield units of all scans come from: the headers, a table's slope and intercept, or
    /// stored as HU [default: what the table's hu_source says of each, else the headers]
    #[arg(long, value_enum)]
    hu: Option<Hu>,

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

/// How scans are standardised.
#[derive(Debug, clap::Args)]
struct Steps {
    /// The steps of the paper, or those of its public release, voxel for voxel
    #[arg(long, value_enum, default_value_t = CompatArg::Paper)]
    compat: CompatArg,

    /// Where the lungs' z range comes from when there is no mask: nowhere, or an estimate from the air
    /// inside the body
    #[arg(long, value_enum, default_value_t = Lungs::Mask)]
    lungs: Lungs,

    /// Interpolation of the scan [default: cubic]
    #[arg(long, value_enum)]
    interpolation: Option<InterpolationArg>,

    /// Voxels of the results, or `body` for as many as the body needs [default: 416x336x256; release:
    /// body]
    #[arg(long, value_name = "XxYxZ|body")]
    size: Option<Size>,

    /// All settings from the prepare.json of another folder instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compat", "lungs", "interpolation", "size", "format"])]
    settings: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Cache,
    Nifti,
    Bin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompatArg {
    Paper,
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lungs {
    /// From the mask only; without one the whole z range of the body is kept
    Mask,
    /// Estimated where no mask shows them
    Estimate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InterpolationArg {
    Linear,
    Cubic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hu {
    Header,
    Table,
    Already,
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Fixed(Shape),
    Body,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "body" {
            return Ok(Size::Body);
        }
        text.parse().map(Size::Fixed)
    }
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let settings = settings(&args)?;
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
        let shard = jobs
            .iter()
            .enumerate()
            .filter(|(i, _)| args.shard.shard.has(*i));
        let mut out = std::io::stdout().lock();
        for (_, job) in shard {
            print_job(&mut out, job, &args.out)?;
        }
        return Ok(());
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

fn settings(args: &Args) -> anyhow::Result<PrepareSettings> {
    let steps = &args.steps;
    if let Some(file) = &steps.settings {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        return serde_json::from_str(&text).with_context(|| file.display().to_string());
    }
    let mut standardise = match steps.compat {
        CompatArg::Paper => StandardiseConfig::default(),
        CompatArg::Release => StandardiseConfig::release(),
    };
    if standardise.compat == Compat::Release {
        ensure!(
            steps.lungs == Lungs::Mask && steps.interpolation.is_none(),
            "--compat release has its own interpolation and no lung estimate"
        );
    }
    standardise.estimate_lungs = steps.lungs == Lungs::Estimate;
    match steps.interpolation {
        Some(InterpolationArg::Linear) => standardise.interpolation = Interpolation::Linear,
        Some(InterpolationArg::Cubic) => standardise.interpolation = Interpolation::Cubic,
        None => {}
    }
    match steps.size {
        Some(Size::Fixed(shape)) => standardise.size = Some(shape.0),
        Some(Size::Body) => standardise.size = None,
        None => {}
    }
    Ok(PrepareSettings {
        standardise,
        format: match args.format {
            Format::Cache => OutputFormat::Cache,
            Format::Nifti => OutputFormat::Nifti,
            Format::Bin => OutputFormat::Bin,
        },
    })
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
        hu: args.hu.map(|hu| match hu {
            Hu::Header => HuChoice::Header,
            Hu::Table => HuChoice::Table,
            Hu::Already => HuChoice::AlreadyHu,
        }),
        hu_table: args.hu_table.clone(),
    }
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

fn save_settings(settings: &PrepareSettings, args: &Args) -> anyhow::Result<()> {
    let out = args.out.as_path();
    let path = out.join(PrepareSettings::FILE_NAME);
    let text = serde_json::to_string_pretty(settings)? + "\n";
    let before = std::fs::read_to_string(&path).ok();
    if before.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    ensure!(
        before.is_none() || args.overwrite,
        "{}: has other settings, its scans would all be prepared again{}; expected those, another --out, or \
         --overwrite",
        path.display(),
        told_apart(before.as_deref().unwrap_or_default(), &text)
    );
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    if before.is_some() {
        if has_writer(out) {
            // Another part of the same run may have been quicker.
            let now = std::fs::read_to_string(&path).ok();
            ensure!(
                now.as_deref() == Some(text.as_str()),
                "{}: another run is preparing scans there with other settings",
                out.display()
            );
            return Ok(());
        }
        // Until all is done they would list volumes of both settings.
        for table in tables(args) {
            let stale = out.join(table.file_name().unwrap_or_default());
            if stale.exists() {
                std::fs::remove_file(&stale).with_context(|| stale.display().to_string())?;
            }
        }
    }
    // By way of another file, as shards may start at the same time.
    replace_atomically(&path, ".part", |p| std::fs::write(p, text))
        .with_context(|| path.display().to_string())
}

/// What the settings of a folder differ in from those that are given, if they can be read.
fn told_apart(before: &str, now: &str) -> String {
    let Ok(before @ Value::Object(_)) = serde_json::from_str(before) else {
        return String::new();
    };
    let now = serde_json::from_str(now).unwrap_or_default();
    let differ = changes("", &before, &now, &[]);
    match differ.is_empty() {
        true => String::new(),
        false => format!(" ({})", differ.join("; ")),
    }
}

fn tables(args: &Args) -> impl Iterator<Item = &PathBuf> {
    let is_table = |path: &&PathBuf| {
        let ending = path.extension();
        ending.is_some_and(|end| end.eq_ignore_ascii_case("csv")) && path.is_file()
    };
    args.inputs.iter().filter(is_table)
}

/// Refuses tables that would come out under one name, or under a ledger's.
fn check_tables(args: &Args) -> anyhow::Result<()> {
    let mut names = BTreeSet::new();
    for table in tables(args) {
        let name = table.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        ensure!(
            !name.starts_with("ledger"),
            "{}: expected a table of another name: ledger*.csv are this command's own",
            table.display()
        );
        ensure!(
            names.insert(name),
            "{}: expected tables of different names: each comes out under its own in {}",
            table.display(),
            args.out.display()
        );
        let result = args.out.join(table.file_name().unwrap_or_default());
        let same = result.canonicalize().ok().zip(table.canonicalize().ok());
        ensure!(
            same.is_none_or(|(result, table)| result != table),
            "{}: expected another --out: the table of the prepared scans would replace it",
            table.display()
        );
    }
    Ok(())
}

/// The tables among the inputs, with the paths of the prepared files.
fn write_tables(
    args: &Args,
    settings: &PrepareSettings,
    jobs: &[Job],
    global: &Global,
) -> anyhow::Result<()> {
    for table in tables(args) {
        let output = args.out.join(table.file_name().unwrap_or_default());
        let rows = read_ledgers(&args.out)?;
        let count = write_table(table, jobs, settings, &rows, &output)?;
        global.hint(format!("{}: {count} prepared scans", output.display()));
    }
    Ok(())
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

/// A bar with rate and time left.
struct Progress<'a> {
    global: &'a Global,
    bar: Option<ProgressBar>,
    finished: usize,
    failed: usize,
    warned: usize,
    start: Instant,
}

impl<'a> Progress<'a> {
    fn new(global: &'a Global) -> Self {
        Self {
            global,
            bar: None,
            finished: 0,
            failed: 0,
            warned: 0,
            start: Instant::now(),
        }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Started(count) => self.global.hint(format!("{count} scans")),
            Event::Checked {
                done,
                failed_before,
                todo,
            } => {
                if done + failed_before > 0 {
                    self.global.hint(format!(
                        "{done} are there, {failed_before} failed before, {todo} to prepare"
                    ));
                }
                self.start = Instant::now();
                self.bar = Some(self.global.bar(*todo as u64, "prepare"));
            }
            Event::Finished(row) => self.finished(row),
            _ => {}
        }
    }

    fn finished(&mut self, row: &LedgerRow) {
        self.finished += 1;
        self.failed += usize::from(row.failed());
        self.warned += usize::from(!row.warnings.is_empty());
        let Some(bar) = &self.bar else { return };
        if row.failed() {
            bar.suspend(|| self.global.warn(&row.error));
        }
        let per_minute = 60.0 * self.finished as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        bar.set_message(format!("{per_minute:.1} scans/min, {} failed", self.failed));
        bar.inc(1);
    }

    /// Warnings are the ledger's; here only that there are some.
    fn tell_warnings(&self, out: &Path) {
        if self.warned > 0 {
            let (count, out) = (self.warned, out.display());
            let text = format!("{count} scans have warnings, in the ledger in {out}");
            self.global.hint(text);
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
