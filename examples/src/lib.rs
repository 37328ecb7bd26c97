//! What the examples share: a folder that goes away, and phantoms small enough to be quick.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use uniferum_ct::batch::{
    PrepareSettings, RunOptions, Sources, gather, plan, prepare, read_ledgers, write_table,
};
use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;
use uniferum_data::InputSettings;
use uniferum_phantom::{PhantomConfig, write_cohort};

/// A folder that is removed at the end.
///
/// # Errors
/// Where the system has no room for one.
pub fn temporary_folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("uniferum-example-")
        .tempdir()
}

/// Writes synthetic scans of 8 mm voxels; returns their folder.
///
/// # Errors
/// Where they cannot be written.
pub fn small_phantoms(folder: &Path, count: usize) -> anyhow::Result<PathBuf> {
    let cohort = folder.join("phantoms");
    let config = PhantomConfig {
        shape: [48, 40, 32],
        spacing_mm: [8.0; 3],
        ..PhantomConfig::default()
    };
    write_cohort(&cohort, count, 1, &config, &|| {})?;
    Ok(cohort)
}

/// The paper's field of view with voxels so large that the model's array has 32 a side.
pub fn small_input() -> InputSettings {
    InputSettings {
        standardise: StandardiseConfig {
            spacing_mm: [12.0, 10.0, 8.0],
            size: Some([34, 34, 32]),
            ..StandardiseConfig::default()
        },
        transform: ModelTransform {
            crop: [32; 3],
            shape: [32; 3],
        },
    }
}

/// Standardises a cohort; returns the table of the results.
///
/// # Errors
/// Where a scan cannot be prepared or a file not written.
pub fn standardise_cohort(
    cohort: &Path,
    output: &Path,
    input: &InputSettings,
) -> anyhow::Result<PathBuf> {
    let table = cohort.join("labels.csv");
    let settings = PrepareSettings {
        standardise: input.standardise.clone(),
        ..PrepareSettings::default()
    };
    let sources = Sources {
        inputs: vec![table.clone()],
        ..Sources::default()
    };
    let jobs = plan(gather(&sources)?.inputs, &settings, false)?;
    let summary = prepare(
        &jobs,
        &settings,
        output,
        &RunOptions::default(),
        &mut |_| {},
    )?;
    ensure!(summary.failed == 0, "{} scans failed", summary.failed);
    let ready = output.join("labels.csv");
    write_table(&table, &jobs, &settings, &read_ledgers(output)?, &ready)?;
    Ok(ready)
}
