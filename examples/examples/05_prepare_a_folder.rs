//! From a folder of scans as a hospital might hand it over to standardised volumes for training.
//!
//! ```text
//! cargo run --release --example 05_prepare_a_folder [FOLDER]
//! ```
//!
//! Writes a small synthetic collection with one damaged scan, prepares it, mends the scan, and prepares
//! again: only what is new is done. `uniferum prepare` does the same from the command line.

use std::path::PathBuf;

use anyhow::Context;
use uniferum_ct::batch::{
    Event, PrepareSettings, RunOptions, Sources, Summary, gather, plan, prepare, read_ledgers,
};
use uniferum_ct::{ModelTransform, StandardiseConfig, read_prepared};
use uniferum_phantom::{PhantomConfig, write_cohort};

fn main() -> anyhow::Result<()> {
    // 1. A collection: four scans with organ masks. The download of one was cut off.
    let temporary = tempfile::tempdir()?;
    let folder = std::env::args().nth(1).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| temporary.path().to_owned());
    let (input, out) = (folder.join("collection"), folder.join("prepared"));
    write_cohort(&input, 4, 7, &PhantomConfig::default(), &|| {})?;
    let victim = input.join("scans/phantom-0002.nii.gz");
    let whole = std::fs::read(&victim)?;
    std::fs::write(&victim, &whole[..whole.len() / 2])?;

    // 2. What is wanted. The default is the paper's: 416x336x256 voxels of 1 mm. The phantoms have
    //    4 mm, so 4 mm will do.
    let settings = PrepareSettings {
        standardise: StandardiseConfig {
            spacing_mm: [4.0; 3],
            size: Some([104, 84, 64]),
            ..StandardiseConfig::default()
        },
        ..PrepareSettings::default()
    };

    // 3. The scans and their masks, found by name; what each becomes; and the work itself.
    let run = || -> anyhow::Result<Summary> {
        let found = gather(&Sources {
            inputs: vec![input.join("scans")],
            masks: Some(input.join("masks")),
            ..Sources::default()
        })?;
        let jobs = plan(found.inputs, &settings, false)?;
        let options = RunOptions {
            workers: 2,
            ..RunOptions::default()
        };
        let summary = prepare(&jobs, &settings, &out, &options, &mut |event| {
            if let Event::Finished(row) = event {
                let state = if row.failed() { &row.error } else { "ok" };
                println!("  {:28} {:5.2} s  {state}", row.output, row.seconds);
            }
        })?;
        Ok(summary)
    };
    println!("first run");
    let first = run()?;
    assert_eq!((first.prepared, first.failed), (3, 1));

    // 4. The damaged scan is a row in the ledger, not the end of the run. Mended, it is all that is left.
    std::fs::write(&victim, &whole)?;
    println!("second run");
    let second = run()?;
    assert_eq!((second.prepared, second.skipped), (1, 3));

    // 5. The ledger says what was found in each scan.
    println!("ledger");
    for (output, row) in read_ledgers(&out)? {
        let report = row.details().context("every scan is prepared by now")?;
        let lungs = report.lung_range.context("the masks show lungs")?;
        println!(
            "  {output:28} {} {:?}, lungs in slices {} to {}",
            report.input_orientation, report.input_shape, lungs.first, lungs.last
        );
    }

    // 6. A prepared scan is one step from the model's array: here a quarter of its usual size.
    let volume = read_prepared(out.join("scans/phantom-0002.uct"))?;
    let transform = ModelTransform {
        crop: [96, 80, 64],
        shape: [64, 40, 32],
    };
    let array = transform.model_array(&volume)?;
    println!(
        "model array {:?}, mean {:.3}",
        array.dim(),
        array.mean().unwrap_or(0.0)
    );
    Ok(())
}
