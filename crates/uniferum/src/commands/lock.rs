//! One process a folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use anyhow::{Context, bail};

/// Makes the folder, and keeps its lock `name` until the result is dropped: two processes that wrote the same
/// files would lose each other's. `does` says in the message what the other does there.
pub(crate) fn lock(folder: &Path, name: &str, does: &str) -> anyhow::Result<File> {
    let path = folder.join(name);
    let place = || path.display().to_string();
    std::fs::create_dir_all(folder).with_context(place)?;
    let file = File::create(&path).with_context(place)?;
    // File systems without locks have to do without.
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        bail!(
            "{}: another process {does} in this folder",
            folder.display()
        );
    }
    Ok(file)
}
