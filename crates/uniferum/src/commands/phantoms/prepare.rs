//! The phantoms, standardised.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use uniferum_ct::batch::{
    Event, OutputFormat, PrepareSettings, RunOptions, Sources, gather, plan, prepare, read_ledgers,
    write_table,
};
use uniferum_ct::prep::StandardiseConfig;

use crate::global::Global;

/// Standardises every scan of a table that was not done before; returns the table of the results.
pub(crate) fn standardised(
    table: &Path,
    folder: &Path,
    settings: &StandardiseConfig,
    what: &str,
    global: &Global,
) -> anyhow::Result<PathBuf> {
    let prepared = PrepareSettings {
        standardise: settings.clone(),
        format: OutputFormat::Cache,
    };
    let sources = Sources {
        inputs: vec![table.to_owned()],
        ..Sources::default()
    };
    let jobs = plan(gather(&sources)?.inputs, &prepared, false)?;
    let options = RunOptions {
        workers: global.threads,
        retry_failed: true,
        ..RunOptions::default()
    };
    let bar = global.bar(jobs.len() as u64, what);
    let summary = prepare(
        &jobs,
        &prepared,
        folder,
        &options,
        &mut |event| match event {
            Event::Checked { done, .. } => bar.set_position(done as u64),
            Event::Finished(row) => {
                if !row.error.is_empty() {
                    bar.suspend(|| global.warn(&row.error));
                }
                bar.inc(1);
            }
            _ => {}
        },
    )?;
    bar.finish_and_clear();
    ensure!(
        summary.failed == 0,
        "{} of {} phantoms could not be standardised; see {}",
        summary.failed,
        jobs.len(),
        folder.join("ledger.csv").display()
    );
    let ready = folder.join("labels.csv");
    write_table(table, &jobs, &prepared, &read_ledgers(folder)?, &ready)?;
    Ok(ready)
}
