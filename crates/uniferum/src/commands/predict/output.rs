//! Predictions printed and written.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use uniferum::Answer;
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

/// To standard output, where nothing else goes.
pub(crate) fn print(rows: &[Row], format: Format) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match format {
        Format::Text => write_text(&mut out, rows)?,
        Format::Json => write_json(&mut out, rows)?,
        Format::Csv => write_csv(&mut out, rows)?,
    }
    Ok(())
}

/// Into a folder: as a table, or as JSON where that is asked for.
pub(crate) fn save(folder: &Path, rows: &[Row], format: Format) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let name = if format == Format::Json {
        "predictions.json"
    } else {
        "predictions.csv"
    };
    let path = folder.join(name);
    let mut file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
    match format {
        Format::Json => write_json(&mut file, rows),
        _ => write_csv(&mut file, rows),
    }
    .with_context(|| path.display().to_string())
}

/// Writes a mask on the scan's grid; returns the file.
pub(crate) fn save_mask(
    folder: &Path,
    scan: &str,
    task: &Task,
    probability: &Volume<f32>,
    kind: MaskKind,
) -> anyhow::Result<PathBuf> {
    let masks = folder.join("masks");
    std::fs::create_dir_all(&masks).with_context(|| masks.display().to_string())?;
    let file = Path::new(scan).file_name().unwrap_or_default();
    let stem = file.to_string_lossy();
    let stem = stem.split('.').next().unwrap_or_default();
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

fn write_json(out: &mut impl Write, rows: &[Row]) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, rows)?;
    writeln!(out)?;
    Ok(())
}

fn write_csv(out: &mut impl Write, rows: &[Row]) -> anyhow::Result<()> {
    let mut table = csv::Writer::from_writer(out);
    table.write_record(["scan", "task", "kind", "logit", "probability", "mask_file"])?;
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
