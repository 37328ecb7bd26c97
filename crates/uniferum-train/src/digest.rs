//! Digests of what a run learns from and of what it is validated on.

use uniferum_ct::io::cache::Hash;
use uniferum_data::{Dataset, Loader, Scan};

use crate::checkpoint::Settings;

/// Names, labels, splits and tasks in order, and how questions are drawn from them; folders are left out,
/// so that a collection may move.
pub(crate) fn of(loader: &Loader) -> String {
    let mut lines = tasks(&loader.dataset);
    for &index in &loader.scans {
        let scan = &loader.dataset.manifest.scans[index];
        lines.push(format!("scan {index} {}", answers(scan)));
    }
    lines.push(format!("{:?} {:?}", loader.sampler, loader.augment));
    let (scans, questions) = (loader.scans_per_step, loader.questions_per_scan);
    lines.push(format!("{scans} {questions} {}", loader.seed));
    digest(&lines)
}

/// The number of validation scans, with a digest of their names and labels and of the tasks.
pub(crate) fn of_validation(dataset: &Dataset, scans: &[usize]) -> String {
    let mut lines = tasks(dataset);
    let chosen = scans.iter().map(|&scan| &dataset.manifest.scans[scan]);
    lines.extend(chosen.map(answers));
    format!("{} scans, digest {}", scans.len(), &digest(&lines)[..12])
}

/// Of what a run that goes on must have in common with this one.
pub(crate) fn of_settings(settings: &Settings) -> String {
    digest(&[serde_json::json!(settings).to_string()])
}

fn tasks(dataset: &Dataset) -> Vec<String> {
    let tasks = dataset.tasks.iter();
    tasks
        .map(|task| format!("task {} {}", task.id, task.prompt))
        .collect()
}

/// A scan's name and the answers that it has.
fn answers(scan: &Scan) -> String {
    let (mask, nodules) = (scan.mask.is_some(), scan.nodules.is_some());
    let (name, labels) = (scan.name(), &scan.labels);
    format!("{name} {mask} {nodules} {labels:?}")
}

fn digest(lines: &[String]) -> String {
    let text: String = lines
        .iter()
        .flat_map(|line| [line.as_str(), "\n"])
        .collect();
    Hash::of(text.as_bytes()).to_string()
}
