//! What is wrong with a manifest, before anybody trains on it.
//!
//! [`examine`] looks at the table and, where asked, at the voxels of all scans or of a sample. Errors are
//! what would make results wrong or a run fail; warnings are what a person should know of.

mod report;
mod tables;
mod voxels;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uniferum_tasks::Catalogue;

use crate::error::Result;
use crate::manifest::{Manifest, Split};

pub use voxels::{VoxelFacts, voxel_facts};

/// Whose voxels are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Voxels {
    /// Nobody's: tables and the existence of files only.
    None,
    /// Every scan's.
    #[default]
    All,
    /// So many scans', spread evenly over the manifest.
    Sample(usize),
}

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub struct DoctorOptions {
    /// Whose voxels.
    pub voxels: Voxels,
    /// A list of scans without a chest, one path or name a line; base names count.
    pub no_chest: Option<PathBuf>,
    /// Ids or groups of tasks that must have labels or masks.
    pub tasks: Vec<String>,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Results would be wrong, or a run would fail.
    Error,
    /// A person should know.
    Warning,
}

/// What was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// A patient or study in two splits.
    PatientLeak,
    /// Equal voxels in two files.
    DuplicateVoxels,
    /// A file that does not exist.
    MissingFile,
    /// A file that cannot be read: damaged, four-dimensional, without a usable affine.
    Unreadable,
    /// A label column, or a task that was asked for, that does not exist.
    UnknownLabel,
    /// A cell that cannot be read, or rows that contradict each other.
    BadValue,
    /// A scan of a head, or one without lungs.
    NoChest,
    /// Grey values that cannot be Hounsfield units.
    ImplausibleHu,
    /// Geometry that is unusual, or differs from what the collection's table says.
    Geometry,
    /// A mask that does not belong to its scan.
    Mask,
    /// Outcomes that are censored.
    Censored,
    /// A task with one class only, or with few positives.
    ClassCount,
    /// Patients that are not known.
    UnknownPatients,
}

impl Check {
    /// The name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Check::PatientLeak => "patient-leak",
            Check::DuplicateVoxels => "duplicate-voxels",
            Check::MissingFile => "missing-file",
            Check::Unreadable => "unreadable",
            Check::UnknownLabel => "unknown-label",
            Check::BadValue => "bad-value",
            Check::NoChest => "no-chest",
            Check::ImplausibleHu => "implausible-hu",
            Check::Geometry => "geometry",
            Check::Mask => "mask",
            Check::Censored => "censored",
            Check::ClassCount => "class-count",
            Check::UnknownPatients => "unknown-patients",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked for.
    pub check: Check,
    /// What is wrong, in words.
    pub what: String,
    /// The scans that it is about, if it is about some.
    pub scans: Vec<PathBuf>,
}

/// Labels of a task in a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The task's id.
    pub task: String,
    /// The split.
    pub split: Split,
    /// Scans that show it.
    pub positive: usize,
    /// Scans that do not.
    pub negative: usize,
    /// Scans without a label.
    pub missing: usize,
    /// Those of the missing that are censored.
    pub censored: usize,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Examination {
    /// The manifest.
    pub manifest: PathBuf,
    /// Scans in it.
    pub scans: usize,
    /// Patients in it.
    pub patients: usize,
    /// Scans whose voxels were read.
    pub read: usize,
    /// Number of errors.
    pub errors: usize,
    /// Number of warnings.
    pub warnings: usize,
    /// What was found, errors first.
    pub findings: Vec<Finding>,
    /// Labels of each task in each split.
    pub classes: Vec<ClassCount>,
    #[serde(skip)]
    kept: Manifest,
}

impl Examination {
    /// The manifest without the scans that an error is about.
    ///
    /// Of duplicates the first stays. Leaks of patients are errors of the split; they stay as they are.
    pub fn clean(&self) -> Manifest {
        let out = self.unusable();
        let kept = self
            .kept
            .scans
            .iter()
            .filter(|s| !out.contains(s.path.as_path()));
        Manifest {
            scans: kept.cloned().collect(),
        }
    }

    /// The scans that [`clean`](Self::clean) leaves out, those whose row could not be read among them.
    pub fn unusable(&self) -> BTreeSet<&Path> {
        let errors = self.findings.iter();
        errors
            .filter(|f| f.severity == Severity::Error)
            .flat_map(|f| {
                let first = usize::from(f.check == Check::DuplicateVoxels);
                f.scans.iter().skip(first).map(PathBuf::as_path)
            })
            .collect()
    }
}

/// Examines a manifest; `progress` is called after each scan that was read.
///
/// # Errors
/// [`Error`](crate::Error) where the manifest is no table, a list cannot be read or a group is not known;
/// everything else is a [`Finding`].
pub fn examine(
    path: &Path,
    catalogue: &Catalogue,
    group: &str,
    options: &DoctorOptions,
    progress: impl Fn(usize) + Sync,
) -> Result<Examination> {
    let (manifest, problems) = Manifest::read_with_problems(path, catalogue, group)?;
    let mut findings = tables::problems(problems, &manifest);
    findings.extend(tables::wanted(&manifest, catalogue, &options.tasks)?);
    if let Some(list) = &options.no_chest {
        findings.extend(tables::no_chest(&manifest, list)?);
    }
    findings.extend(tables::unknown_patients(&manifest));
    let classes = tables::classes(&manifest);
    findings.extend(tables::censored(&classes));
    findings.extend(tables::one_class(&classes));
    let chosen = chosen(&manifest, options.voxels);
    findings.extend(voxels::examine(&manifest, &chosen, progress));
    findings.sort_by_key(|f| (f.severity, f.check));
    let count = |s| findings.iter().filter(|f| f.severity == s).count();
    let patients: BTreeSet<&str> = manifest.scans.iter().map(|s| s.patient.as_str()).collect();
    Ok(Examination {
        manifest: path.to_owned(),
        scans: manifest.scans.len(),
        patients: patients.len(),
        read: chosen.len(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        findings,
        classes,
        kept: manifest,
    })
}

/// The scans to read; those without a file have their finding already.
fn chosen(manifest: &Manifest, voxels: Voxels) -> Vec<usize> {
    let mut there: Vec<usize> = (0..manifest.scans.len())
        .filter(|&i| manifest.scans[i].path.exists())
        .collect();
    match voxels {
        Voxels::None => there.clear(),
        Voxels::All => {}
        Voxels::Sample(n) if n >= there.len() => {}
        Voxels::Sample(n) => {
            let all = there.len();
            there = (0..n).map(|i| there[i * all / n]).collect();
        }
    }
    there
}

fn finding(severity: Severity, check: Check, what: impl Into<String>) -> Finding {
    Finding {
        severity,
        check,
        what: what.into(),
        scans: Vec::new(),
    }
}
