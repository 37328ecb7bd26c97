//! Scans below folders, in lists and in tables.

use std::path::Path;

use super::rows::add_table;
use super::{Entry, MaskClasses, SCAN_ENDS, base_name, parent};
use crate::batch::masks::is_class;
use crate::error::{Error, Result};

/// How inputs are looked through.
pub(super) struct Search<'a> {
    /// A folder that is passed over.
    pub(super) exclude: Option<&'a Path>,
    /// Files of these names are masks.
    pub(super) classes: &'a MaskClasses,
}

impl Search<'_> {
    pub(super) fn add(&self, input: &Path, found: &mut Vec<Entry>) -> Result<()> {
        let end = |end: &str| {
            let name = input.extension().unwrap_or_default();
            name.eq_ignore_ascii_case(end) && input.is_file()
        };
        if input.is_dir() {
            return self.folder(input, input, found).map(|_| ());
        }
        if end("txt") {
            return add_list(input, found);
        }
        if end("csv") {
            return add_table(input, found);
        }
        if end("parquet") || end("tsv") {
            let got = "another kind of table: `uniferum manifest merge` writes a manifest as CSV";
            return Err(Error::field(input, "table", "CSV", got));
        }
        // A file that is not there becomes a row with its error.
        found.push(Entry {
            scan: input.to_owned(),
            root: parent(input),
            ..Entry::default()
        });
        Ok(())
    }

    /// Scans below a folder by name; a folder that holds DICOM files is one scan. Where folders below it
    /// hold some, they are the scans instead: read together, they would be prepared twice. Returns whether
    /// there is DICOM.
    fn folder(&self, root: &Path, folder: &Path, found: &mut Vec<Entry>) -> Result<bool> {
        if self.exclude.is_some() && folder.canonicalize().ok().as_deref() == self.exclude {
            return Ok(false);
        }
        let fail = |source| Error::io(folder, source);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            paths.push(entry.map_err(fail)?.path());
        }
        paths.sort();
        let entry = |scan: &Path| Entry {
            scan: scan.to_owned(),
            root: root.to_owned(),
            ..Entry::default()
        };
        let first = found.len();
        let (mut here, mut below) = (false, false);
        for path in paths {
            if hidden(&path) || is_class(&path, self.classes) {
                continue;
            }
            if path.is_dir() {
                below |= self.folder(root, &path, found)?;
            } else if is_scan_name(&path) {
                found.push(entry(&path));
            } else {
                here = here || is_dicom(&path);
            }
        }
        match (here, below) {
            (true, false) => found.push(entry(folder)),
            (true, true) => {
                let text = format!("DICOM files in {} itself are left out", folder.display());
                let scans = found[first..].iter_mut().filter(|e| e.scan.is_dir());
                scans.for_each(|entry| entry.warnings.push(text.clone()));
            }
            _ => {}
        }
        Ok(here || below)
    }
}

fn add_list(list: &Path, found: &mut Vec<Entry>) -> Result<()> {
    let text = std::fs::read_to_string(list).map_err(|source| Error::io(list, source))?;
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
