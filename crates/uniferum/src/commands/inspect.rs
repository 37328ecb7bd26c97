//! `uniferum inspect`: what a scan is, before anything is done with it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use uniferum::report::contact::contact_sheet;
use uniferum_ct::{
    HuCheck, ReadOptions, ScanFacts, StandardiseConfig, Volume, prep::rectangular, read_ct,
    standardise,
};

use crate::global::Global;
use crate::output::Format;

/// Print shape, spacing, orientation and Hounsfield statistics of scans, and what looks odd
///
/// Example:
///
///   uniferum inspect scan.nii.gz dicom-folder/ --png sheet.png
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Scans to look at: files of any format that is read, folders with a DICOM series
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The DICOM series to take where a folder has several (it is refused with a list of them)
    #[arg(long, value_name = "ID")]
    series: Option<String>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Draw the scan: axial, coronal and sagittal slices, lung and soft-tissue windows, crop box
    ///
    /// The box is what `prepare` keeps by default, with the lungs' z range estimated. One scan only.
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
}

#[derive(serde::Serialize)]
struct Row {
    scan: PathBuf,
    #[serde(flatten)]
    facts: ScanFacts,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.png.is_none() || args.files.len() == 1,
        "--png draws one scan, {} were given",
        args.files.len()
    );
    if let Some(png) = &args.png {
        let is_png = png
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("png"));
        anyhow::ensure!(
            is_png,
            "--png {}: expected a name that ends in .png",
            png.display()
        );
    }
    let mut rows = Vec::new();
    let mut failed = 0;
    let bar = global.bar(args.files.len() as u64, "reading");
    // To look at doubtful grey values is what this command is for.
    let options = ReadOptions {
        hu_check: HuCheck::Warn,
        series: args.series,
        ..ReadOptions::default()
    };
    for file in args.files {
        match read_ct(&file, &options) {
            Ok(scan) => {
                rows.push(Row {
                    facts: ScanFacts::of(&scan),
                    scan: file,
                });
                if let Some(png) = &args.png {
                    draw(scan.volume, png, global)?;
                }
            }
            Err(error) => {
                failed += 1;
                bar.suspend(|| global.warn(error.to_string()));
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    args.format.print(&rows, |out, rows| {
        rows.iter().try_for_each(|row| print_text(out, row))
    })?;
    anyhow::ensure!(
        failed == 0,
        "{failed} of {} files could not be read",
        failed + rows.len()
    );
    Ok(())
}

/// Writes the contact sheet with the box that a preparation would keep.
fn draw(scan: Volume<f32>, png: &Path, global: &Global) -> anyhow::Result<()> {
    let scan = rectangular(scan)?.to_ras();
    let config = StandardiseConfig {
        estimate_lungs: true,
        ..StandardiseConfig::default()
    };
    let crop_box = match standardise(&scan, None, &config) {
        Ok(done) => Some(done.report.crop_box),
        Err(error) => {
            global.warn(format!("no crop box drawn: {error}"));
            None
        }
    };
    let bytes = contact_sheet(&scan, crop_box)?;
    std::fs::write(png, bytes).with_context(|| png.display().to_string())
}

fn print_text(out: &mut impl Write, row: &Row) -> std::io::Result<()> {
    let f = &row.facts;
    let [x, y, z] = f.spacing_mm;
    let [w, h, d] = f.extent_mm;
    let [p1, p25, p50, p75, p99] = f.hu.percentiles;
    let peak = |p: Option<i32>| p.map_or("none".to_owned(), |hu| format!("{hu} HU"));
    writeln!(out, "{}", row.scan.display())?;
    writeln!(out, "  format       {:?}", f.format)?;
    writeln!(
        out,
        "  shape        {} x {} x {} voxels",
        f.shape[0], f.shape[1], f.shape[2]
    )?;
    writeln!(out, "  spacing      {x:.4} x {y:.4} x {z:.4} mm")?;
    writeln!(out, "  extent       {w:.0} x {h:.0} x {d:.0} mm")?;
    writeln!(
        out,
        "  orientation  {} ({:.1} degrees oblique)",
        f.orientation, f.obliqueness_degrees
    )?;
    writeln!(
        out,
        "  HU           {} to {}, mean {:.1}",
        f.hu.min, f.hu.max, f.hu.mean
    )?;
    writeln!(
        out,
        "  percentiles  1 %: {p1}, 25 %: {p25}, 50 %: {p50}, 75 %: {p75}, 99 %: {p99}"
    )?;
    let (air, soft) = (peak(f.hu.air_peak), peak(f.hu.soft_tissue_peak));
    writeln!(out, "  peaks        air {air}, soft tissue {soft}")?;
    for warning in &f.warnings {
        writeln!(out, "  warning      {warning}")?;
    }
    Ok(())
}
