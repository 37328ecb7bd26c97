//! Everything that a run needs to go on as if it had not stopped.
//!
//! A checkpoint is a folder `step-00001000` that appears whole, by renaming, or not at all.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
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
#[serde(deny_unknown_fields)]
struct Stored {
    state: RunState,
    config: TrainConfig,
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
    pub(crate) config: &'a TrainConfig,
}

/// Writes the checkpoint of the finished steps, then removes all but the newest.
///
/// A checkpoint of this step that is there already stays: the same run makes the same one.
pub(crate) fn save(folder: &Path, parts: &Parts<'_>) -> Result<PathBuf> {
    let done = folder.join(format!("step-{:08}", parts.state.step));
    if !done.join(STATE).is_file() {
        write_whole(&done, |part| {
            let mut files = parts.learner.save_state(part)?;
            files.push(part.join(OPTIMIZER));
            parts.optimizer.save(&part.join(OPTIMIZER))?;
            if let Some(averages) = parts.averages {
                files.push(part.join(AVERAGES));
                averages.save(&part.join(AVERAGES))?;
            }
            let stored = Stored {
                state: parts.state.clone(),
                config: parts.config.clone(),
            };
            let path = part.join(STATE);
            let text = serde_json::to_vec_pretty(&stored).map_err(|e| Error::file(&path, e))?;
            std::fs::write(&path, text).map_err(|e| Error::file(&path, e))?;
            files.push(path);
            Ok(files)
        })?;
    }
    let mut old = all(folder);
    old.truncate(old.len().saturating_sub(parts.config.keep_checkpoints));
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
    config: &TrainConfig,
) -> Result<RunState> {
    let file = path.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|e| Error::file(&file, e))?;
    let stored: Stored = serde_json::from_str(&text).map_err(|e| Error::file(&file, e))?;
    if stored.config != *config {
        let what = "the run was started with another configuration; start anew or give that one";
        return Err(Error::file(&file, what));
    }
    learner.load_state(path)?;
    optimizer.load(&path.join(OPTIMIZER))?;
    if let Some(averages) = averages {
        averages.load(&path.join(AVERAGES))?;
    }
    Ok(stored.state)
}

#[cfg(test)]
mod tests {
    use super::*;

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
