//! Predictions printed and written.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use uniferum::Answer;
use uniferum_ct::batch::Shard;
use uniferum_ct::{Volume, write_nifti};
use uniferum_tasks::{Task, slug};

use super::{Format, MaskKind};

/// A line of the result.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Row {
    scan: String,
    task: String,
    kind: &'static str,
    logit: f32,
    probability: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mask_file: Option<PathBuf>,
}

impl Row {
    pub(crate) fn new(scan: &str, answer: &Answer) -> Self {
        Self {
            scan: scan.to_owned(),
            task: answer.task.id.clone(),
            kind: answer.task.kind.as_str(),
            logit: answer.logit,
            probability: answer.probability,
            mask_file: None,
        }
    }
}

/// A scan that could not be used.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Failed {
    pub(crate) scan: String,
    pub(crate) error: String,
}

/// To standard output, where nothing else goes.
pub(crate) fn print(rows: &[Row], failed: &[Failed], format: Format) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Text => write_text(&mut out, rows)?,
        Format::Json => write_json(&mut out, rows, failed)?,
        Format::Csv => write_csv(&mut out, rows)?,
    }
    Ok(())
}

/// The file of a run's answers: a table that grows row by row, or JSON, which is whole at the end alone.
#[derive(Debug)]
pub(crate) struct Saved {
    folder: PathBuf,
    path: PathBuf,
    failed: PathBuf,
    file: File,
    format: Format,
}

impl Saved {
    /// Makes the folder and the file; each shard has a file of its own. Answers that are there already
    /// are lost to `overwrite` alone.
    pub(crate) fn create(
        folder: &Path,
        format: Format,
        shard: Shard,
        overwrite: bool,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let part = match shard {
            Shard { count: 1, .. } => String::new(),
            Shard { index, count } => format!("-{index}-of-{count}"),
        };
        let ending = match format {
            Format::Json => "json",
            Format::Text | Format::Csv => "csv",
        };
        let path = folder.join(format!("predictions{part}.{ending}"));
        let failed = folder.join(format!("failed{part}.csv"));
        ensure!(
            overwrite || !has_answers(&path),
            "{}: has the answers of an earlier run; expected another --out, or --overwrite",
            path.display()
        );
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        if failed.exists() {
            std::fs::remove_file(&failed).with_context(|| failed.display().to_string())?;
        }
        let mut saved = Self {
            folder: folder.to_owned(),
            path,
            failed,
            file,
            format,
        };
        saved.write(|file, format| match format {
            Format::Json => Ok(()),
            Format::Text | Format::Csv => write_csv(file, &[]),
        })?;
        Ok(saved)
    }

    /// Writes the answers about a scan, where the file can grow.
    pub(crate) fn add(&mut self, rows: &[Row]) -> anyhow::Result<()> {
        let rows = self.own(rows);
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

    /// Rows as the file has them: paths of masks are relative to its folder, which may be moved.
    fn own(&self, rows: &[Row]) -> Vec<Row> {
        let mut rows = rows.to_vec();
        for row in &mut rows {
            if let Some(file) = &mut row.mask_file
                && let Ok(below) = file.strip_prefix(&self.folder)
            {
                *file = below.to_owned();
            }
        }
        rows
    }

    /// Writes what could not be written before the last answer.
    pub(crate) fn finish(mut self, rows: &[Row], failed: &[Failed]) -> anyhow::Result<()> {
        let rows = self.own(rows);
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

/// Whether a file holds more than the head of a table.
fn has_answers(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.iter().filter(|b| **b == b'\n').count() > 1)
}

/// Writes a mask on the scan's grid; returns the file.
pub(crate) fn save_mask(
    folder: &Path,
    stem: &str,
    task: &Task,
    probability: &Volume<f32>,
    kind: MaskKind,
) -> anyhow::Result<PathBuf> {
    let masks = folder.join("masks");
    std::fs::create_dir_all(&masks).with_context(|| masks.display().to_string())?;
    let path = masks.join(format!("{stem}_{}.nii.gz", slug(&task.id)));
    match kind {
        MaskKind::Probability => write_nifti(&path, probability)?,
        MaskKind::Binary => {
            let inside = probability.voxels.mapv(|p| u8::from(p >= 0.5));
            write_nifti(&path, &Volume::new(inside, probability.affine))?;
        }
    }
    Ok(path)
}

fn write_text(out: &mut impl Write, rows: &[Row]) -> std::io::Result<()> {
    let width = rows
        .iter()
        .map(|r| r.task.chars().count())
        .max()
        .unwrap_or(0);
    let mut scan = None;
    for row in rows {
        if scan != Some(&row.scan) {
            writeln!(out, "{}", row.scan)?;
            scan = Some(&row.scan);
        }
        let (logit, probability) = (row.logit, row.probability);
        write!(
            out,
            "  {:width$}  logit {logit:8.4}  probability {probability:.4}",
            row.task
        )?;
        match &row.mask_file {
            Some(file) => writeln!(out, "  {}", file.display())?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// What is known of a scan.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Answer(&'a Row),
    Failed(&'a Failed),
}

fn write_json(out: &mut impl Write, rows: &[Row], failed: &[Failed]) -> anyhow::Result<()> {
    let answers = rows.iter().map(Line::Answer);
    let lines: Vec<Line<'_>> = answers.chain(failed.iter().map(Line::Failed)).collect();
    serde_json::to_writer_pretty(&mut *out, &lines)?;
    writeln!(out)?;
    Ok(())
}

const COLUMNS: [&str; 6] = ["scan", "task", "kind", "logit", "probability", "mask_file"];

fn write_csv(out: &mut impl Write, rows: &[Row]) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record(COLUMNS)?;
    write_rows(table, rows)
}

fn write_rows(mut table: csv::Writer<impl Write>, rows: &[Row]) -> anyhow::Result<()> {
    for row in rows {
        let mask = row.mask_file.as_ref().map(|p| p.display().to_string());
        table.write_record([
            row.scan.as_str(),
            &row.task,
            row.kind,
            &row.logit.to_string(),
            &row.probability.to_string(),
            mask.as_deref().unwrap_or(""),
        ])?;
    }
    table.flush()?;
    Ok(())
}
