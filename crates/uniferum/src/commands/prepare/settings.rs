//! How scans are standardised, and the settings of a folder of results.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde_json::Value;
use uniferum_ct::batch::{OutputFormat, PrepareSettings, has_writer};
use uniferum_ct::resample::Interpolation;
use uniferum_ct::{Compat, StandardiseConfig, replace_atomically};
use uniferum_data::changes;

use super::Args;
use super::tables::remove_tables;
use crate::shape::Shape;

/// How scans are standardised.
#[derive(Debug, clap::Args)]
pub(super) struct Steps {
    /// The steps of the paper, or those of its public release, voxel for voxel
    #[arg(long, value_enum, default_value_t = CompatArg::Paper)]
    compat: CompatArg,

    /// Where the lungs' z range comes from when there is no mask: nowhere, or an estimate from the air
    /// inside the body
    #[arg(long, value_enum, default_value_t = Lungs::Mask)]
    lungs: Lungs,

    /// Interpolation of the scan [default: cubic]
    #[arg(long, value_enum)]
    interpolation: Option<InterpolationArg>,

    /// Voxels of the results, or `body` for as many as the body needs [default: 416x336x256; release:
    /// body]
    #[arg(long, value_name = "XxYxZ|body")]
    size: Option<Size>,

    /// All settings from the prepare.json of another folder instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["compat", "lungs", "interpolation", "size", "format"])]
    settings: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Cache,
    Nifti,
    Bin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompatArg {
    Paper,
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Lungs {
    /// From the mask only; without one the whole z range of the body is kept
    Mask,
    /// Estimated where no mask shows them
    Estimate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum InterpolationArg {
    Linear,
    Cubic,
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Fixed(Shape),
    Body,
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "body" {
            return Ok(Size::Body);
        }
        text.parse().map(Size::Fixed)
    }
}

impl Steps {
    /// The settings of these steps and a format, or those of the file that is named.
    pub(super) fn settings(&self, format: Format) -> anyhow::Result<PrepareSettings> {
        if let Some(file) = &self.settings {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            return serde_json::from_str(&text).with_context(|| file.display().to_string());
        }
        let mut standardise = match self.compat {
            CompatArg::Paper => StandardiseConfig::default(),
            CompatArg::Release => StandardiseConfig::release(),
        };
        if standardise.compat == Compat::Release {
            ensure!(
                self.lungs == Lungs::Mask && self.interpolation.is_none(),
                "--compat release has its own interpolation and no lung estimate"
            );
        }
        standardise.estimate_lungs = self.lungs == Lungs::Estimate;
        match self.interpolation {
            Some(InterpolationArg::Linear) => standardise.interpolation = Interpolation::Linear,
            Some(InterpolationArg::Cubic) => standardise.interpolation = Interpolation::Cubic,
            None => {}
        }
        match self.size {
            Some(Size::Fixed(shape)) => standardise.size = Some(shape.0),
            Some(Size::Body) => standardise.size = None,
            None => {}
        }
        Ok(PrepareSettings {
            standardise,
            format: match format {
                Format::Cache => OutputFormat::Cache,
                Format::Nifti => OutputFormat::Nifti,
                Format::Bin => OutputFormat::Bin,
            },
        })
    }
}

/// Writes the settings beside the results. Other ones than the folder's replace them on request alone, and not
/// while a run is writing there.
pub(super) fn save_settings(settings: &PrepareSettings, args: &Args) -> anyhow::Result<()> {
    let out = args.out.as_path();
    let path = out.join(PrepareSettings::FILE_NAME);
    let text = serde_json::to_string_pretty(settings)? + "\n";
    let before = std::fs::read_to_string(&path).ok();
    if before.as_deref() == Some(text.as_str()) {
        return Ok(());
    }
    ensure!(
        before.is_none() || args.overwrite,
        "{}: has other settings, its scans would all be prepared again{}; expected those, another --out, or \
         --overwrite",
        path.display(),
        told_apart(before.as_deref().unwrap_or_default(), &text)
    );
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    if before.is_some() {
        if has_writer(out) {
            // Another part of the same run may have been quicker.
            let now = std::fs::read_to_string(&path).ok();
            ensure!(
                now.as_deref() == Some(text.as_str()),
                "{}: another run is preparing scans there with other settings",
                out.display()
            );
            return Ok(());
        }
        // Until all is done they would list volumes of both settings.
        remove_tables(args)?;
    }
    // By way of another file, as shards may start at the same time.
    replace_atomically(&path, ".part", |p| std::fs::write(p, text))
        .with_context(|| path.display().to_string())
}

/// What the settings of a folder differ in from those that are given, if they can be read.
fn told_apart(before: &str, now: &str) -> String {
    let Ok(before @ Value::Object(_)) = serde_json::from_str(before) else {
        return String::new();
    };
    let now = serde_json::from_str(now).unwrap_or_default();
    let differ = changes("", &before, &now, &[]);
    match differ.is_empty() {
        true => String::new(),
        false => format!(" ({})", differ.join("; ")),
    }
}
