//! INSPECT: 12 diagnoses labelled from the reports, pulmonary embolism, and 7 outcomes.

use super::{Row, diagnoses};
use crate::Relation::{Around, In};
use crate::Task;

pub(crate) const SHARED: [Row; 12] = [
    (
        "Atelectasis",
        "atelectasis",
        In,
        "lungs",
        Some("atelectasis"),
    ),
    (
        "Bronchiectasis",
        "bronchiectasis",
        In,
        "lungs",
        Some("bronchiectasis"),
    ),
    (
        "Cardiomegaly",
        "cardiomegaly",
        In,
        "heart",
        Some("cardiomegaly"),
    ),
    (
        "Consolidation",
        "consolidation",
        In,
        "lungs",
        Some("consolidation"),
    ),
    (
        "Coronary artery wall calcification",
        "coronary artery wall calcification",
        In,
        "heart",
        Some("coronary-artery-wall-calcification"),
    ),
    ("Emphysema", "emphysema", In, "lungs", Some("emphysema")),
    (
        "Hiatal hernia",
        "hiatal hernia",
        Around,
        "stomach",
        Some("hiatal-hernia"),
    ),
    (
        "Interlobular septal thickening",
        "interlobular septal thickening",
        In,
        "lungs",
        Some("interlobular-septal-thickening"),
    ),
    (
        "Lung nodule",
        "lung nodule",
        In,
        "lungs",
        Some("lung-nodule"),
    ),
    (
        "Peribronchial thickening",
        "peribronchial thickening",
        In,
        "lungs",
        Some("peribronchial-thickening"),
    ),
    (
        "Pericardial effusion",
        "pericardial effusion",
        Around,
        "heart",
        Some("pericardial-effusion"),
    ),
    (
        "Pleural effusion",
        "pleural effusion",
        Around,
        "lungs",
        Some("pleural-effusion"),
    ),
];

const EMBOLISM: Row = (
    "pe_positive_nlp",
    "pulmonary embolism",
    In,
    "pulmonary arteries",
    None,
);

/// Column, event, months ahead.
const OUTCOMES: [(&str, &str, u16); 7] = [
    ("1_month_mortality", "mortality", 1),
    ("6_month_mortality", "mortality", 6),
    ("12_month_mortality", "mortality", 12),
    ("1_month_readmission", "readmission", 1),
    ("6_month_readmission", "readmission", 6),
    ("12_month_readmission", "readmission", 12),
    ("12_month_PH", "pulmonary hypertension", 12),
];

pub(crate) fn tasks(group: &str) -> Vec<Task> {
    let mut tasks = diagnoses(group, &SHARED);
    tasks.extend(diagnoses(group, &[EMBOLISM]));
    tasks.extend(
        OUTCOMES
            .iter()
            .map(|&(label, name, months)| Task::prognosis(group, label, name, months)),
    );
    tasks
}
