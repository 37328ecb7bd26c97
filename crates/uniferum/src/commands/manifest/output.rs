//! What every subcommand writes and says.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use uniferum_data::collections::{Absent, Collected, Report};
use uniferum_data::{Manifest, Split};

use crate::global::Global;

/// Where a collection's manifest goes.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// The manifest to write: .parquet, or CSV under any other name
    #[arg(long, value_name = "FILE")]
    pub(super) out: PathBuf,

    /// What to do with rows whose scan has no file
    #[arg(long, value_enum, default_value_t = Missing::Drop)]
    missing: Missing,

    /// Also write the collection's reports as CSV (id, patient, report), for `uniferum label-reports`
    #[arg(long, value_name = "FILE")]
    reports_out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Missing {
    /// Leave the row out and count it: a partial download
    Drop,
    /// Keep the row: the files come later
    Keep,
    /// Fail with the first one
    Stop,
}

impl Output {
    pub(super) fn absent(&self) -> Absent {
        match self.missing {
            Missing::Drop => Absent::Drop,
            Missing::Keep => Absent::Keep,
            Missing::Stop => Absent::Stop,
        }
    }

    /// Writes everything, and says on standard error what was left out.
    pub(super) fn write(
        &self,
        found: &Collected,
        tasks_file: Option<&Path>,
        global: &Global,
    ) -> anyhow::Result<()> {
        for note in &found.notes {
            global.hint(format!("note: {note}"));
        }
        if let Some(path) = &self.reports_out {
            anyhow::ensure!(!found.reports.is_empty(), "the collection has no reports");
            write_reports(path, &found.reports)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        write(&self.out, &found.manifest, tasks_file, global)
    }
}

/// Writes a manifest and prints what is in it; `tasks_file` has tasks that its labels are of.
pub(super) fn write(
    path: &Path,
    manifest: &Manifest,
    tasks_file: Option<&Path>,
    global: &Global,
) -> anyhow::Result<()> {
    anyhow::ensure!(
        !manifest.scans.is_empty(),
        "no scan is left: nothing was written"
    );
    manifest.write(path)?;
    let mut out = std::io::stdout().lock();
    let patients: BTreeSet<&str> = manifest.scans.iter().map(|s| s.patient.as_str()).collect();
    let of = Split::ALL.map(|s| format!("{} {s}", manifest.of(s).len()));
    writeln!(
        out,
        "{}: {} scans ({}) of {} patients, {} label columns, {} masks, {} nodule masks",
        path.display(),
        manifest.scans.len(),
        of.join(", "),
        patients.len(),
        manifest.task_ids().len(),
        manifest.scans.iter().filter(|s| s.mask.is_some()).count(),
        manifest
            .scans
            .iter()
            .filter(|s| s.nodules.is_some())
            .count(),
    )?;
    let own = tasks_file.map_or(String::new(), |f| format!(" --tasks-file {}", f.display()));
    global.hint(format!("next: uniferum doctor {}{own}", path.display()));
    Ok(())
}

fn write_reports(path: &Path, reports: &[Report]) -> anyhow::Result<()> {
    let mut out = csv::Writer::from_path(path)?;
    out.write_record(["id", "patient", "report"])?;
    for report in reports {
        out.write_record([&report.id, &report.patient, &report.text])?;
    }
    out.flush()?;
    Ok(())
}
