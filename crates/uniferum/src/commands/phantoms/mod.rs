//! What the demonstration and the experiments share of phantoms.

mod prepare;
pub(crate) mod recipe;
mod training;

use std::path::{Path, PathBuf};

use uniferum_phantom::{PhantomConfig, write_cohort};

pub(crate) use self::prepare::standardised;
pub(crate) use self::training::{AnyTrainer, Site, labels};
use crate::global::Global;

/// Organs that models learn to segment besides the nodules.
pub(crate) const ORGANS: [&str; 6] = [
    "anatomy.lungs",
    "anatomy.heart",
    "anatomy.thoracic-aorta",
    "anatomy.thoracic-vertebrae",
    "anatomy.right-lung",
    "anatomy.liver",
];

/// Writes a cohort as NIfTI where that was not done before; returns its table.
pub(crate) fn cohort(
    folder: &Path,
    scans: usize,
    seed: u64,
    config: &PhantomConfig,
    what: &str,
    global: &Global,
) -> anyhow::Result<PathBuf> {
    let table = folder.join("labels.csv");
    // The table is written last: where it is, the scans are.
    if !table.is_file() {
        let bar = global.bar(scans as u64, what);
        write_cohort(folder, scans, seed, config, &|| bar.inc(1))?;
        bar.finish_and_clear();
    }
    Ok(table)
}
