//! The tasks that the synthetic thorax of `uniferum-phantom` has labels for.
//!
//! Its masks carry TotalSegmentator numbers and nodules of their own, so that the groups `anatomy`
//! and `nodule` serve it as they are.

use super::{Row, diagnoses};
use crate::Relation::{Around, In};
use crate::Task;

const FINDINGS: [Row; 9] = [
    (
        "pleural_effusion",
        "pleural effusion",
        Around,
        "lungs",
        Some("pleural-effusion"),
    ),
    (
        "lung_nodule",
        "lung nodule",
        In,
        "lungs",
        Some("lung-nodule"),
    ),
    (
        "consolidation",
        "consolidation",
        In,
        "lungs",
        Some("consolidation"),
    ),
    (
        "cardiomegaly",
        "cardiomegaly",
        In,
        "heart",
        Some("cardiomegaly"),
    ),
    (
        "pericardial_effusion",
        "pericardial effusion",
        Around,
        "heart",
        Some("pericardial-effusion"),
    ),
    ("emphysema", "emphysema", In, "lungs", Some("emphysema")),
    (
        "coronary_calcification",
        "coronary artery wall calcification",
        In,
        "heart",
        Some("coronary-artery-wall-calcification"),
    ),
    ("pacemaker", "pacemaker or defibrillator", In, "heart", None),
    (
        "hiatal_hernia",
        "hiatal hernia",
        Around,
        "stomach",
        Some("hiatal-hernia"),
    ),
];

pub(crate) fn tasks(group: &str) -> Vec<Task> {
    let mut tasks = diagnoses(group, &FINDINGS);
    tasks.push(Task::prognosis(group, "mortality_6m", "mortality", 6));
    tasks
}
