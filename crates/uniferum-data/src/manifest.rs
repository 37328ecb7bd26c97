//! One table for every collection: scans, masks, patients, splits, labels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uniferum_tasks::{Catalogue, Task};

use crate::error::{Error, Result};

/// Which part of a study a patient belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Trained on.
    Train,
    /// Chooses checkpoints and thresholds.
    Val,
    /// Looked at once.
    Test,
}

/// A scan of a collection and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// The scan's file.
    pub path: PathBuf,
    /// TotalSegmentator v2 numbers on the scan's grid.
    pub mask: Option<PathBuf>,
    /// Lung nodules on the scan's grid.
    pub nodules: Option<PathBuf>,
    /// The patient; the file's name where the table does not say.
    pub patient: String,
    /// Train, validation or test.
    pub split: Split,
    /// Labels by task id; a missing label has no entry.
    pub labels: BTreeMap<String, bool>,
}

impl Scan {
    /// The file's name without folders and endings.
    pub fn name(&self) -> String {
        let name = self
            .path
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        name.split('.').next().unwrap_or(&name).to_owned()
    }
}

/// The scans of one or several collections.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Manifest {
    /// The scans, in table order.
    pub scans: Vec<Scan>,
}

impl Manifest {
    /// Reads a CSV table with the columns `scan`, `split` (`train`, `val`, `test`) and, where known,
    /// `mask`, `nodules`, `patient`; every other column is a label of the catalogue's `group` (by its
    /// column name or task id). Paths are relative to the table.
    ///
    /// Labels are `1`, `0`, `true`, `false`, `1.0`, `0.0` in any case; empty, `nan`, `-1` and anything
    /// that begins with `censor` is missing, never negative.
    ///
    /// # Errors
    /// [`Error::Table`] with the row: no such file, an unknown column, split or value, one patient in two
    /// splits.
    pub fn read_csv(path: impl AsRef<Path>, catalogue: &Catalogue, group: &str) -> Result<Self> {
        let path = path.as_ref();
        let fail = |row, what: String| Error::table(path, row, what);
        let mut table = csv::Reader::from_path(path).map_err(|e| fail(None, e.to_string()))?;
        let head = table
            .headers()
            .map_err(|e| fail(None, e.to_string()))?
            .clone();
        let columns = Columns::new(path, &head, catalogue, group)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut scans = Vec::new();
        for (index, record) in table.records().enumerate() {
            let record = record.map_err(|e| fail(Some(index + 1), e.to_string()))?;
            let scan = columns
                .scan(folder, &record)
                .map_err(|what| fail(Some(index + 1), what))?;
            scans.push(scan);
        }
        let manifest = Manifest { scans };
        manifest.check_patients().map_err(|what| fail(None, what))?;
        Ok(manifest)
    }

    /// Indices of the scans of a split.
    pub fn of(&self, split: Split) -> Vec<usize> {
        (0..self.scans.len())
            .filter(|&i| self.scans[i].split == split)
            .collect()
    }

    fn check_patients(&self) -> std::result::Result<(), String> {
        let mut splits: BTreeMap<&str, Split> = BTreeMap::new();
        for scan in &self.scans {
            let first = *splits.entry(&scan.patient).or_insert(scan.split);
            if first != scan.split {
                return Err(format!(
                    "patient {} is in two splits, {first:?} and {:?}",
                    scan.patient, scan.split
                ));
            }
        }
        Ok(())
    }
}

/// Where the columns are.
struct Columns {
    scan: usize,
    split: usize,
    mask: Option<usize>,
    nodules: Option<usize>,
    patient: Option<usize>,
    labels: Vec<(usize, String)>,
}

impl Columns {
    fn new(
        path: &Path,
        head: &csv::StringRecord,
        catalogue: &Catalogue,
        group: &str,
    ) -> Result<Self> {
        let find = |name: &str| head.iter().position(|h| h == name);
        let need = |name: &str| {
            find(name).ok_or_else(|| {
                let have: Vec<&str> = head.iter().collect();
                Error::table(
                    path,
                    None,
                    format!("no column {name}; there are {}", have.join(", ")),
                )
            })
        };
        let named = ["scan", "split", "mask", "nodules", "patient"];
        let mut labels = Vec::new();
        for (index, name) in head.iter().enumerate().filter(|(_, h)| !named.contains(h)) {
            let task: Option<&Task> = catalogue
                .get(name)
                .or_else(|| catalogue.by_label(group, name));
            let task = task.ok_or_else(|| {
                Error::table(
                    path,
                    None,
                    format!("column {name} is no label of the group {group}"),
                )
            })?;
            labels.push((index, task.id.clone()));
        }
        Ok(Columns {
            scan: need("scan")?,
            split: need("split")?,
            mask: find("mask"),
            nodules: find("nodules"),
            patient: find("patient"),
            labels,
        })
    }

    fn scan(&self, folder: &Path, record: &csv::StringRecord) -> std::result::Result<Scan, String> {
        let cell = |index: usize| record.get(index).unwrap_or("").trim();
        let file = |index: usize| {
            let text = cell(index);
            (!text.is_empty()).then(|| folder.join(text))
        };
        let path = file(self.scan).ok_or("the scan's path is empty")?;
        if !path.is_file() {
            return Err(format!("scan {}: no such file", path.display()));
        }
        let split = match cell(self.split) {
            "train" => Split::Train,
            "val" | "valid" | "validation" => Split::Val,
            "test" => Split::Test,
            other => return Err(format!("split: expected train, val or test, got {other:?}")),
        };
        let mut labels = BTreeMap::new();
        for (index, id) in &self.labels {
            if let Some(label) = parse_label(cell(*index)).map_err(|got| format!("{id}: {got}"))? {
                labels.insert(id.clone(), label);
            }
        }
        let mut scan = Scan {
            path,
            mask: self.mask.and_then(file),
            nodules: self.nodules.and_then(file),
            patient: self.patient.map_or("", cell).to_owned(),
            split,
            labels,
        };
        if scan.patient.is_empty() {
            scan.patient = scan.name();
        }
        Ok(scan)
    }
}

fn parse_label(text: &str) -> std::result::Result<Option<bool>, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "1.0" | "true" => Ok(Some(true)),
        "0" | "0.0" | "false" => Ok(Some(false)),
        "" | "nan" | "na" | "-1" | "-1.0" => Ok(None),
        missing if missing.starts_with("censor") => Ok(None),
        _ => Err(format!(
            "label: expected 1, 0, true, false or nothing, got {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Manifest> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.nii.gz"), b"").unwrap();
        std::fs::write(folder.path().join("b.nii.gz"), b"").unwrap();
        let path = folder.path().join("labels.csv");
        std::fs::write(&path, text).unwrap();
        Manifest::read_csv(&path, &Catalogue::standard(), "phantom")
    }

    #[test]
    fn missing_is_not_negative() {
        let m = read(
            "scan,split,patient,pleural_effusion,emphysema,cardiomegaly\n\
             a.nii.gz,train,p1,1,Censored,0\nb.nii.gz,test,p2,FALSE,,nan\n",
        )
        .unwrap();
        assert_eq!(m.of(Split::Train), [0]);
        let labels: Vec<_> = m.scans[0]
            .labels
            .iter()
            .map(|(k, v)| (k.as_str(), *v))
            .collect();
        assert_eq!(
            labels,
            [
                ("phantom.cardiomegaly", false),
                ("phantom.pleural-effusion", true)
            ]
        );
        assert_eq!(m.scans[1].labels.len(), 1);
    }

    #[test]
    fn mistakes_are_named_with_their_row() {
        let fails = |text: &str, part: &str| {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails("scan,split\na.nii.gz,train\nc.nii.gz,test\n", "row 2");
        fails("scan,split,emphysema\na.nii.gz,train,maybe\n", "maybe");
        fails("scan,split,unknown\na.nii.gz,train,1\n", "unknown");
        fails("scan\na.nii.gz\n", "split");
        fails(
            "scan,split,patient\na.nii.gz,train,p\nb.nii.gz,test,p\n",
            "two splits",
        );
    }
}
