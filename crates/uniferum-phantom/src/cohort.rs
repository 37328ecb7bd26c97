//! A folder of phantoms with a table of labels, as a collection would arrive.

use std::path::{Path, PathBuf};

use rand::Rng;
use rayon::prelude::*;
use uniferum_ct::{replace_atomically, write_nifti};

use crate::MORTALITY_LABEL;
use crate::config::PhantomConfig;
use crate::error::{Error, Result};
use crate::finding::{Finding, Findings};
use crate::phantom::generate;
use crate::random::{Stream, key, stream};

/// Which part of a study a patient belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Seen in training.
    Train,
    /// Held out.
    Test,
}

/// A scan of a cohort: paths are relative to its folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The scan.
    pub scan: PathBuf,
    /// TotalSegmentator v2 numbers on the scan's grid.
    pub mask: PathBuf,
    /// Nodules on the scan's grid.
    pub nodules: PathBuf,
    /// The patient.
    pub patient: String,
    /// Train or test; a patient is in one of them only.
    pub split: Split,
    /// What the patient has.
    pub findings: Findings,
    /// The outcome.
    pub mortality_6m: bool,
}

impl Case {
    /// The label of a column of the table; `None` for an unknown column.
    pub fn label(&self, column: &str) -> Option<bool> {
        if column == MORTALITY_LABEL {
            return Some(self.mortality_6m);
        }
        Finding::ALL
            .into_iter()
            .find(|f| f.label() == column)
            .map(|f| self.findings.has(f))
    }
}

/// Writes `n` phantoms as `scans/*.nii.gz`, `masks/*.nii.gz`, `nodules/*.nii.gz` and `labels.csv`.
///
/// Phantoms are made in parallel; `progress` is called after each one.
///
/// # Errors
/// [`Error::Config`], [`Error::Io`], [`Error::Ct`].
pub fn write_cohort(
    folder: &Path,
    n: usize,
    seed: u64,
    config: &PhantomConfig,
    progress: &(dyn Fn() + Sync),
) -> Result<Vec<Case>> {
    config.validate()?;
    for part in ["scans", "masks", "nodules"] {
        let path = folder.join(part);
        std::fs::create_dir_all(&path).map_err(|source| Error::Io { path, source })?;
    }
    let test = test_patients(n, seed, config.test_fraction);
    let cases: Result<Vec<Case>> = (0..n)
        .into_par_iter()
        .map(|index| {
            let case = write_case(folder, index, seed, test[index], config)?;
            progress();
            Ok(case)
        })
        .collect();
    let cases = cases?;
    write_table(folder, &cases)?;
    Ok(cases)
}

/// Exactly the asked share of patients, drawn by the seed.
fn test_patients(n: usize, seed: u64, fraction: f64) -> Vec<bool> {
    let mut rng = stream(seed, Stream::Cohort);
    let mut order: Vec<(u64, usize)> = (0..n).map(|i| (rng.random(), i)).collect();
    order.sort_unstable();
    let count = (fraction * n as f64).round() as usize;
    let mut test = vec![false; n];
    for &(_, i) in &order[..count.min(n)] {
        test[i] = true;
    }
    test
}

fn write_case(
    folder: &Path,
    index: usize,
    seed: u64,
    test: bool,
    config: &PhantomConfig,
) -> Result<Case> {
    let phantom = generate(key(seed, index as u64), config)?;
    let patient = format!("phantom-{index:04}");
    let name = |part: &str| PathBuf::from(part).join(format!("{patient}.nii.gz"));
    let case = Case {
        scan: name("scans"),
        mask: name("masks"),
        nodules: name("nodules"),
        split: if test { Split::Test } else { Split::Train },
        findings: phantom.findings,
        mortality_6m: phantom.mortality_6m,
        patient,
    };
    write_nifti(folder.join(&case.scan), &phantom.ct)?;
    write_nifti(folder.join(&case.mask), &phantom.mask)?;
    write_nifti(folder.join(&case.nodules), &phantom.nodules)?;
    Ok(case)
}

fn write_table(folder: &Path, cases: &[Case]) -> Result<()> {
    let path = folder.join("labels.csv");
    let fail = |error: csv::Error| Error::Io {
        path: path.clone(),
        source: error.into(),
    };
    let mut table = csv::Writer::from_writer(Vec::new());
    let columns: Vec<&str> = Finding::ALL
        .iter()
        .map(|f| f.label())
        .chain([MORTALITY_LABEL])
        .collect();
    let head = ["scan", "mask", "nodules", "patient", "split"];
    table
        .write_record(head.iter().chain(&columns))
        .map_err(fail)?;
    for case in cases {
        let text = |p: &Path| p.to_string_lossy().into_owned();
        let split = if case.split == Split::Test {
            "test"
        } else {
            "train"
        };
        let mut row = vec![
            text(&case.scan),
            text(&case.mask),
            text(&case.nodules),
            case.patient.clone(),
            split.into(),
        ];
        row.extend(
            columns
                .iter()
                .map(|c| u8::from(case.label(c) == Some(true)).to_string()),
        );
        table.write_record(&row).map_err(fail)?;
    }
    // Where the table is, all scans are: it appears whole.
    let text = table
        .into_inner()
        .map_err(|e| fail(e.into_error().into()))?;
    replace_atomically(&path, ".part", |part| std::fs::write(part, &text))
        .map_err(|source| Error::Io { path, source })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_cohort_is_complete_and_repeatable() {
        let folder = tempfile::tempdir().unwrap();
        let config = PhantomConfig {
            shape: [32, 27, 22],
            spacing_mm: [12.0; 3],
            ..Default::default()
        };
        let done = AtomicUsize::new(0);
        let count = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let cases = write_cohort(folder.path(), 10, 5, &config, &count).unwrap();
        assert_eq!(done.into_inner(), 10);
        assert_eq!(cases.iter().filter(|c| c.split == Split::Test).count(), 3);
        for case in &cases {
            assert!(folder.path().join(&case.scan).is_file());
            let mask = uniferum_ct::read_mask(folder.path().join(&case.mask)).unwrap();
            assert!(mask.voxels.iter().any(|v| *v == 51));
            let nodules = uniferum_ct::read_mask(folder.path().join(&case.nodules)).unwrap();
            let seen = nodules.voxels.iter().any(|v| *v > 0);
            assert!(!seen || case.findings.has(Finding::LungNodule));
        }
        let table = std::fs::read_to_string(folder.path().join("labels.csv")).unwrap();
        assert_eq!(table.lines().count(), 11);
        let again = tempfile::tempdir().unwrap();
        assert_eq!(
            cases,
            write_cohort(again.path(), 10, 5, &config, &|| {}).unwrap()
        );
    }
}
