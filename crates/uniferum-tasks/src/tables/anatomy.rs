//! 60 anatomy masks: 53 structures of TotalSegmentator v2 and 7 unions of them.
//!
//! # Reference
//! Paper, section 3.3 and supplement ("Body segmentation tasks").

use crate::Task;
use crate::totalsegmentator::{left_rib, right_rib, thoracic_vertebra};

/// Readable name, number, tag of the public release.
const SINGLES: [(&str, u16, &str); 17] = [
    ("liver", 5, "liver"),
    ("stomach", 6, "stomach"),
    ("left upper pulmonary lobe", 10, "left upper pulmonary lobe"),
    ("left lower pulmonary lobe", 11, "left lower pulmonary lobe"),
    (
        "right upper pulmonary lobe",
        12,
        "right upper pulmonary lobe",
    ),
    (
        "right middle pulmonary lobe",
        13,
        "right middle pulmonary lobe",
    ),
    (
        "right lower pulmonary lobe",
        14,
        "right lower pulmonary lobe",
    ),
    ("esophagus", 15, "esophagus"),
    ("tracheal airway", 16, "tracheal airway"),
    ("heart", 51, "heart"),
    ("thoracic aorta", 52, "thoracic aorta"),
    ("pulmonary vein", 53, "pulmonary vein"),
    ("left atrial appendage", 61, "left atrial appendage"),
    ("superior vena cava", 62, "superior vena cava"),
    ("inferior vena cava", 63, "inferior vena cava"),
    ("sternum", 116, "sternum"),
    ("costal cartilages", 117, "rib cartilage"),
];

pub(crate) fn tasks(group: &str) -> Vec<Task> {
    let mut tasks = singles(group);
    tasks.extend(unions(group));
    tasks
}

fn singles(group: &str) -> Vec<Task> {
    let mut tasks: Vec<Task> = SINGLES
        .iter()
        .map(|&(name, id, tag)| with_release(single(group, name, id), tag, vec![id]))
        .collect();
    // The release knows vertebrae and ribs only as unions.
    for n in 1..=12 {
        tasks.push(single(
            group,
            &format!("thoracic vertebra {n}"),
            thoracic_vertebra(n),
        ));
    }
    for n in 1..=12 {
        tasks.push(single(group, &format!("left rib {n}"), left_rib(n)));
    }
    for n in 1..=12 {
        tasks.push(single(group, &format!("right rib {n}"), right_rib(n)));
    }
    tasks
}

fn unions(group: &str) -> Vec<Task> {
    let union = |name: &str, right: std::ops::RangeInclusive<u16>, release: Vec<u16>| {
        with_release(
            Task::segmentation(group, name, name, right.collect()),
            name,
            release,
        )
    };
    vec![
        union("lungs", 10..=14, (10..=14).collect()),
        union("thoracic vertebrae", 32..=43, (32..=43).collect()),
        union("ribs", 92..=115, (92..=115).collect()),
        union("right ribs", 104..=115, (104..=115).collect()),
        // The release stops at the ninth left rib.
        union("left ribs", 92..=103, (92..=100).collect()),
        // The release has the two lungs the other way round.
        union("left lung", 10..=11, vec![12, 13, 14]),
        union("right lung", 12..=14, vec![10, 11]),
    ]
}

fn single(group: &str, name: &str, id: u16) -> Task {
    let label = crate::totalsegmentator::name(id).unwrap_or(name);
    Task::segmentation(group, label, name, vec![id])
}

fn with_release(mut task: Task, tag: &str, labels: Vec<u16>) -> Task {
    task.release_tag = Some(tag.to_owned());
    task.release_labels = labels;
    task
}

/// The nodule masks of LUNA16: voxels of value 1 in a file of their own.
pub(crate) fn nodule(group: &str) -> Task {
    let mut task = Task::segmentation(group, "nodule", "pulmonary nodules", Vec::new());
    task.prompt = crate::prompt::release_segmentation("Nodule");
    with_release(task, "Nodule", vec![1])
}
