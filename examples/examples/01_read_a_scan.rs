//! Reads a scan, says what is known of it, and standardises it as section 3.5 of the paper does.
//!
//! ```sh
//! cargo run --release -p uniferum-examples --example 01_read_a_scan -- scan.nii.gz
//! ```
//!
//! Without a file it makes a synthetic thorax first.

use std::path::PathBuf;

use uniferum_ct::prep::{StandardiseConfig, standardise};
use uniferum_ct::{ReadOptions, ScanFacts, read_ct, write_nifti};
use uniferum_examples::{small_phantoms, temporary_folder};

fn main() -> anyhow::Result<()> {
    let folder = temporary_folder()?;
    let file = match std::env::args_os().nth(1) {
        Some(file) => PathBuf::from(file),
        None => small_phantoms(folder.path(), 10)?
            .join("scans")
            .join("phantom-0000.nii.gz"),
    };

    // The voxels are Hounsfield units now, on the grid of the file; the affine says where they lie.
    let scan = read_ct(&file, &ReadOptions::default())?;
    let facts = ScanFacts::of(&scan);
    println!("{}", file.display());
    println!("  shape        {:?}", facts.shape);
    println!("  spacing      {:.2?} mm", facts.spacing_mm);
    println!("  orientation  {}", facts.orientation);
    println!("  HU           {} to {}", facts.hu.min, facts.hu.max);
    for warning in &facts.warnings {
        println!("  warning      {warning}");
    }

    // One grid for all scans: RAS axes, 1 mm voxels, the body in the middle, air around it. Here
    // with 4 mm voxels, so that the example is quick.
    let config = StandardiseConfig {
        spacing_mm: [4.0; 3],
        size: Some([104, 84, 64]),
        estimate_lungs: true,
        ..StandardiseConfig::default()
    };
    let done = standardise(&scan.volume, None, &config)?;
    println!("standardised");
    println!("  shape        {:?}", done.volume.shape());
    println!("  centre       {:.1?} mm", done.report.centre_mm);
    println!("  kept         {:?} of the scan", done.report.crop_box);

    let output = folder.path().join("standardised.nii.gz");
    write_nifti(&output, &done.volume)?;
    println!("  written      {} bytes", std::fs::metadata(&output)?.len());
    Ok(())
}
