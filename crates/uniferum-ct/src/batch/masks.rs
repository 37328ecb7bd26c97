//! The mask that belongs to a scan, by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::gather::stem;
use crate::error::{Error, Result};

/// What mask tools append to the scan's name.
const MARKS: [&str; 5] = ["", "_seg", "_mask", "_label", "_total"];

/// A folder of masks, looked through once.
#[derive(Debug)]
pub(super) struct MaskFolder {
    path: PathBuf,
    /// Masks by stem; `None` where several have it.
    by_stem: BTreeMap<String, Option<PathBuf>>,
}

impl MaskFolder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut folder = Self {
            path: path.to_owned(),
            by_stem: BTreeMap::new(),
        };
        folder.search(path)?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn search(&mut self, folder: &Path) -> Result<()> {
        let fail = |source| Error::io(folder, source);
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() {
                self.search(&path)?;
            } else {
                let several = |known: &mut Option<PathBuf>| *known = None;
                self.by_stem
                    .entry(stem(&path))
                    .and_modify(several)
                    .or_insert(Some(path));
            }
        }
        Ok(())
    }

    /// The mask at the same place below the folder as the scan below its root; else the only one in the
    /// folder with the scan's name, or that and `_seg`, `_mask`, `_label`, `_total`.
    pub(super) fn of(&self, scan: &Path, root: &Path) -> Option<PathBuf> {
        let same_place = scan
            .strip_prefix(root)
            .ok()
            .map(|tail| self.path.join(tail));
        if let Some(path) = same_place.filter(|path| path.is_file() && path != scan) {
            return Some(path);
        }
        let stem = stem(scan);
        MARKS.iter().find_map(|mark| {
            let found = self.by_stem.get(&format!("{stem}{mark}"))?.clone();
            found.filter(|path| path != scan)
        })
    }
}
