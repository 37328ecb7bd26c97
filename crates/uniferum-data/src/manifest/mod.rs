//! One table for every collection: scans, masks, patients, studies, splits, labels.

mod cells;
mod merge;
mod parse;
mod paths;
mod split;
mod table;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uniferum_ct::HuSource;
use uniferum_tasks::Catalogue;

use crate::error::{Error, Result};

pub use cells::{Label, is_missing};
pub(crate) use cells::{number, split_cell};
pub(crate) use merge::Gathered;
pub(crate) use parse::files;
pub use parse::{Problem, ProblemKind};
use paths::plain;
pub use split::{SplitBy, SplitPlan};
pub use table::Table;
pub(crate) use write::write_atomically;

/// Which part of a study a patient belongs to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Trained on.
    #[default]
    Train,
    /// Chooses checkpoints and thresholds.
    Val,
    /// Looked at once.
    Test,
}

impl Split {
    /// All three, in the order of a study.
    pub const ALL: [Split; 3] = [Split::Train, Split::Val, Split::Test];

    /// The name used in tables: `train`, `val` or `test`.
    pub fn as_str(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
            Split::Test => "test",
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A scan of a collection and what is known of it.
///
/// Fields are added as collections need them: build one with `..Scan::default()`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scan {
    /// The scan's file.
    pub path: PathBuf,
    /// TotalSegmentator v2 numbers on the scan's grid.
    pub mask: Option<PathBuf>,
    /// Lung nodules on the scan's grid.
    pub nodules: Option<PathBuf>,
    /// The patient; the file's name where the table does not say.
    pub patient: String,
    /// The examination, of which there may be several reconstructions; empty where not known.
    pub study: String,
    /// The collection, such as `ct-rate`; empty where not known.
    pub collection: String,
    /// Train, validation or test.
    pub split: Split,
    /// Labels by task id; a missing label has no entry.
    pub labels: BTreeMap<String, bool>,
    /// Ids of the tasks whose outcome is censored: missing, and known to be so.
    pub censored: BTreeSet<String>,
    /// Where the file's Hounsfield units come from.
    pub hu: HuSource,
    /// Voxel spacing along x, y, z that the collection's own table states, mm; a check, not a correction.
    pub spacing_mm: Option<[f64; 3]>,
}

impl Scan {
    /// The file's name without folders and endings.
    pub fn name(&self) -> String {
        base_name(&self.path)
    }

    /// Enters a label cell; `Ok(false)` where the opposite was entered before, which stays.
    pub(crate) fn set_label(&mut self, task: &str, label: Label) -> bool {
        match label {
            Label::Missing => true,
            Label::Censored => {
                self.censored.insert(task.to_owned());
                true
            }
            Label::Positive | Label::Negative => {
                let value = label == Label::Positive;
                *self.labels.entry(task.to_owned()).or_insert(value) == value
            }
        }
    }
}

/// A file's name up to the endings that scans have: series numbers contain dots.
pub fn base_name(path: &Path) -> String {
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    let endings = [
        ".nii.gz", ".nii", ".npz", ".mhd", ".mha", ".nrrd", ".nhdr", ".dcm", ".uct", ".bin",
        ".hdr.gz", ".hdr", ".img.gz", ".img",
    ];
    let stem = endings.iter().find_map(|e| name.strip_suffix(e));
    stem.unwrap_or(&name).to_owned()
}

/// Makes each scan whose patient has no name, or but the collection's before it, a patient of its own: called
/// by its file, and by its path below the table's `folder` where several files or another patient have that name,
/// so that patients are called alike wherever the table lies.
pub(crate) fn name_patients(scans: &mut [Scan], folder: &Path) {
    let is_nobody = |scan: &Scan| scan.patient.is_empty() || scan.patient.ends_with(':');
    let own_name = |scan: &Scan| format!("{}{}", scan.patient, scan.name());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for scan in scans.iter() {
        let name = match is_nobody(scan) {
            true => own_name(scan),
            false => scan.patient.clone(),
        };
        *times.entry(name).or_default() += 1;
    }
    for scan in scans.iter_mut().filter(|scan| is_nobody(scan)) {
        let name = match times[&own_name(scan)] {
            1 => scan.name(),
            _ => {
                let below = scan.path.strip_prefix(folder).unwrap_or(&scan.path);
                below.display().to_string()
            }
        };
        scan.patient += &name;
    }
}

/// The base names in a list of scans, one a line.
///
/// # Errors
/// [`Error::Table`] for a file that cannot be read.
pub(crate) fn listed(list: &Path) -> Result<HashSet<String>> {
    let text = uniferum_ct::io::read_text(list).map_err(|e| Error::table(list, None, e))?;
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    Ok(lines.map(|line| base_name(Path::new(line))).collect())
}

/// The scans of one or several collections.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Manifest {
    /// The scans, in table order.
    pub scans: Vec<Scan>,
}

impl Manifest {
    /// Reads a table (CSV, TSV or parquet) with the columns `scan`, `split` (`train`, `val`, `test`) and,
    /// where known, `mask`, `nodules`, `patient`, `study`, `collection`, `hu_source` (`header`,
    /// `already_hu`, `table` with `hu_slope` and `hu_intercept`), `spacing_mm` and `censored` (task ids);
    /// every other column is a label: a task id, or a column name of the catalogue's `group`. With the
    /// columns `task` and `label` the table is long: a row a label. Paths are relative to the table.
    ///
    /// Labels are read by [`Label::parse`]: a missing or censored one is never negative.
    ///
    /// # Errors
    /// [`Error::Table`] with the row: no such file, an unknown column, split or value, one patient in two
    /// splits. [`Manifest::read_with_problems`] goes on instead.
    pub fn read(path: impl AsRef<Path>, catalogue: &Catalogue, group: &str) -> Result<Self> {
        let path = path.as_ref();
        let (manifest, problems) = Self::read_with_problems(path, catalogue, group)?;
        match problems.into_iter().next() {
            Some(problem) => Err(Error::table(path, problem.row, problem.what)),
            None => Ok(manifest),
        }
    }

    /// Reads what can be read of a manifest, with everything that is wrong with it.
    ///
    /// Rows without a usable scan path or split are left out, cells that cannot be read are missing.
    ///
    /// # Errors
    /// [`Error::Table`] where the file is no table or has no column `scan` or `split`.
    pub fn read_with_problems(
        path: impl AsRef<Path>,
        catalogue: &Catalogue,
        group: &str,
    ) -> Result<(Self, Vec<Problem>)> {
        parse::manifest(&Table::read(path)?, catalogue, group)
    }

    /// Patients and studies that are in more than one split.
    pub fn leaks(&self) -> Vec<Problem> {
        parse::leaks(&self.scans)
    }

    /// Indices of the scans of a split.
    pub fn of(&self, split: Split) -> Vec<usize> {
        (0..self.scans.len())
            .filter(|&i| self.scans[i].split == split)
            .collect()
    }

    /// The ids of all tasks that some scan has a label or a censored outcome for, sorted.
    pub fn task_ids(&self) -> Vec<&str> {
        let labels = self.scans.iter().flat_map(|s| s.labels.keys());
        let censored = self.scans.iter().flat_map(|s| &s.censored);
        let ids: BTreeSet<&str> = labels.chain(censored).map(String::as_str).collect();
        ids.into_iter().collect()
    }
}
