//! The mask that belongs to a scan, by name: a label map, or a folder with one file a class.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::gather::{MaskClasses, stem};
use crate::error::{Error, Result};
use crate::io::SUBFOLDER;

/// What mask tools append to the scan's name.
const MARKS: [&str; 5] = ["", "_seg", "_mask", "_label", "_total"];

/// A folder of masks, looked through once.
#[derive(Debug)]
pub(super) struct MaskFolder<'a> {
    path: PathBuf,
    classes: &'a MaskClasses,
    /// Masks by stem; `None` where several have it.
    by_stem: BTreeMap<String, Option<PathBuf>>,
    /// Folders of classes by the case's name; `None` where several have it.
    by_case: BTreeMap<String, Option<PathBuf>>,
    /// All folders of classes.
    class_folders: BTreeSet<PathBuf>,
}

impl<'a> MaskFolder<'a> {
    /// Looks through a folder; with `classes`, files named after one are parts of a folder of classes.
    pub(super) fn open(path: &Path, classes: &'a MaskClasses) -> Result<Self> {
        let mut folder = Self {
            path: path.to_owned(),
            classes,
            by_stem: BTreeMap::new(),
            by_case: BTreeMap::new(),
            class_folders: BTreeSet::new(),
        };
        folder.search(path)?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn search(&mut self, folder: &Path) -> Result<()> {
        let fail = |source| Error::io(folder, source);
        let mut has_classes = false;
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            if path.is_dir() {
                self.search(&path)?;
            } else if is_class(&path, self.classes) {
                has_classes = true;
            } else {
                note(&mut self.by_stem, stem(&path), path);
            }
        }
        if has_classes {
            self.class_folders.insert(folder.to_owned());
            if let Some(case) = case_of(folder) {
                note(&mut self.by_case, case, folder.to_owned());
            }
        }
        Ok(())
    }

    /// The mask of a scan, a file or a folder of classes.
    ///
    /// In this order: what lies at the same place below the folder as the scan below its root, under its
    /// name or under that of its folder; the only one in the folder with the scan's name, or that and
    /// `_seg`, `_mask`, `_label`, `_total`; the folder itself if it holds the classes of the only scan.
    pub(super) fn of(&self, scan: &Path, root: &Path, only_scan: bool) -> Option<PathBuf> {
        let other = |path: &PathBuf| !same_file(path, scan);
        if let Ok(tail) = scan.strip_prefix(root) {
            let path = self.path.join(tail);
            if path.is_file() && other(&path) {
                return Some(path);
            }
            let named = tail.file_name().map(|_| tail.with_file_name(stem(scan)));
            let parent = tail.parent().filter(|p| !p.as_os_str().is_empty());
            let cases = named.iter().map(PathBuf::as_path).chain(parent);
            if let Some(found) = cases.into_iter().find_map(|case| self.classes_below(case)) {
                return Some(found);
            }
        }
        let stem = stem(scan);
        let by_name = MARKS.iter().find_map(|mark| {
            let name = format!("{stem}{mark}");
            let file = self.by_stem.get(&name).cloned().flatten();
            file.filter(other)
                .or_else(|| self.by_case.get(&name).cloned().flatten())
        });
        by_name.or_else(|| {
            let own = || self.classes_below(Path::new(""));
            only_scan.then(own).flatten()
        })
    }

    /// The classes of a case, in its folder or in `segmentations` below it.
    fn classes_below(&self, case: &Path) -> Option<PathBuf> {
        // `join("")` would end in a separator.
        let folder = self.path.join(case).components().collect::<PathBuf>();
        let folders = [folder.join(SUBFOLDER), folder];
        folders
            .into_iter()
            .find(|folder| self.class_folders.contains(folder))
    }
}

/// Where a mask that is a folder has its classes: there, or in `segmentations` below.
pub(super) fn class_folder(path: &Path, classes: &MaskClasses) -> Option<PathBuf> {
    let has_classes = |folder: &PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .any(|path| is_class(&path, classes))
    };
    [path.to_owned(), path.join(SUBFOLDER)]
        .into_iter()
        .find(has_classes)
}

/// Whether a file is named after a class.
pub(super) fn is_class(path: &Path, classes: &MaskClasses) -> bool {
    // Most names end here without an allocation.
    !classes.is_empty() && {
        let stem = stem(path);
        classes.iter().any(|(name, _)| *name == stem) && !path.is_dir()
    }
}

/// The case's name: that of the folder, or of the one above `segmentations`.
fn case_of(folder: &Path) -> Option<String> {
    let name = folder.file_name()?;
    let case = if name == SUBFOLDER {
        folder.parent()?.file_name()?
    } else {
        name
    };
    Some(case.to_string_lossy().into_owned())
}

fn note(names: &mut BTreeMap<String, Option<PathBuf>>, name: String, path: PathBuf) {
    names
        .entry(name)
        .and_modify(|known| *known = None)
        .or_insert(Some(path));
}

/// Whether two paths lead to the same file, however they are written.
fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
