//! `uniferum doctor`: what is wrong with a manifest, before anybody trains on it.

use std::io::Write;
use std::path::PathBuf;

use uniferum_data::doctor::{Check, DoctorOptions, Voxels, examine};

use super::tasks_file::TasksFile;
use crate::global::Global;
use crate::output::Format;
use crate::progress::counted;

/// Examine a manifest: patient leaks, duplicates, missing and damaged files, Hounsfield units, labels
///
/// Errors are what would make results wrong or a run fail: a patient in two splits, equal voxels in two
/// splits, files that are missing or damaged, label columns that do not exist, heads among chests,
/// values that cannot be Hounsfield units, masks that do not fit. Warnings are what a person should know:
/// censored outcomes, tasks with one class, unusual geometry. Exits with 1 when there are errors.
///
/// Every scan is read, which takes about a second each; --sample and --no-voxels read fewer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest, CSV or parquet
    manifest: PathBuf,

    /// The group whose label names plain columns have; columns named by task id need none
    #[arg(long, default_value = "ct-rate")]
    group: String,

    #[command(flatten)]
    tasks_file: TasksFile,

    /// A task or group that must have labels or masks; may be given several times
    #[arg(long = "needs", value_name = "TASK")]
    tasks: Vec<String>,

    /// A list of scans without a chest, one path or name a line
    #[arg(long, value_name = "FILE")]
    no_chest: Option<PathBuf>,

    /// Look at tables and file names only
    #[arg(long, conflicts_with = "sample")]
    no_voxels: bool,

    /// Read only so many scans, spread over the manifest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    sample: Option<u64>,

    /// Write a manifest without the scans that have errors; patients in two splits stay
    #[arg(long, value_name = "FILE")]
    clean: Option<PathBuf>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Findings of each kind to print as text
    #[arg(long, default_value_t = 20, value_name = "N")]
    most: usize,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let catalogue = args.tasks_file.catalogue()?;
    let options = DoctorOptions {
        voxels: match (args.no_voxels, args.sample) {
            (true, _) => Voxels::None,
            (_, Some(n)) => Voxels::Sample(n as usize),
            _ => Voxels::All,
        },
        no_chest: args.no_chest,
        tasks: args.tasks,
    };
    let bar = global.bar(0, "scans");
    let progress = counted(&bar);
    let found = examine(&args.manifest, &catalogue, &args.group, &options, progress)?;
    bar.finish_and_clear();
    if let Some(path) = &args.clean {
        let clean = found.clean();
        clean.write(path)?;
        global.hint(format!(
            "{}: {} scans, {} left out",
            path.display(),
            clean.scans.len(),
            found.unusable().len()
        ));
        if found.findings.iter().any(|f| f.check == Check::PatientLeak) {
            global.warn(
                "patients in two splits stay as they are: which split is right, a person must say",
            );
        }
    }
    args.format.print(&found, |out, found| {
        write!(out, "{}", found.text(args.most))
    })?;
    anyhow::ensure!(
        found.errors == 0,
        "{}: {} errors",
        args.manifest.display(),
        found.errors
    );
    Ok(())
}
