//! The public collections, each as it is downloaded.

use std::path::PathBuf;

use clap::ValueEnum;
use uniferum_data::collections::{
    CtRate, CtRateVersion, Inspect, Luna16, RadChest, TotalSegmentatorFolder,
};

use super::output::Output;
use super::split::SplitArgs;
use crate::global::Global;
use crate::hu::HuArg;
use crate::progress::counted;

/// CT-RATE: 18 labels, masks and reports
///
/// Reads multi_abnormality_labels/, metadata/, radiology_text_reports/ and ts_seg/ beside the volumes.
/// The official validation set becomes the test split; 100 patients of the training set become the
/// validation split. Volumes of metadata/no_chest_*.txt are dropped.
#[derive(Debug, clap::Args)]
pub(super) struct CtRateArgs {
    /// The folder `dataset`, or the one that it is in
    root: PathBuf,

    /// Which volumes: v1 (train, valid) are scaled by the metadata table, v2 (train_fixed, valid_fixed)
    /// are in HU already and must not be scaled again
    #[arg(long, value_enum)]
    release: CtRateRelease,

    /// Where Hounsfield units come from, if not as the release says
    #[arg(long, value_enum)]
    hu_source: Option<HuArg>,

    /// Patients of the training set to hold out for validation
    #[arg(long, default_value_t = 100, value_name = "N")]
    val_patients: usize,

    /// Seed of the draw of held-out patients
    #[arg(long, default_value_t = 0, value_name = "N")]
    split_seed: u64,

    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CtRateRelease {
    /// Stored values; the metadata table has slope and intercept
    V1,
    /// Hounsfield units
    V2,
}

pub(super) fn ct_rate(args: CtRateArgs, global: &Global) -> anyhow::Result<()> {
    let version = match args.release {
        CtRateRelease::V1 => CtRateVersion::V1,
        CtRateRelease::V2 => CtRateVersion::V2,
    };
    let mut settings = CtRate::new(args.root, version);
    settings.hu = args.hu_source.map(Into::into);
    settings.validation_patients = args.val_patients;
    settings.seed = args.split_seed;
    settings.absent = args.output.absent();
    args.output.write(&settings.read()?, None, global)
}

/// RAD-ChestCT: 39 labels
///
/// Reads img{train,valid,test}_Abnormality_and_Location_Labels.csv and the metadata table anywhere below
/// the folder, and the npz volumes beside them. A label is the maximum over the locations.
#[derive(Debug, clap::Args)]
pub(super) struct RadChestArgs {
    /// The folder with the tables and the volumes
    root: PathBuf,

    #[command(flatten)]
    output: Output,
}

pub(super) fn rad_chest(args: RadChestArgs, global: &Global) -> anyhow::Result<()> {
    let mut settings = RadChest::new(args.root);
    settings.absent = args.output.absent();
    args.output.write(&settings.read()?, None, global)
}

/// INSPECT: pulmonary embolism, seven outcomes, and twelve findings labelled from the impressions
///
/// Reads labels_*.tsv, study_mapping_*.tsv, splits_*.tsv and impressions_*.tsv, and CTPA/. Censored
/// outcomes are missing, never negative. Without an official split, 1000 scans become validation and
/// 3000 test, by patient, as in the paper; --val-share and --test-share change that.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// The folder `full`, or the one that it is in
    root: PathBuf,

    /// Labels of the twelve findings, as `uniferum label-reports` writes them
    #[arg(long, value_name = "FILE")]
    report_labels: Option<PathBuf>,

    /// Where Hounsfield units come from
    #[arg(long, value_enum, default_value_t = HuArg::Header)]
    hu_source: HuArg,

    #[command(flatten)]
    split: SplitArgs,

    #[command(flatten)]
    output: Output,
}

pub(super) fn inspect(args: InspectArgs, global: &Global) -> anyhow::Result<()> {
    let mut settings = Inspect::new(args.root);
    settings.report_labels = args.report_labels;
    settings.hu = args.hu_source.into();
    settings.split.seed = args.split.split_seed;
    if let Some(plan) = args.split.plan() {
        settings.split = plan;
    }
    settings.absent = args.output.absent();
    args.output.write(&settings.read()?, None, global)
}

/// LUNA16: nodule masks, drawn as spheres from annotations.csv
///
/// Scans without nodules are left out. All scans are for training, as in the paper, unless subsets are
/// named for validation or test.
#[derive(Debug, clap::Args)]
pub(super) struct Luna16Args {
    /// The folder with subset0 to subset9
    root: PathBuf,

    /// Folder for the masks, a NIfTI file a scan; those that are newer than what they are made from stay
    #[arg(long, value_name = "FOLDER")]
    masks_out: PathBuf,

    /// The annotations [default: annotations.csv in the folder]
    #[arg(long, value_name = "FILE")]
    annotations: Option<PathBuf>,

    /// Subsets for validation, such as 8
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=9))]
    val_subsets: Vec<u8>,

    /// Subsets for test, such as 9
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(0..=9))]
    test_subsets: Vec<u8>,

    /// The manifest to write: .parquet, or CSV under any other name
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn luna16(args: Luna16Args, global: &Global) -> anyhow::Result<()> {
    let mut settings = Luna16::new(args.root, args.masks_out);
    settings.annotations = args.annotations;
    settings.val_subsets = args.val_subsets;
    settings.test_subsets = args.test_subsets;
    let bar = global.bar(0, "masks");
    let found = settings.read(counted(&bar))?;
    bar.finish_and_clear();
    for note in &found.notes {
        global.hint(format!("note: {note}"));
    }
    super::output::write(&args.out, &found.manifest, None, global)
}

/// Scans with TotalSegmentator masks, or TotalSegmentator's own data set
///
/// Masks are label maps with the scan's name, or folders of classes (heart.nii.gz, …), which are put
/// together as label maps. For TotalSegmentator's own data set, give its folder twice.
#[derive(Debug, clap::Args)]
pub(super) struct TotalSegmentatorArgs {
    /// The folder of scans
    scans: PathBuf,

    /// The folder of masks
    masks: PathBuf,

    /// Folder for label maps put together from classes, one for each collection; those that are newer than what
    /// they are made from stay
    #[arg(long, value_name = "FOLDER", default_value = "label-maps")]
    merged_out: PathBuf,

    /// The collection's name in the manifest
    #[arg(long, default_value = "totalsegmentator")]
    collection: String,

    /// Where Hounsfield units come from
    #[arg(long, value_enum, default_value_t = HuArg::Header)]
    hu_source: HuArg,

    #[command(flatten)]
    split: SplitArgs,

    /// The manifest to write: .parquet, or CSV under any other name
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn totalsegmentator(args: TotalSegmentatorArgs, global: &Global) -> anyhow::Result<()> {
    let mut settings = TotalSegmentatorFolder::new(args.scans, args.masks, args.merged_out);
    settings.collection = args.collection;
    settings.hu = args.hu_source.into();
    settings.split.seed = args.split.split_seed;
    if let Some(plan) = args.split.plan() {
        settings.split = plan;
    }
    let bar = global.bar(0, "masks");
    let found = settings.read(counted(&bar))?;
    bar.finish_and_clear();
    for note in &found.notes {
        global.hint(format!("note: {note}"));
    }
    super::output::write(&args.out, &found.manifest, None, global)
}
