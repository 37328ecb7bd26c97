//! Predictions printed and written.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use uniferum::Answer;
use uniferum_ct::{Volume, write_nifti};
use uniferum_tasks::TaskKind;

use super::{Format, MaskKind};

/// A line of the result.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Row {
    pub(crate) scan: String,
    pub(crate) task: String,
    pub(crate) kind: TaskKind,
    logit: f32,
    probability: f32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mask_file: Option<PathBuf>,
}

impl Row {
    pub(crate) fn new(scan: &str, answer: &Answer) -> Self {
        Self {
            scan: scan.to_owned(),
            task: answer.task.id.clone(),
            kind: answer.task.kind,
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

/// Writes a mask on the scan's grid under the names of scan and question; returns the file.
pub(crate) fn save_mask(
    folder: &Path,
    (scan, question): (&str, &str),
    probability: &Volume<f32>,
    kind: MaskKind,
) -> anyhow::Result<PathBuf> {
    let masks = folder.join("masks");
    std::fs::create_dir_all(&masks).with_context(|| masks.display().to_string())?;
    let path = masks.join(format!("{scan}_{question}.nii.gz"));
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

pub(super) fn write_json(
    out: &mut impl Write,
    rows: &[Row],
    failed: &[Failed],
) -> anyhow::Result<()> {
    let answers = rows.iter().map(Line::Answer);
    let lines: Vec<Line<'_>> = answers.chain(failed.iter().map(Line::Failed)).collect();
    serde_json::to_writer_pretty(&mut *out, &lines)?;
    writeln!(out)?;
    Ok(())
}

const COLUMNS: [&str; 6] = ["scan", "task", "kind", "logit", "probability", "mask_file"];

pub(super) fn write_csv(out: &mut impl Write, rows: &[Row]) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record(COLUMNS)?;
    write_rows(table, rows)
}

pub(super) fn write_rows(mut table: csv::Writer<impl Write>, rows: &[Row]) -> anyhow::Result<()> {
    for row in rows {
        let mask = row.mask_file.as_ref().map(|p| p.display().to_string());
        table.write_record([
            row.scan.as_str(),
            &row.task,
            row.kind.as_str(),
            &row.logit.to_string(),
            &row.probability.to_string(),
            mask.as_deref().unwrap_or(""),
        ])?;
    }
    table.flush()?;
    Ok(())
}
