//! What the table alone tells.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use uniferum_tasks::{Catalogue, TaskKind};

use super::{Check, ClassCount, Finding, Severity, finding};
use crate::error::Result;
use crate::manifest::{Manifest, Problem, ProblemKind, Scan, Split, files, listed};

/// Fewer positives than this in validation or test make an AUROC meaningless.
const FEW: usize = 5;

/// What reading found, and the scans that miss a file.
pub(super) fn problems(problems: Vec<Problem>, manifest: &Manifest) -> Vec<Finding> {
    let mut findings: Vec<Finding> = problems
        .into_iter()
        .filter(|p| p.kind != ProblemKind::MissingFile)
        .map(|p| {
            let check = match p.kind {
                ProblemKind::UnknownColumn => Check::UnknownLabel,
                ProblemKind::PatientLeak => Check::PatientLeak,
                _ => Check::BadValue,
            };
            let row = p.row.map_or(String::new(), |r| format!("row {r}: "));
            Finding {
                scans: p.scan.into_iter().collect(),
                ..finding(Severity::Error, check, format!("{row}{}", p.what))
            }
        })
        .collect();
    for scan in &manifest.scans {
        for (what, file) in files(scan).into_iter().filter(|(_, f)| !f.exists()) {
            let what = format!("{what} {}: no such file", file.display());
            findings.push(Finding {
                scans: vec![scan.path.clone()],
                ..finding(Severity::Error, Check::MissingFile, what)
            });
        }
    }
    findings
}

/// Tasks that were asked for and that no scan answers.
pub(super) fn wanted(
    manifest: &Manifest,
    catalogue: &Catalogue,
    wanted: &[String],
) -> Result<Vec<Finding>> {
    let has: HashSet<&str> = manifest.task_ids().into_iter().collect();
    let masked = manifest.scans.iter().any(|s| s.mask.is_some());
    let nodules = manifest.scans.iter().any(|s| s.nodules.is_some());
    let mut findings = Vec::new();
    for name in wanted {
        let tasks = match catalogue.get(name) {
            Some(task) => vec![task],
            None => catalogue.require_group(name)?,
        };
        for task in tasks {
            let answered = match task.kind {
                TaskKind::Segmentation if task.is_nodule() => nodules,
                TaskKind::Segmentation => masked,
                _ => has.contains(task.id.as_str()),
            };
            if !answered {
                let what = format!("{}: no scan has a label or mask for it", task.id);
                findings.push(finding(Severity::Error, Check::UnknownLabel, what));
            }
        }
    }
    Ok(findings)
}

/// Scans that a collection's own list says to drop; a warning where it lists none of the manifest's.
pub(super) fn no_chest(manifest: &Manifest, list: &Path) -> Result<Vec<Finding>> {
    let names = listed(list)?;
    let listed = manifest.scans.iter().filter(|s| names.contains(&s.name()));
    let mut findings: Vec<Finding> = listed
        .map(|scan| {
            let what = format!("{} stands in {}", scan.name(), list.display());
            Finding {
                scans: vec![scan.path.clone()],
                ..finding(Severity::Error, Check::NoChest, what)
            }
        })
        .collect();
    if findings.is_empty() {
        let (list, count) = (list.display(), names.len());
        let what = format!("{list}: none of its {count} names is that of a scan");
        findings.push(finding(Severity::Warning, Check::NoChest, what));
    }
    Ok(findings)
}

pub(super) fn unknown_patients(manifest: &Manifest) -> Option<Finding> {
    let unknown = |s: &&Scan| {
        let patient = s.patient.rsplit(':').next().unwrap_or_default();
        // Where names repeat, the path below the table's folder stands for the patient.
        patient == s.name() || s.path.ends_with(patient)
    };
    let count = manifest.scans.iter().filter(unknown).count();
    (count > 0 && count < manifest.scans.len() || count > 1).then(|| {
        let what = format!(
            "{count} of {} scans name no patient beside the file itself: a patient of several files could \
             stand in several splits unseen",
            manifest.scans.len()
        );
        finding(Severity::Warning, Check::UnknownPatients, what)
    })
}

pub(super) fn classes(manifest: &Manifest) -> Vec<ClassCount> {
    let mut counts: BTreeMap<(&str, Split), ClassCount> = BTreeMap::new();
    let splits: Vec<Split> = Split::ALL
        .into_iter()
        .filter(|s| manifest.scans.iter().any(|scan| scan.split == *s))
        .collect();
    for task in manifest.task_ids() {
        for &split in &splits {
            let count = ClassCount {
                task: task.to_owned(),
                split,
                positive: 0,
                negative: 0,
                missing: 0,
                censored: 0,
            };
            counts.insert((task, split), count);
        }
    }
    for scan in &manifest.scans {
        for ((task, split), count) in &mut counts {
            if scan.split != *split {
                continue;
            }
            match scan.labels.get(*task) {
                Some(true) => count.positive += 1,
                Some(false) => count.negative += 1,
                None => count.missing += 1,
            }
            count.censored += usize::from(scan.censored.contains(*task));
        }
    }
    counts.into_values().collect()
}

pub(super) fn censored(classes: &[ClassCount]) -> Vec<Finding> {
    let some = classes.iter().filter(|c| c.censored > 0);
    some.map(|c| {
        let all = c.positive + c.negative + c.missing;
        let what = format!(
            "{}: {} of {all} outcomes in {} are censored: missing, not negative",
            c.task, c.censored, c.split
        );
        finding(Severity::Warning, Check::Censored, what)
    })
    .collect()
}

pub(super) fn one_class(classes: &[ClassCount]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for c in classes.iter().filter(|c| c.positive + c.negative > 0) {
        let what = if c.positive == 0 || c.negative == 0 {
            "no AUROC can be had, nothing can be balanced"
        } else if c.split != Split::Train && c.positive.min(c.negative) < FEW {
            "too few for an AUROC that means something"
        } else {
            continue;
        };
        let what = format!(
            "{} in {}: {} positive, {} negative: {what}",
            c.task, c.split, c.positive, c.negative
        );
        findings.push(finding(Severity::Warning, Check::ClassCount, what));
    }
    findings
}
