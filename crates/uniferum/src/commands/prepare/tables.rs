//! The tables among the inputs, which come out again with the paths of the prepared files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use uniferum_ct::batch::{Job, PrepareSettings, read_ledgers, write_table};

use super::Args;
use crate::global::Global;

/// The tables among the inputs.
fn tables(args: &Args) -> impl Iterator<Item = &PathBuf> {
    let is_table = |path: &&PathBuf| {
        let ending = path.extension();
        ending.is_some_and(|end| end.eq_ignore_ascii_case("csv")) && path.is_file()
    };
    args.inputs.iter().filter(is_table)
}

/// Where a table comes out again.
fn result_of(table: &Path, out: &Path) -> PathBuf {
    out.join(table.file_name().unwrap_or_default())
}

/// Refuses tables that would come out under one name, or under a ledger's.
pub(super) fn check_tables(args: &Args) -> anyhow::Result<()> {
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
        let result = result_of(table, &args.out);
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
pub(super) fn write_tables(
    args: &Args,
    settings: &PrepareSettings,
    jobs: &[Job],
    global: &Global,
) -> anyhow::Result<()> {
    for table in tables(args) {
        let output = result_of(table, &args.out);
        let rows = read_ledgers(&args.out)?;
        let count = write_table(table, jobs, settings, &rows, &output)?;
        global.hint(format!("{}: {count} prepared scans", output.display()));
    }
    Ok(())
}

/// Removes the tables of results that an earlier run left.
pub(super) fn remove_tables(args: &Args) -> anyhow::Result<()> {
    for table in tables(args) {
        let stale = result_of(table, &args.out);
        if stale.exists() {
            std::fs::remove_file(&stale).with_context(|| stale.display().to_string())?;
        }
    }
    Ok(())
}
