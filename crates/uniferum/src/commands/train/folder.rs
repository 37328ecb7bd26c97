//! The folder of a run.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use uniferum_train::latest_checkpoint;

use super::Args;
use crate::global::Global;

/// The resolved configuration in a run's folder.
pub(super) const CONFIG: &str = "config.toml";

/// Refuses to train over what an earlier run left, or to go on with a run that is not there.
pub(super) fn check_folder(out: &Path, args: &Args, global: &Global) -> anyhow::Result<()> {
    let folder = out.display();
    let has = |name: &str| out.join(name).exists();
    let begun = latest_checkpoint(out).is_some();
    if !args.resume {
        ensure!(
            !begun && !has("model.safetensors") && !has("best"),
            "{folder} holds a run already: go on with --resume, or choose another folder"
        );
        return Ok(());
    }
    ensure!(
        begun || has(CONFIG) || args.config.is_some(),
        "--resume: {folder} holds no run; expected the folder of one, or --config for a new one"
    );
    if !begun {
        global.hint(format!(
            "{folder} has no checkpoint yet: the run begins with its first step"
        ));
    }
    Ok(())
}

/// Two processes that wrote one run's checkpoints would lose them.
pub(super) fn lock(out: &Path) -> anyhow::Result<File> {
    let path = out.join(".lock");
    let place = || path.display().to_string();
    std::fs::create_dir_all(out).with_context(place)?;
    let file = File::create(&path).with_context(place)?;
    // File systems without locks have to do without.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        bail!("{}: another process trains in this folder", out.display());
    }
    Ok(file)
}
