//! The collection's own table, pointing to the prepared files.

use std::collections::BTreeMap;
use std::path::Path;

use super::gather::{HuChoice, INTERCEPTS, SLOPES};
use super::job::{Job, PrepareSettings};
use super::ledger::LedgerRow;
use super::one::has_settings;
use crate::error::{Error, Result};
use crate::io::atomic::write_atomically;
use crate::io::read_separated;

/// Copies a table (CSV with a column `scan`) into the output folder with the paths of the prepared
/// files in its columns `scan`, `mask` and `nodules`; scans that are not prepared, or by other settings, are left
/// out.
///
/// Prepared files are in HU and have the spacing of the settings: `hu_source`, where there is one, becomes
/// `already_hu`, and the columns of slope, intercept and `spacing_mm` are left empty.
///
/// `rows` are those of [`read_ledgers`](super::read_ledgers). Returns the number of rows written.
///
/// # Errors
/// [`Error::Io`]; [`Error::Field`] for a table that cannot be read or has no column `scan`.
pub fn write_table(
    table: &Path,
    jobs: &[Job],
    settings: &PrepareSettings,
    rows: &BTreeMap<String, LedgerRow>,
    output: &Path,
) -> Result<usize> {
    let fail = |e: csv::Error| Error::field(table, "table", "CSV with a head", e);
    let wrong = |e: String| Error::field(table, "table", "CSV with a head", e);
    let mut reader = read_separated(table).map_err(wrong)?;
    let head = reader.headers().map_err(fail)?.clone();
    let find = |name: &str| head.iter().position(|h| h.trim() == name);
    let Some(scan) = find("scan").or_else(|| find("img_file_path")) else {
        let have: Vec<&str> = head.iter().collect();
        return Err(Error::field(table, "columns", "scan", have.join(", ")));
    };
    let root = table.parent().unwrap_or(Path::new(""));
    let jobs: BTreeMap<&Path, &Job> = jobs
        .iter()
        .map(|job| (job.input.scan.as_path(), job))
        .collect();
    // Masks that were found in a folder get a column of their own.
    let columns = [find("mask"), find("nodules")];
    let source = find("hu_source");
    // What is true of the scans as they came, and of the prepared ones no more.
    let original = [&SLOPES[..], &INTERCEPTS, &["spacing_mm"]].concat();
    let emptied: Vec<usize> = original.into_iter().filter_map(find).collect();
    let wanted = [
        jobs.values().any(|j| j.mask.is_some()),
        jobs.values().any(|j| j.nodules.is_some()),
    ];
    let added = [0, 1].map(|i| columns[i].is_none() && wanted[i]);
    let mut out = csv::Writer::from_writer(Vec::new());
    let names = ["mask", "nodules"]
        .into_iter()
        .zip(added)
        .filter(|(_, added)| *added);
    let full_head = head.iter().chain(names.map(|(name, _)| name));
    out.write_record(full_head).map_err(fail)?;
    let mut count = 0;
    for record in reader.records() {
        let record = record.map_err(fail)?;
        let input = root.join(record.get(scan).unwrap_or_default().trim());
        let row = jobs
            .get(input.as_path())
            .and_then(|job| Some((job, rows.get(job.scan.to_string_lossy().as_ref())?)))
            .filter(|(job, row)| !row.failed() && has_settings(row, job, settings))
            .map(|(_, row)| row);
        let Some(row) = row else { continue };
        let masks = [&row.mask_output, &row.nodules_output];
        let cell = |(column, text)| match column {
            c if c == scan => row.output.as_str(),
            c if Some(c) == columns[0] => masks[0],
            c if Some(c) == columns[1] => masks[1],
            c if Some(c) == source => HuChoice::AlreadyHu.as_str(),
            c if emptied.contains(&c) => "",
            _ => text,
        };
        let extra = (0..2).filter(|&i| added[i]).map(|i| masks[i].as_str());
        let cells = record.iter().enumerate().map(cell).chain(extra);
        out.write_record(cells).map_err(fail)?;
        count += 1;
    }
    let bytes = out
        .into_inner()
        .map_err(|e| Error::io(output, std::io::Error::other(e.to_string())))?;
    write_atomically(output, |file| std::io::Write::write_all(file, &bytes))?;
    Ok(count)
}
