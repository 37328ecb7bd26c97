//! Scans below folders, in lists and in tables.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::rows::add_table;
use super::{Entry, MaskClasses, SCAN_ENDS, base_name, parent};
use crate::batch::masks::is_class;
use crate::error::{Error, Result};
use crate::io::{dicom, read_text};

/// How inputs are looked through, and what was found.
pub(super) struct Search<'a> {
    /// A folder that is passed over.
    pub(super) exclude: Option<&'a Path>,
    /// Folders that are passed over below an input.
    pub(super) masks: BTreeSet<PathBuf>,
    /// Whether folders of results are passed over below an input.
    pub(super) pass_over_results: bool,
    /// Files of these names are masks.
    pub(super) classes: &'a MaskClasses,
    /// Folders of this input that were searched: links may lead to them again, in circles too.
    pub(super) visited: BTreeSet<PathBuf>,
    pub(super) found: Vec<Entry>,
    /// Folders that look as if they held scans, and why they do not.
    pub(super) left_out: Vec<String>,
}

/// The folders of results beside these files: of prepared volumes and of predicted masks. Scans may lie there
/// too.
fn results_beside(files: &[PathBuf]) -> &'static [&'static str] {
    let has = |is: &dyn Fn(&str) -> bool| files.iter().any(|file| is(&base_name(file)));
    if has(&|name| name == "prepare.json") {
        return &["scans", "masks", "nodules", "bin", "seg", "nodule_seg"];
    }
    // Each part of a run has a file of its own; only one of them is called `predict.json`.
    if has(&|name| {
        name == "predict.json" || name.starts_with("predict-") && name.ends_with(".json")
    }) {
        return &["masks"];
    }
    &[]
}

impl Search<'_> {
    pub(super) fn add(&mut self, input: &Path) -> Result<()> {
        let end = |end: &str| {
            let name = input.extension().unwrap_or_default();
            name.eq_ignore_ascii_case(end) && input.is_file()
        };
        if input.is_dir() {
            self.visited.clear();
            return self.folder(input, input).map(|_| ());
        }
        if end("txt") {
            return add_list(input, &mut self.found);
        }
        if end("csv") {
            return add_table(input, &mut self.found);
        }
        if end("parquet") || end("tsv") {
            let got = "another kind of table: `uniferum manifest merge` writes a manifest as CSV";
            return Err(Error::field(input, "table", "CSV", got));
        }
        // A file that is not there becomes a row with its error.
        self.found.push(Entry {
            scan: input.to_owned(),
            root: parent(input),
            ..Entry::default()
        });
        Ok(())
    }

    /// Scans below a folder by name; a folder that holds DICOM files is one scan. Where folders below it
    /// hold some, they are the scans instead: read together, they would be prepared twice. Returns whether
    /// there is DICOM.
    fn folder(&mut self, root: &Path, folder: &Path) -> Result<bool> {
        let real = folder.canonicalize();
        let real = real.map_err(|source| Error::io(folder, source))?;
        let below_root = folder != root;
        if self.passes_over(folder, &real, below_root) || !self.visited.insert(real) {
            return Ok(false);
        }
        let paths = paths_in(folder)?;
        let results = match below_root && self.pass_over_results {
            true => results_beside(&paths),
            false => &[],
        };
        let entry = |scan: &Path| Entry {
            scan: scan.to_owned(),
            root: root.to_owned(),
            ..Entry::default()
        };
        let first = self.found.len();
        let (mut here, mut may_be_ct, mut below) = (false, false, false);
        for path in paths {
            if hidden(&path) || is_class(&path, self.classes) {
                continue;
            }
            if path.is_dir() && results.contains(&base_name(&path).as_str()) {
                self.leave_out(&path, "results of this program");
            } else if path.is_dir() {
                below |= self.folder(root, &path)?;
            } else if is_scan_name(&path) {
                self.found.push(entry(&path));
            } else if !may_be_ct && is_dicom(&path) {
                here = true;
                // One that a person named is read whatever it holds, and what is wrong with it is told then.
                may_be_ct = !below_root || dicom::may_be_ct(&path);
            }
        }
        if here && !may_be_ct {
            let why = "DICOM files in the folder itself, but no CT among them";
            self.leave_out(folder, why);
        } else if here && below {
            let text = format!("DICOM files in {} itself are left out", folder.display());
            let scans = self.found[first..].iter_mut().filter(|e| e.scan.is_dir());
            scans.for_each(|entry| entry.warnings.push(text.clone()));
        } else if here {
            self.found.push(entry(folder));
        }
        Ok(below || may_be_ct)
    }

    /// Whether a folder is not searched at all: one of masks, or that for results.
    fn passes_over(&mut self, folder: &Path, real: &Path, below_root: bool) -> bool {
        if below_root && self.masks.contains(real) {
            self.leave_out(folder, "named as a folder of masks");
            return true;
        }
        if self.exclude != Some(real) {
            return false;
        }
        if !below_root {
            self.leave_out(folder, "the folder for results, which is not searched");
        }
        true
    }

    fn leave_out(&mut self, folder: &Path, why: &str) {
        let text = format!("{}: {why}", folder.display());
        self.left_out.push(text);
    }
}

/// What lies in a folder, by name. Links to folders come last: what they lead to has its own name where it is
/// met first.
fn paths_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source| Error::io(folder, source);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        paths.push(entry.map_err(fail)?.path());
    }
    paths.sort_by_cached_key(|path| (path.is_symlink() && path.is_dir(), path.clone()));
    Ok(paths)
}

fn add_list(list: &Path, found: &mut Vec<Entry>) -> Result<()> {
    let text =
        read_text(list).map_err(|what| Error::field(list, "list", "text, a path a line", what))?;
    let root = parent(list);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let scan = root.join(line);
        found.push(Entry {
            scan,
            root: root.clone(),
            ..Entry::default()
        });
    }
    Ok(())
}

fn hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with('.')
}

fn is_scan_name(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    SCAN_ENDS.iter().any(|end| name.ends_with(end))
}

/// The mark of a DICOM file after its preamble, or the usual name. The table of contents of a medium has the
/// mark, too, but no image.
fn is_dicom(path: &Path) -> bool {
    if base_name(path).eq_ignore_ascii_case("DICOMDIR") {
        return false;
    }
    if path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("dcm"))
    {
        return true;
    }
    let mut head = [0; 132];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head))
        .is_ok_and(|()| head[128..] == *b"DICM")
}
