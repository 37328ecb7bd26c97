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
    let columns = Columns::of(table, &head, jobs)?;
    let root = table.parent().unwrap_or(Path::new(""));
    let jobs: BTreeMap<&Path, &Job> = jobs
        .iter()
        .map(|job| (job.input.scan.as_path(), job))
        .collect();
    let mut out = csv::Writer::from_writer(Vec::new());
    out.write_record(columns.head(&head)).map_err(fail)?;
    let mut count = 0;
    for record in reader.records() {
        let record = record.map_err(fail)?;
        let input = root.join(record.get(columns.scan).unwrap_or_default().trim());
        let row = jobs
            .get(input.as_path())
            .and_then(|job| Some((job, rows.get(job.scan.to_string_lossy().as_ref())?)))
            .filter(|(job, row)| !row.failed() && has_settings(row, job, settings))
            .map(|(_, row)| row);
        let Some(row) = row else { continue };
        out.write_record(columns.cells(&record, row))
            .map_err(fail)?;
        count += 1;
    }
    let bytes = out
        .into_inner()
        .map_err(|e| Error::io(output, std::io::Error::other(e.to_string())))?;
    write_atomically(output, |file| std::io::Write::write_all(file, &bytes))?;
    Ok(count)
}

/// The columns of masks, in the order of [`Columns::masks`].
const MASKS: [&str; 2] = ["mask", "nodules"];

/// Which columns of a table are written anew.
struct Columns {
    scan: usize,
    masks: [Option<usize>; 2],
    /// Masks that were found in a folder get a column of their own.
    added: [bool; 2],
    source: Option<usize>,
    /// What is true of the scans as they came, and of the prepared ones no more.
    emptied: Vec<usize>,
}

impl Columns {
    fn of(table: &Path, head: &csv::StringRecord, jobs: &[Job]) -> Result<Self> {
        let find = |name: &str| head.iter().position(|h| h.trim() == name);
        let Some(scan) = find("scan").or_else(|| find("img_file_path")) else {
            let have: Vec<&str> = head.iter().collect();
            return Err(Error::field(table, "columns", "scan", have.join(", ")));
        };
        let masks = MASKS.map(find);
        let wanted = [
            jobs.iter().any(|job| job.mask.is_some()),
            jobs.iter().any(|job| job.nodules.is_some()),
        ];
        let original = [&SLOPES[..], &INTERCEPTS, &["spacing_mm"]].concat();
        Ok(Self {
            scan,
            masks,
            added: [0, 1].map(|i| masks[i].is_none() && wanted[i]),
            source: find("hu_source"),
            emptied: original.into_iter().filter_map(find).collect(),
        })
    }

    fn head<'a>(&self, head: &'a csv::StringRecord) -> impl Iterator<Item = &'a str> {
        let names = MASKS.into_iter().zip(self.added);
        let names = names.filter(|(_, added)| *added).map(|(name, _)| name);
        head.iter().chain(names)
    }

    /// The cells of a scan's row, as it was prepared.
    fn cells<'a>(
        &'a self,
        record: &'a csv::StringRecord,
        row: &'a LedgerRow,
    ) -> impl Iterator<Item = &'a str> {
        let masks = [row.mask_output.as_str(), row.nodules_output.as_str()];
        let cell = move |(column, text): (usize, &'a str)| match column {
            c if c == self.scan => row.output.as_str(),
            c if Some(c) == self.masks[0] => masks[0],
            c if Some(c) == self.masks[1] => masks[1],
            c if Some(c) == self.source => HuChoice::AlreadyHu.as_str(),
            c if self.emptied.contains(&c) => "",
            _ => text,
        };
        let extra = masks.into_iter().zip(self.added);
        let extra = extra.filter(|(_, added)| *added).map(|(mask, _)| mask);
        record.iter().enumerate().map(cell).chain(extra)
    }
}
