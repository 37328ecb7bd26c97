//! Everything that a run needs to go on as if it had not stopped.
//!
//! A checkpoint is a folder `step-00001000` that appears whole, by renaming, or not at all.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uniferum_ct::replace_atomically;
use uniferum_data::changes;
use uniferum_tasks::{Task, trained};

use crate::ema::Averages;
use crate::error::{Error, Result};
use crate::learner::Learner;
use crate::optimizer::Optimizer;
use crate::schedule::PlateauState;

/// Where a run is.
///
/// Sampling, augmentation and dropout are functions of the seed and the step, so that nothing of theirs
/// needs to be kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Finished steps.
    pub step: u64,
    /// How far the plateau has taken the learning rate down.
    pub plateau: PlateauState,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Validations since the best one.
    pub stale: u64,
    /// Whether training has stopped early.
    pub stopped: bool,
    /// Whether these weights were to be validated and could not be.
    #[serde(default)]
    pub validation_due: bool,
    /// What the run learns from, as a digest of scans, labels, tasks and sampling.
    pub data: Option<String>,
}

/// A validation that was better than all before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Steps finished then.
    pub step: u64,
    /// Its macro AUROC.
    pub macro_auroc: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    state: RunState,
    #[serde(flatten)]
    settings: Settings,
}

/// What a run must have in common with the one that it goes on with; null where it is not known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The recipe.
    #[serde(rename = "config")]
    pub(crate) train: Value,
    /// The network.
    #[serde(default)]
    pub(crate) model: Value,
    /// How scans become arrays.
    #[serde(default)]
    pub(crate) input: Value,
    /// Which scans choose the best weights.
    #[serde(default)]
    pub(crate) validation: Value,
}

/// Settings that change no weight.
const FREE: [&str; 3] = [
    "train.keep_checkpoints",
    "train.checkpoint_every",
    "train.read_loss_every",
];

impl Settings {
    /// A line for each setting that is not as it was.
    fn differences(&self, given: &Settings) -> Vec<String> {
        let pairs = [
            ("train", &self.train, &given.train),
            ("model", &self.model, &given.model),
            ("input", &self.input, &given.input),
            ("validation", &self.validation, &given.validation),
        ];
        let known = pairs.iter().filter(|(_, before, _)| !before.is_null());
        known
            .flat_map(|(name, before, now)| changes(name, before, now, &FREE))
            .collect()
    }
}

const OPTIMIZER: &str = "optimizer.safetensors";
const AVERAGES: &str = "averages.safetensors";
const STATE: &str = "state.json";

/// The newest complete checkpoint of a run's folder.
pub fn latest_checkpoint(folder: &Path) -> Option<PathBuf> {
    all(folder).pop().map(|(_, path)| path)
}

fn all(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let step = name.strip_prefix("step-")?.parse().ok()?;
            entry
                .path()
                .join(STATE)
                .is_file()
                .then(|| (step, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// The parts of a run that a checkpoint keeps.
pub(crate) struct Parts<'a> {
    pub(crate) learner: &'a dyn Learner,
    pub(crate) optimizer: &'a Optimizer,
    pub(crate) averages: Option<&'a Averages>,
    pub(crate) state: &'a RunState,
    pub(crate) settings: Settings,
    pub(crate) questions: &'a [Task],
    /// Checkpoints to keep.
    pub(crate) keep: usize,
}

/// Writes the checkpoint of the finished steps, then removes all but the newest.
///
/// Of a checkpoint of this step that is there already all stays but where the run is: weights and all else
/// are the same, and its validation may be known since.
pub(crate) fn save(folder: &Path, parts: &Parts<'_>) -> Result<PathBuf> {
    let done = folder.join(format!("step-{:08}", parts.state.step));
    let stored = Stored {
        state: parts.state.clone(),
        settings: parts.settings.clone(),
    };
    let file = done.join(STATE);
    let stored = serde_json::to_vec_pretty(&stored).map_err(|e| Error::file(&file, e))?;
    if file.is_file() {
        replace_atomically(&file, ".part", |part| std::fs::write(part, &stored))
            .map_err(|e| Error::file(&file, e))?;
    } else {
        write_whole(&done, |part| {
            let mut files = parts.learner.save_state(part)?;
            files.push(part.join(OPTIMIZER));
            parts.optimizer.save(&part.join(OPTIMIZER))?;
            if let Some(averages) = parts.averages {
                files.push(part.join(AVERAGES));
                averages.save(&part.join(AVERAGES))?;
            }
            if !parts.questions.is_empty() {
                trained::save(part, parts.questions)?;
                files.push(part.join(trained::FILE_NAME));
            }
            let path = part.join(STATE);
            std::fs::write(&path, &stored).map_err(|e| Error::file(&path, e))?;
            files.push(path);
            Ok(files)
        })?;
    }
    let mut old = all(folder);
    old.truncate(old.len().saturating_sub(parts.keep));
    for (_, path) in old {
        let _ = std::fs::remove_dir_all(path);
    }
    remove_leftovers(folder);
    Ok(done)
}

/// Removes what killed processes left of checkpoints that they were writing or removing.
fn remove_leftovers(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|e| e.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = |rest: &str| rest.parse::<u64>().is_ok();
        // A checkpoint appears whole: one without its state was being removed.
        let removed = name.strip_prefix("step-").is_some_and(number) && !path.join(STATE).is_file();
        let hidden = name.strip_prefix(".step-").and_then(|n| n.split_once('.'));
        let half = hidden.is_some_and(|(rest, end)| number(rest) && ["part", "old"].contains(&end));
        if removed || half {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Makes a folder that appears with all its files on disk, or not at all; one of that name is replaced.
pub(crate) fn write_whole(
    folder: &Path,
    fill: impl FnOnce(&Path) -> Result<Vec<PathBuf>>,
) -> Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let part = folder.with_file_name(format!(".{name}.part"));
    let old = folder.with_file_name(format!(".{name}.old"));
    let io = |e: std::io::Error| Error::file(folder, e);
    for rest in [&part, &old] {
        let _ = std::fs::remove_dir_all(rest);
    }
    std::fs::create_dir_all(&part).map_err(io)?;
    for file in fill(&part)? {
        sync(&file).map_err(io)?;
    }
    sync(&part).map_err(io)?;
    if folder.exists() {
        std::fs::rename(folder, &old).map_err(io)?;
    }
    std::fs::rename(&part, folder).map_err(io)?;
    if let Some(parent) = folder.parent() {
        sync(parent).map_err(io)?;
    }
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

#[cfg(unix)]
fn sync(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

/// Elsewhere folders cannot be synchronised, and files only when opened for writing.
#[cfg(not(unix))]
fn sync(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .sync_all()
}

/// Reads a checkpoint into model, optimiser and averages.
pub(crate) fn load(
    path: &Path,
    learner: &mut dyn Learner,
    optimizer: &mut Optimizer,
    averages: Option<&mut Averages>,
    settings: &Settings,
) -> Result<RunState> {
    let file = path.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|e| damaged(path, e))?;
    let stored: Stored = serde_json::from_str(&text).map_err(|e| damaged(path, e))?;
    let differences = stored.settings.differences(settings);
    if !differences.is_empty() {
        let steps = |of: &Settings| of.train["steps"].as_u64();
        let longer = steps(settings) > steps(&stored.settings);
        let way = match longer {
            true => "; more steps are a run of their own, whose [init] names this run's model",
            false => "",
        };
        let what = format!(
            "the run was started with another configuration; start anew or give that one: {}{way}",
            differences.join("; ")
        );
        return Err(Error::file(&file, what));
    }
    let rest = || {
        learner.load_state(path)?;
        optimizer.load(&path.join(OPTIMIZER))?;
        averages.map_or(Ok(()), |averages| averages.load(&path.join(AVERAGES)))
    };
    rest().map_err(|e| damaged(path, e))?;
    Ok(stored.state)
}

/// An error of a checkpoint that cannot be read, with the way on.
fn damaged(path: &Path, error: impl std::fmt::Display) -> Error {
    let others = path.parent().map_or_else(Vec::new, all);
    let before = others
        .iter()
        .rev()
        .find(|(_, other)| other.as_path() < path);
    let way = match before {
        Some((step, _)) => format!("remove this folder to go on from step {step}"),
        None => "remove this folder to begin anew: there is no earlier one".to_owned(),
    };
    Error::file(
        path,
        format!("this checkpoint cannot be read: {error}; {way}"),
    )
}

/// Whether a file of weights, or its folder, is what a run goes on with: its weights are not yet averaged,
/// its adapters not merged, and neither tokenizer nor settings of the input lie beside them.
pub fn is_run_state(path: &Path) -> bool {
    let folder = trained::folder(path);
    folder.join(STATE).is_file() && folder.join(OPTIMIZER).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_matter_are_compared_by_name() {
        let settings = |train: &str, model: &str| Settings {
            train: serde_json::from_str(train).unwrap(),
            model: serde_json::from_str(model).unwrap(),
            input: Value::Null,
            validation: "3 scans".into(),
        };
        let before = settings(
            r#"{"steps": 7, "keep_checkpoints": 2, "lora": null}"#,
            r#"{"bert": {"dropout": 0.1, "layers": 4}}"#,
        );
        let free = settings(
            r#"{"steps": 7, "keep_checkpoints": 9, "lora": null, "later": 1}"#,
            r#"{"bert": {"dropout": 0.1, "layers": 4}}"#,
        );
        assert!(before.differences(&free).is_empty());
        let mut other = settings(
            r#"{"steps": 7, "keep_checkpoints": 2, "lora": {"rank": 8}}"#,
            r#"{"bert": {"dropout": 0.2, "layers": 4}}"#,
        );
        other.validation = "4 scans".into();
        let expected = [
            r#"train.lora: expected null, got {"rank":8}"#,
            "model.bert.dropout: expected 0.1, got 0.2",
            r#"validation: expected "3 scans", got "4 scans""#,
        ];
        assert_eq!(before.differences(&other), expected);
    }

    #[test]
    fn halves_of_checkpoints_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, file: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(file), "{}").unwrap();
        };
        make("step-00000003", STATE);
        make("best", "model.safetensors");
        make("step-by-step", "notes");
        make("step-00000002", "model.safetensors");
        make(".step-00000004.part", STATE);
        make(".step-00000001.old", STATE);
        remove_leftovers(folder.path());
        let entries = std::fs::read_dir(folder.path()).unwrap().flatten();
        let mut left: Vec<_> = entries.map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, ["best", "step-00000003", "step-by-step"]);
    }
}
