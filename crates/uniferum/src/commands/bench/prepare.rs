//! `uniferum bench prepare`: standardisation of a full-size scan, and the model's transforms.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use uniferum_ct::{
    Augment, AugmentDraw, ModelTransform, ReadOptions, StandardiseConfig, Volume, read_ct,
    read_mask, standardise, write_nifti,
};
use uniferum_phantom::{PhantomConfig, generate};

use super::line::{Timing, emit};
use crate::global::Global;
use crate::shape::Shape;

/// Standardise a scan with its mask (512x512x300 by default), from .nii.gz files to the common grid
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is timed
    #[arg(long, value_enum, default_value_t = Stage::Prepare)]
    stage: Stage,

    /// Voxels of the synthetic scan
    #[arg(long, value_name = "XxYxZ", default_value = "512x512x300")]
    shape: Shape,

    /// A scan of your own instead of the synthetic one
    #[arg(long, value_name = "FILE")]
    scan: Option<PathBuf>,

    /// The TotalSegmentator mask of that scan
    #[arg(long, value_name = "FILE", requires = "scan")]
    mask: Option<PathBuf>,

    /// Keep the synthetic scan and its mask in this folder, for other programs to be timed on
    #[arg(long, value_name = "DIR", conflicts_with = "scan")]
    keep: Option<PathBuf>,

    /// Timed runs after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Read the scan alone, to HU in single precision
    Read,
    /// Read scan and mask, standardise both
    Prepare,
    /// Standardise scan and mask that are in memory
    Standardise,
    /// From the standardised volume to the model's array
    Predict,
    /// The same with rotation, zoom, noise and offset
    Train,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let (scan, mask) = match &args.scan {
        Some(scan) => (scan.clone(), args.mask.clone()),
        None => {
            let folder = args.keep.as_deref().unwrap_or(temporary.path());
            let (scan, mask) = synthetic(args.shape.0, folder)?;
            (scan, Some(mask))
        }
    };
    let config = StandardiseConfig::default();
    let runs = usize::from(args.runs);
    let open = || -> anyhow::Result<(Volume<f32>, Option<Volume<u8>>)> {
        let (volume, mask) = rayon::join(
            || read_ct(&scan, &ReadOptions::default()),
            || mask.as_ref().map(read_mask).transpose(),
        );
        Ok((volume?.volume, mask?))
    };
    let (name, timing) = match args.stage {
        Stage::Read => {
            let work = || {
                std::hint::black_box(read_ct(&scan, &ReadOptions::default())?);
                Ok(())
            };
            ("prepare read", Timing::of(runs, work)?)
        }
        Stage::Prepare => {
            let work = || {
                let (volume, mask) = open()?;
                std::hint::black_box(standardise(&volume, mask.as_ref(), &config)?);
                Ok(())
            };
            ("prepare", Timing::of(runs, work)?)
        }
        Stage::Standardise => {
            let (volume, mask) = open()?;
            let work = || {
                std::hint::black_box(standardise(&volume, mask.as_ref(), &config)?);
                Ok(())
            };
            ("prepare standardise", Timing::of(runs, work)?)
        }
        Stage::Predict | Stage::Train => {
            let (volume, mask) = open()?;
            let volume = standardise(&volume, mask.as_ref(), &config)?.volume;
            transform(args.stage, &volume, runs)?
        }
    };
    emit(name, timing, None, "i16", global)
}

/// The augmentation draws rotation, zoom, noise and offset every time, as the peer's script does.
fn transform(
    stage: Stage,
    volume: &Volume<i16>,
    runs: usize,
) -> anyhow::Result<(&'static str, Timing)> {
    let transform = ModelTransform::default();
    if stage == Stage::Predict {
        let work = || {
            std::hint::black_box(transform.model_array(volume)?);
            Ok(())
        };
        return Ok(("prepare predict", Timing::of(runs, work)?));
    }
    let always = Augment {
        rotate_probability: 1.0,
        zoom_probability: 1.0,
        noise_probability: 1.0,
        offset_probability: 1.0,
        ..Augment::default()
    };
    let mut sample = 0;
    let work = || {
        let draw = AugmentDraw::from_seed(&always, 1, sample, 0);
        sample += 1;
        std::hint::black_box(transform.model_array_augmented(volume, &draw)?);
        Ok(())
    };
    Ok(("prepare train", Timing::of(runs, work)?))
}

/// Field of view of the synthetic scan: 0.75 x 0.75 x 1.1 mm for 512x512x300 voxels.
const EXTENT_MM: [f64; 3] = [384.0, 384.0, 330.0];

/// A thorax and its mask, in the folder.
fn synthetic(shape: [usize; 3], folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let config = PhantomConfig {
        shape,
        spacing_mm: std::array::from_fn(|a| EXTENT_MM[a] / shape[a].max(1) as f64),
        scanner_variation: 0.0,
        ..PhantomConfig::default()
    };
    let phantom = generate(1, &config)?;
    let (scan, mask) = (folder.join("scan.nii.gz"), folder.join("mask.nii.gz"));
    write_nifti(&scan, &phantom.ct)?;
    write_nifti(&mask, &phantom.mask)?;
    Ok((scan, mask))
}
