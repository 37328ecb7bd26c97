//! Files below a folder, by their base names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::base_name;

/// All files below `root` that end in one of `endings`, sorted by path.
pub(super) fn below(root: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::table(&folder, None, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::table(&folder, None, e))?;
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|e| path.to_string_lossy().ends_with(e)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// As [`below`], by base name; what lies below one of `outputs` is not looked at.
///
/// # Errors
/// [`Error::Table`] where two files share a base name.
pub(super) fn by_name(
    root: &Path,
    endings: &[&str],
    outputs: &[&Path],
) -> Result<BTreeMap<String, PathBuf>> {
    let mut named = BTreeMap::new();
    let found = below(root, endings)?;
    let ours = |p: &PathBuf| !outputs.iter().any(|o| p.starts_with(o));
    for path in found.into_iter().filter(ours) {
        let name = base_name(&path);
        if let Some(other) = named.insert(name.clone(), path) {
            let what = format!("two files are called {name}: one is {}", other.display());
            return Err(Error::table(root, None, what));
        }
    }
    Ok(named)
}

/// The newest (last by name) of the files `prefix…suffix` in the first of several folders that has one.
pub(super) fn newest(folders: &[PathBuf], prefix: &str, suffix: &str) -> Result<Option<PathBuf>> {
    for folder in folders.iter().filter(|f| f.is_dir()) {
        let entries = std::fs::read_dir(folder).map_err(|e| Error::table(folder, None, e))?;
        let mut found: Vec<PathBuf> = entries
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                let name = p.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(prefix) && name.ends_with(suffix)
            })
            .collect();
        found.sort();
        if let Some(last) = found.pop() {
            return Ok(Some(last));
        }
    }
    Ok(None)
}

/// Whether a file is there and no older than any of its `sources`: made from them as they are now.
pub(super) fn is_current(file: &Path, sources: &[PathBuf]) -> bool {
    let modified = |path: &Path| std::fs::metadata(path)?.modified();
    let Ok(own) = modified(file) else {
        return false;
    };
    sources
        .iter()
        .all(|source| modified(source).is_ok_and(|time| time <= own))
}

/// Refuses a folder with what was made from another collection that is still there: files of one name lie in
/// many.
///
/// # Errors
/// [`Error::Table`] naming that collection.
pub(super) fn claim(folder: &Path, collection: &Path) -> Result<()> {
    let whole = std::fs::canonicalize(collection).map_err(|e| Error::table(collection, None, e))?;
    let note = folder.join(".made-from");
    if let Ok(before) = std::fs::read_to_string(&note) {
        let before = Path::new(before.trim_end());
        if before == whole {
            return Ok(());
        }
        if before.is_dir() {
            let what = format!(
                "holds label maps of {}; expected those of {}, or another folder for them",
                before.display(),
                whole.display()
            );
            return Err(Error::table(folder, None, what));
        }
    }
    // Maps that are all made already may lie where nothing can be written.
    let _ = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&note, format!("{}\n", whole.display())));
    Ok(())
}
