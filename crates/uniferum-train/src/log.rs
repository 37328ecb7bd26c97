//! What a run writes down: a line of JSON a step, and TensorBoard's event files.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::evaluate::EvaluationReport;
use crate::tensorboard::EventWriter;
use crate::trainer::Progress;

const STEPS: &str = "log.jsonl";
const VALIDATIONS: &str = "validation.jsonl";

/// The logs of one run.
#[derive(Debug)]
pub(crate) struct Logs {
    folder: PathBuf,
    events: EventWriter,
}

#[derive(Serialize)]
struct Validation<'a> {
    step: u64,
    #[serde(flatten)]
    report: &'a EvaluationReport,
}

impl Logs {
    /// Goes on after `step` finished steps; lines about later ones are of a run that was cut off.
    pub(crate) fn open(folder: &Path, step: u64) -> Result<Self> {
        for name in [STEPS, VALIDATIONS] {
            forget_after(&folder.join(name), step)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            events: EventWriter::create(folder, if step == 0 { 0 } else { step + 1 })?,
        })
    }

    pub(crate) fn step(&mut self, done: &Progress) -> Result<()> {
        append(&self.folder.join(STEPS), done)?;
        let mut values = vec![
            ("loss/total", f64::from(done.loss)),
            ("gradient_norm", done.gradient_norm),
            ("learning_rate", done.learning_rate),
            ("samples_per_second", done.samples_per_second),
        ];
        let optional = [
            ("loss/label", done.label_loss.map(f64::from)),
            ("loss/mask", done.mask_loss.map(f64::from)),
            ("memory_mib", done.memory_mib),
            ("gpu_memory_mib", done.gpu_memory_mib),
        ];
        values.extend(optional.into_iter().filter_map(|(t, v)| Some((t, v?))));
        self.events.scalars(done.step, &values)
    }

    pub(crate) fn validation(&mut self, step: u64, report: &EvaluationReport) -> Result<()> {
        append(&self.folder.join(VALIDATIONS), &Validation { step, report })?;
        let macro_auroc = report.labels.macro_auroc.value;
        let mut values: Vec<(String, f64)> = macro_auroc
            .into_iter()
            .map(|v| ("validation/macro_auroc".to_owned(), v))
            .collect();
        for task in report.labels.tasks.iter().map(|t| &t.metrics) {
            values.extend(
                task.auroc
                    .map(|v| (format!("validation/auroc/{}", task.task), v)),
            );
        }
        for mask in &report.masks {
            values.extend(
                mask.dice
                    .map(|v| (format!("validation/dice/{}", mask.task), v)),
            );
        }
        let borrowed: Vec<(&str, f64)> = values.iter().map(|(t, v)| (t.as_str(), *v)).collect();
        self.events.scalars(step, &borrowed)
    }
}

fn append(path: &Path, line: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(line).map_err(|e| Error::file(path, e))?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{line}"))
        .map_err(|e| Error::file(path, e))
}

/// Drops lines about later steps, and a last line that was cut off.
fn forget_after(path: &Path, step: u64) -> Result<()> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(());
    };
    let before = |line: &&str| {
        let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
        value
            .and_then(|v| v.get("step")?.as_u64())
            .is_some_and(|s| s <= step)
    };
    let kept: String = text
        .lines()
        .filter(before)
        .flat_map(|line| [line, "\n"])
        .collect();
    // A finished run may be read by several others at once.
    if kept == text {
        return Ok(());
    }
    // Under one name, so that a killed process leaves at most one such file.
    let part = path.with_extension("part");
    std::fs::write(&part, kept)
        .and_then(|()| OpenOptions::new().write(true).open(&part)?.sync_all())
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(|e| Error::file(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_run_that_was_cut_off_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"st").unwrap();
        forget_after(&path, 2).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n");
    }
}
