//! The files of a run's answers, which a later run may go on with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uniferum_ct::batch::Shard;
use uniferum_ct::replace_atomically;
use uniferum_data::{InputSettings, changes};

use super::Format;
use super::output::{Failed, Row, write_csv, write_json, write_rows};
use crate::commands::lock::lock;

/// What becomes of the answers of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// They stay, and nothing is asked.
    Keep,
    Overwrite,
    /// They stay, and what they lack is asked.
    GoOn,
}

/// What answers depend on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Basis {
    pub(crate) terms: Terms,
    /// The mask and the source of Hounsfield units of each scan, by its [`place`].
    pub(crate) scans: BTreeMap<String, String>,
    /// The folder that scans are named from, where their paths are relative.
    pub(crate) named_from: String,
}

/// The same for all scans.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// SHA-256 of the file of weights.
    pub(crate) weights: String,
    pub(crate) input: InputSettings,
    /// How far scans are prepared, the number format, and the like.
    pub(crate) options: Vec<String>,
    /// Ids and sentences.
    pub(crate) questions: Vec<(String, String)>,
    /// Which masks are written, if any.
    pub(crate) masks: Option<String>,
}

/// A scan's path, whatever the folder that it was named from.
pub(crate) fn place(scan: &Path) -> String {
    let place = std::path::absolute(scan).unwrap_or_else(|_| scan.to_owned());
    place.display().to_string()
}

impl Basis {
    fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        replace_atomically(path, ".part", |part| std::fs::write(part, &text))
            .with_context(|| path.display().to_string())
    }

    /// Refuses a file of another basis than this; what it says of scans may be of others.
    fn check(&self, path: &Path) -> anyhow::Result<Basis> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(name)?;
        let before: Basis = serde_json::from_str(&text).with_context(name)?;
        let [terms, own] = [&before.terms, &self.terms].map(|terms| json!(terms));
        const SHOWN: usize = 5;
        let mut differ = changes("", &terms, &own, &[]);
        for (scan, how) in &before.scans {
            let own = self.scans.get(scan).filter(|own| *own != how);
            differ.extend(own.map(|own| format!("{scan}: expected {how}, got {own}")));
        }
        ensure!(
            differ.is_empty(),
            "{}: the run was begun with other weights, questions, masks or settings ({}); expected those, \
             another --out, or --overwrite",
            path.display(),
            differ[..differ.len().min(SHOWN)].join("; ")
        );
        Ok(before)
    }

    /// Refuses a folder where another part of the scans was asked otherwise.
    fn check_others(&self, folder: &Path, own: &Path) -> anyhow::Result<()> {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path != own && name.starts_with("predict-") && name.ends_with(".json") {
                self.check(&path)?;
            }
        }
        Ok(())
    }

    /// The answers of an earlier run about scans of which it answered everything.
    fn answers(&mut self, folder: &Path, names: &Names) -> anyhow::Result<Vec<Row>> {
        let table = &names.answers;
        if !table.exists() {
            return Ok(Vec::new());
        }
        let before = self.check(&names.basis)?;
        self.scans.extend(before.scans);
        let mut by_scan: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for mut row in rows(table).with_context(|| table.display().to_string())? {
            // One table cannot name scans from two folders.
            ensure!(
                before.named_from == self.named_from || Path::new(&row.scan).is_absolute(),
                "{}: names scans from {}: go on there, or give all scans by absolute paths in a new --out",
                table.display(),
                before.named_from
            );
            row.mask_file = row.mask_file.map(|file| folder.join(file));
            by_scan.entry(row.scan.clone()).or_default().push(row);
        }
        let whole = by_scan.into_values().filter(|rows| self.is_whole(rows));
        Ok(whole.flatten().collect())
    }

    fn is_whole(&self, rows: &[Row]) -> bool {
        let has_mask = |row: &Row| row.mask_file.as_ref().is_some_and(|file| file.is_file());
        let answered = rows
            .iter()
            .filter(|row| {
                self.terms.masks.is_none() || !row.kind.is_segmentation() || has_mask(row)
            })
            .map(|row| row.task.as_str());
        let answered: BTreeSet<&str> = answered.collect();
        self.terms
            .questions
            .iter()
            .all(|(id, _)| answered.contains(id.as_str()))
    }
}

/// The rows of a table, but for one that was being written when its run ended.
fn rows(table: &Path) -> anyhow::Result<Vec<Row>> {
    let mut bytes = std::fs::read(table)?;
    bytes.truncate(
        bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |end| end + 1),
    );
    let rows: Result<Vec<Row>, _> = csv::Reader::from_reader(bytes.as_slice())
        .deserialize()
        .collect();
    Ok(rows?)
}

/// Rows as the file has them: paths of masks are relative to its folder, which may be moved.
fn relative(folder: &Path, rows: &[Row]) -> Vec<Row> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        if let Some(file) = &mut row.mask_file
            && let Ok(below) = file.strip_prefix(folder)
        {
            *file = below.to_owned();
        }
    }
    rows
}

/// The files of one part of the scans.
struct Names {
    answers: PathBuf,
    /// Of the scans that could not be used.
    failed: PathBuf,
    basis: PathBuf,
    /// Without its folder.
    lock: String,
}

impl Names {
    fn new(folder: &Path, format: Format, shard: Shard) -> Self {
        let part = match shard {
            Shard { count: 1, .. } => String::new(),
            Shard { index, count } => format!("-{index}-of-{count}"),
        };
        let ending = match format {
            Format::Json => "json",
            Format::Text | Format::Csv => "csv",
        };
        Self {
            answers: folder.join(format!("predictions{part}.{ending}")),
            failed: folder.join(format!("failed{part}.csv")),
            basis: folder.join(format!("predict{part}.json")),
            lock: format!(".predict{part}.lock"),
        }
    }
}

/// The file of a run's answers: a table that grows row by row, or JSON, which is whole at the end alone.
#[derive(Debug)]
pub(crate) struct Saved {
    folder: PathBuf,
    path: PathBuf,
    failed: PathBuf,
    file: File,
    format: Format,
    _lock: File,
}

impl Saved {
    /// Makes the folder and the files; each shard has its own. Returns the answers of an earlier run that this
    /// one goes on with.
    pub(crate) fn create(
        folder: &Path,
        format: Format,
        shard: Shard,
        earlier: Earlier,
        mut basis: Basis,
    ) -> anyhow::Result<(Self, Vec<Row>)> {
        let names = Names::new(folder, format, shard);
        // Parts of the scans may be asked at the same time, each by one process.
        let lock = lock(folder, &names.lock, "answers the same part")?;
        if earlier == Earlier::GoOn && !names.basis.exists() {
            check_parts(folder, shard.count)?;
        }
        if earlier != Earlier::Overwrite {
            basis.check_others(folder, &names.basis)?;
        }
        let before = match earlier {
            Earlier::Overwrite => Vec::new(),
            Earlier::GoOn => basis.answers(folder, &names)?,
            Earlier::Keep => {
                check_no_answers(&names.answers)?;
                Vec::new()
            }
        };
        // JSON is whole at the end, and nothing goes on with it.
        if !matches!(format, Format::Json) {
            basis.save(&names.basis)?;
        }
        let failed = names.failed;
        if failed.exists() {
            std::fs::remove_file(&failed).with_context(|| failed.display().to_string())?;
        }
        let path = names.answers;
        let file = match format {
            Format::Json => File::create(&path).map_err(anyhow::Error::from),
            Format::Text | Format::Csv => begin_table(&path, &relative(folder, &before)),
        };
        let saved = Self {
            folder: folder.to_owned(),
            file: file.with_context(|| path.display().to_string())?,
            path,
            failed,
            format,
            _lock: lock,
        };
        Ok((saved, before))
    }

    /// Writes the answers about a scan, where the file can grow.
    pub(crate) fn add(&mut self, rows: &[Row]) -> anyhow::Result<()> {
        let rows = relative(&self.folder, rows);
        self.write(|file, format| match format {
            Format::Json => Ok(()),
            Format::Text | Format::Csv => write_rows(csv::Writer::from_writer(file), &rows),
        })
    }

    /// Notes a scan that could not be used, in a table of its own: one of answers has answers alone.
    pub(crate) fn fail(&mut self, failed: &Failed) -> anyhow::Result<()> {
        let place = || self.failed.display().to_string();
        let new = !self.failed.exists();
        let file = File::options().append(true).create(true).open(&self.failed);
        let mut table = csv::Writer::from_writer(file.with_context(place)?);
        if new {
            table.write_record(["scan", "error"]).with_context(place)?;
        }
        table
            .write_record([&failed.scan, &failed.error])
            .with_context(place)?;
        table.flush().with_context(place)
    }

    /// Writes what could not be written before the last answer.
    pub(crate) fn finish(mut self, rows: &[Row], failed: &[Failed]) -> anyhow::Result<()> {
        let rows = relative(&self.folder, rows);
        self.write(|file, format| match format {
            Format::Json => write_json(file, &rows, failed),
            Format::Text | Format::Csv => Ok(()),
        })
    }

    fn write(
        &mut self,
        work: impl FnOnce(&mut File, Format) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        work(&mut self.file, self.format).with_context(|| self.path.display().to_string())
    }
}

/// Refuses to go on with parts of another division of the scans: their answers would all be asked again.
fn check_parts(folder: &Path, count: usize) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for name in entries.flatten().map(|entry| entry.file_name()) {
        let name = name.to_string_lossy();
        let Some(part) = name
            .strip_prefix("predict")
            .and_then(|n| n.strip_suffix(".json"))
        else {
            continue;
        };
        let parts = match part.rsplit_once("-of-") {
            Some((_, parts)) => parts.parse().ok(),
            None if part.is_empty() => Some(1),
            None => None,
        };
        ensure!(
            parts.is_none_or(|parts| parts == count),
            "{}: the run was divided into {parts} parts; expected as many with --resume, or another --out",
            folder.join(&*name).display(),
            parts = parts.unwrap_or(1)
        );
    }
    Ok(())
}

/// Refuses a file that holds more than the head of a table.
fn check_no_answers(path: &Path) -> anyhow::Result<()> {
    let lines = |bytes: Vec<u8>| bytes.iter().filter(|b| **b == b'\n').count();
    ensure!(
        std::fs::read(path).map_or(0, lines) <= 1,
        "{}: has the answers of an earlier run; expected another --out, --resume or --overwrite",
        path.display()
    );
    Ok(())
}

/// Writes a table with the rows of an earlier run, to which others are added.
fn begin_table(path: &Path, rows: &[Row]) -> anyhow::Result<File> {
    replace_atomically(path, ".part", |part| {
        write_csv(&mut File::create(part)?, rows)
    })?;
    Ok(File::options().append(true).open(path)?)
}
