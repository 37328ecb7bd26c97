//! Everything that a run needs to go on as if it had not stopped.
//!
//! A checkpoint is a folder `step-00001000` that appears whole, by renaming, or not at all.

use std::path::{Path, PathBuf};

use candle_nn::VarMap;
use serde::{Deserialize, Serialize};
use uniferum_fusion::{UniferumConfig, checkpoint};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::optimizer::Optimizer;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    step: u64,
    config: TrainConfig,
}

const WEIGHTS: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
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

/// Writes the checkpoint of `step` finished steps, then removes all but the newest.
pub(crate) fn save(
    folder: &Path,
    step: u64,
    vars: &VarMap,
    model: &UniferumConfig,
    optimizer: &Optimizer,
    config: &TrainConfig,
) -> Result<PathBuf> {
    let done = folder.join(format!("step-{step:08}"));
    let part = folder.join(format!(".step-{step:08}.part"));
    let io = |e: std::io::Error| Error::file(&done, e);
    let _ = std::fs::remove_dir_all(&part);
    std::fs::create_dir_all(&part).map_err(io)?;
    checkpoint::save(part.join(WEIGHTS), vars, model)?;
    optimizer.save(&part.join(OPTIMIZER))?;
    let state = serde_json::to_vec_pretty(&State {
        step,
        config: config.clone(),
    })
    .map_err(|e| Error::file(&done, e))?;
    std::fs::write(part.join(STATE), state).map_err(io)?;
    for name in [WEIGHTS, OPTIMIZER, STATE] {
        std::fs::File::open(part.join(name))
            .and_then(|f| f.sync_all())
            .map_err(io)?;
    }
    let _ = std::fs::remove_dir_all(&done);
    std::fs::rename(&part, &done).map_err(io)?;
    let mut old = all(folder);
    old.truncate(old.len().saturating_sub(config.keep_checkpoints));
    for (_, path) in old {
        let _ = std::fs::remove_dir_all(path);
    }
    Ok(done)
}

/// Reads a checkpoint into variables and optimiser; returns the number of finished steps.
pub(crate) fn load(
    path: &Path,
    vars: &VarMap,
    model: &UniferumConfig,
    optimizer: &mut Optimizer,
    config: &TrainConfig,
) -> Result<u64> {
    let file = path.join(STATE);
    let text = std::fs::read_to_string(&file).map_err(|e| Error::file(&file, e))?;
    let state: State = serde_json::from_str(&text).map_err(|e| Error::file(&file, e))?;
    if state.config != *config {
        let what = "the run was started with another configuration; start anew or give that one";
        return Err(Error::file(&file, what));
    }
    checkpoint::load_into(path.join(WEIGHTS), vars, model)?;
    optimizer.load(&path.join(OPTIMIZER))?;
    Ok(state.step)
}
