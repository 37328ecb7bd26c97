//! The folder of a run.

use std::path::Path;

use anyhow::ensure;
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
