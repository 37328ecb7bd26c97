//! What came of every scan: a CSV file a shard, a row appended and flushed to disk for each scan.
//!
//! A process that is killed leaves at most half a row at the end, which reading ignores and the next
//! run cuts off. Fields never hold line breaks, so that the end of a row is the end of a line.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::job::Shard;
use crate::error::{Error, Result};
use crate::prep::StandardiseReport;

/// What came of one scan.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The scan.
    pub input: String,
    /// The standardised volume, relative to the ledger's folder.
    pub output: String,
    /// SHA-256 of the output file; empty after a failure.
    pub hash: String,
    /// From the first byte read to the last byte written, s.
    pub seconds: f64,
    /// What a person should know before trusting the result, separated by `; `.
    pub warnings: String,
    /// Why the scan could not be prepared; empty when it was.
    pub error: String,
    /// The organ mask, if any.
    pub mask: String,
    /// The standardised mask.
    pub mask_output: String,
    /// SHA-256 of it.
    pub mask_hash: String,
    /// The nodule mask, if any.
    pub nodules: String,
    /// The standardised nodule mask.
    pub nodules_output: String,
    /// SHA-256 of it.
    pub nodules_hash: String,
    /// SHA-256 of the settings.
    pub settings: String,
    /// Bytes of all input files.
    pub input_bytes: u64,
    /// When the youngest input file was changed, seconds since 1970.
    pub input_modified: u64,
    /// Bytes of all output files.
    pub output_bytes: u64,
    /// When the row was written, seconds since 1970.
    pub finished: f64,
    /// The [`StandardiseReport`] as JSON; empty after a failure.
    pub report: String,
}

impl LedgerRow {
    /// Output files and their hashes.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            (&self.output, &self.hash),
            (&self.mask_output, &self.mask_hash),
            (&self.nodules_output, &self.nodules_hash),
        ]
        .into_iter()
        .filter(|(path, _)| !path.is_empty())
        .map(|(path, hash)| (path.as_str(), hash.as_str()))
    }

    /// What was found and done; `None` after a failure.
    pub fn details(&self) -> Option<StandardiseReport> {
        serde_json::from_str(&self.report).ok()
    }

    /// Whether the scan could not be prepared.
    pub fn failed(&self) -> bool {
        !self.error.is_empty()
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let mut row = self.clone();
        for text in [
            &mut row.input,
            &mut row.output,
            &mut row.warnings,
            &mut row.error,
            &mut row.mask,
            &mut row.mask_output,
            &mut row.nodules,
            &mut row.nodules_output,
        ] {
            if text.contains(['\n', '\r']) {
                *text = text.replace(['\n', '\r'], " ");
            }
        }
        encode(row, false)
    }
}

fn encode(row: LedgerRow, head: bool) -> Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new()
        .has_headers(head)
        .from_writer(Vec::new());
    let written = writer.serialize(row).map_err(std::io::Error::other);
    let bytes = written.and_then(|()| {
        writer
            .into_inner()
            .map_err(|e| std::io::Error::other(e.to_string()))
    });
    bytes.map_err(|source| Error::io(Path::new("ledger row"), source))
}

/// The first line of every ledger.
fn head() -> Result<Vec<u8>> {
    let both = encode(LedgerRow::default(), true)?;
    let end = both.iter().position(|&b| b == b'\n').map_or(0, |at| at + 1);
    Ok(both[..end].to_vec())
}

/// The ledger of one shard, locked against a second run of the same shard.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
}

impl Ledger {
    /// Opens or begins the ledger, and cuts off what a killed run left half-written.
    pub(super) fn open(folder: &Path, shard: Shard) -> Result<Self> {
        let name = if shard.count == 1 {
            "ledger.csv".to_owned()
        } else {
            format!("ledger-{:04}-of-{:04}.csv", shard.index, shard.count)
        };
        let path = folder.join(name);
        let fail = |source| Error::io(&path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(fail)?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            let busy = "another run is writing it: give each run a shard of its own";
            return Err(fail(std::io::Error::new(
                std::io::ErrorKind::ResourceBusy,
                busy,
            )));
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(fail)?;
        let whole = whole_rows(&content);
        if whole.len() < content.len() {
            file.set_len(whole.len() as u64).map_err(fail)?;
        }
        let head = head()?;
        if whole.is_empty() {
            file.write_all(&head).map_err(fail)?;
            file.sync_all().map_err(fail)?;
        } else if !whole.starts_with(&head) {
            let first = whole.split(|&b| b == b'\n').next().unwrap_or_default();
            return Err(Error::field(
                &path,
                "head of the ledger",
                String::from_utf8_lossy(&head).trim(),
                String::from_utf8_lossy(first).trim(),
            ));
        }
        Ok(Self { path, file })
    }

    /// Appends a row; it is on disk when this returns.
    pub(super) fn append(&mut self, row: &LedgerRow) -> Result<()> {
        let bytes = row.encode()?;
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| Error::io(&self.path, source))
    }
}

/// Whether a run is writing one of the ledgers of a folder.
pub fn has_writer(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        let file = is_ledger(&path).then(|| File::open(&path).ok()).flatten();
        file.is_some_and(|file| {
            matches!(
                file.try_lock_shared(),
                Err(std::fs::TryLockError::WouldBlock)
            )
        })
    })
}

fn is_ledger(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("ledger") && name.ends_with(".csv")
}

/// Everything up to the last line end.
fn whole_rows(content: &[u8]) -> &[u8] {
    let end = content
        .iter()
        .rposition(|&b| b == b'\n')
        .map_or(0, |at| at + 1);
    &content[..end]
}

/// The newest row of every output in all ledgers of a folder, by output.
///
/// Half a row at the end of a ledger is ignored: its writer was killed, or is writing.
///
/// # Errors
/// [`Error::Io`]; [`Error::Field`] for a file named `ledger*.csv` that is no ledger.
pub fn read_ledgers(folder: &Path) -> Result<BTreeMap<String, LedgerRow>> {
    let fail = |source| Error::io(folder, source);
    let mut rows: BTreeMap<String, LedgerRow> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if !is_ledger(&path) {
            continue;
        }
        let content = std::fs::read(&path).map_err(|source| Error::io(&path, source))?;
        for row in csv::Reader::from_reader(whole_rows(&content)).deserialize() {
            let row: LedgerRow =
                row.map_err(|e| Error::field(&path, "row", "a ledger's fields", e))?;
            let newer = |old: &LedgerRow| row.finished >= old.finished;
            if rows.get(&row.output).is_none_or(newer) {
                rows.insert(row.output.clone(), row);
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(output: &str, finished: f64) -> LedgerRow {
        LedgerRow {
            input: "a, \"b\"\n.nii".to_owned(),
            output: output.to_owned(),
            finished,
            error: "line 1\r\nline 2".to_owned(),
            ..LedgerRow::default()
        }
    }

    #[test]
    fn the_newest_row_counts_and_half_a_row_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let shard = |text: &str| text.parse::<Shard>().unwrap();
        let mut one = Ledger::open(dir.path(), shard("1/2")).unwrap();
        let mut two = Ledger::open(dir.path(), shard("2/2")).unwrap();
        one.append(&row("x", 5.0)).unwrap();
        two.append(&row("x", 4.0)).unwrap();
        two.append(&row("y", 1.0)).unwrap();
        let rows = read_ledgers(dir.path()).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows["x"].finished, 5.0);
        assert_eq!(rows["x"].input, "a, \"b\" .nii");
        assert!(rows["y"].failed() && rows["y"].error == "line 1  line 2");
        drop(two);
        let path = dir.path().join("ledger-0002-of-0002.csv");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], b"half,a ro"].concat()).unwrap();
        assert_eq!(read_ledgers(dir.path()).unwrap().len(), 2);
        let mut again = Ledger::open(dir.path(), shard("2/2")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        again.append(&row("z", 9.0)).unwrap();
        assert_eq!(read_ledgers(dir.path()).unwrap()["z"].finished, 9.0);
    }

    #[test]
    fn one_shard_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ledger::open(dir.path(), Shard::default()).unwrap();
        let error = Ledger::open(dir.path(), Shard::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("another run"), "{error}");
        assert!(has_writer(dir.path()));
        drop(first);
        assert!(!has_writer(dir.path()));
        assert!(Ledger::open(dir.path(), Shard::default()).is_ok());
    }

    #[test]
    fn a_file_that_is_no_ledger_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ledger.csv"), "mine\n1\n").unwrap();
        let error = Ledger::open(dir.path(), Shard::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("got mine"), "{error}");
        assert!(read_ledgers(dir.path()).is_err());
    }
}
