//! From a collection as it comes to the scans that training reads: manifest, preparation, dataset.

mod common;

use std::path::{Path, PathBuf};

use uniferum_ct::batch::{
    OutputFormat, PrepareSettings, RunOptions, Sources, gather, plan, prepare, read_ledgers,
    write_table,
};
use uniferum_ct::{HuSource, ModelTransform, StandardiseConfig, Volume, write_nifti};
use uniferum_data::{Dataset, Manifest, Scan};
use uniferum_tasks::Catalogue;

const SPACING: [f64; 3] = [12.0; 3];

/// A volume as CT-RATE's version 1: the header scales nothing, the table says -8192.
fn version_1(folder: &Path) -> PathBuf {
    let stored = common::thorax([24, 20, 16], 0).mapv(|hu| hu + 8192);
    let path = folder.join("train_1_a_1.nii.gz");
    write_nifti(&path, &Volume::new(stored, common::lps([10.0, 10.0, 12.0]))).unwrap();
    let scan = Scan {
        path,
        patient: "ct-rate:train_1".to_owned(),
        hu: HuSource::Table {
            slope: 1.0,
            intercept: -8192.0,
        },
        spacing_mm: Some([10.0, 10.0, 12.0]),
        labels: [("ct-rate.emphysema".to_owned(), true)].into(),
        ..Scan::default()
    };
    let table = folder.join("manifest.csv");
    Manifest { scans: vec![scan] }.write(&table).unwrap();
    table
}

/// Prepares the scans of a table; returns the table of the results.
fn prepared(table: &Path, out: &Path, format: OutputFormat) -> PathBuf {
    let settings = PrepareSettings {
        standardise: StandardiseConfig {
            spacing_mm: SPACING,
            size: Some([24, 20, 16]),
            ..StandardiseConfig::default()
        },
        format,
    };
    let sources = Sources {
        inputs: vec![table.to_owned()],
        ..Sources::default()
    };
    let jobs = plan(gather(&sources).unwrap().inputs, &settings, false).unwrap();
    let options = RunOptions::default();
    let summary = prepare(&jobs, &settings, out, &options, &mut |_| {}).unwrap();
    let rows = read_ledgers(out).unwrap();
    assert_eq!(summary.failed, 0, "{rows:?}");
    let ready = out.join("manifest.csv");
    assert_eq!(
        write_table(table, &jobs, &settings, &rows, &ready).unwrap(),
        1
    );
    ready
}

fn dataset(table: &Path) -> Dataset {
    let manifest = Manifest::read(table, &Catalogue::standard(), "ct-rate").unwrap();
    let transform = ModelTransform {
        crop: [24, 20, 16],
        shape: [32; 3],
    };
    let dataset = Dataset::new(manifest, Vec::new(), transform, 4, 0).unwrap();
    dataset.with_spacing(SPACING)
}

#[test]
fn a_manifest_s_hounsfield_units_are_applied_once() {
    let dir = tempfile::tempdir().unwrap();
    let table = version_1(dir.path());
    for format in [OutputFormat::Cache, OutputFormat::Nifti, OutputFormat::Bin] {
        let name = format!("{format:?}");
        let ready = prepared(&table, &dir.path().join(&name), format);
        let data = dataset(&ready);
        let scan = &data.manifest.scans[0];
        assert_eq!(
            (scan.hu, scan.spacing_mm),
            (HuSource::AlreadyHu, None),
            "{name}"
        );
        let example = data.example(0).unwrap();
        let voxels = &example.volume.voxels;
        let soft = voxels.iter().filter(|hu| (30..100).contains(*hu)).count();
        assert_eq!(voxels.iter().min(), Some(&-1000), "{name}");
        assert!(
            10 * soft > voxels.len(),
            "{name}: {soft} of {}",
            voxels.len()
        );
        // Prepared once more, nothing is scaled again.
        if format != OutputFormat::Bin {
            let again = dir.path().join(name + "-again");
            let again = dataset(&prepared(&ready, &again, format));
            let least = *again
                .example(0)
                .unwrap()
                .volume
                .voxels
                .iter()
                .min()
                .unwrap();
            assert!(least >= -1000, "{format:?}: {least}");
        }
    }
}

#[test]
fn a_scan_that_was_never_standardised_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dataset(&version_1(dir.path()));
    let error = data.example(0).unwrap_err().to_string();
    assert!(
        error.contains("train_1_a_1.nii.gz: spacing: expected 12.000 x"),
        "{error}"
    );
    assert!(
        error.contains("got 10.000 x 10.000 x 12.000 mm; run `uniferum prepare`"),
        "{error}"
    );
}
