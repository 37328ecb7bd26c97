//! A digest of what a run learns from.

use sha2::{Digest, Sha256};
use uniferum_data::Loader;

/// Names, labels, splits and tasks in order, and how questions are drawn from them; folders are left out,
/// so that a collection may move.
pub(crate) fn of(loader: &Loader) -> String {
    let mut hash = Sha256::new();
    let mut line = |text: String| {
        hash.update(text.as_bytes());
        hash.update([b'\n']);
    };
    for task in &loader.dataset.tasks {
        line(format!("task {} {}", task.id, task.prompt));
    }
    for &index in &loader.scans {
        let scan = &loader.dataset.manifest.scans[index];
        let (mask, nodules) = (scan.mask.is_some(), scan.nodules.is_some());
        let (name, labels) = (scan.name(), &scan.labels);
        line(format!("scan {index} {name} {mask} {nodules} {labels:?}"));
    }
    line(format!("{:?} {:?}", loader.sampler, loader.augment));
    let (scans, questions) = (loader.scans_per_step, loader.questions_per_scan);
    line(format!("{scans} {questions} {}", loader.seed));
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
