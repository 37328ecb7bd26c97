//! `uniferum predict`: questions about scans, each scan encoded once.

mod asking;
mod inputs;
mod names;
mod output;
mod questions;
mod saved;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use candle_core::Device;
use clap::ValueEnum;
use uniferum::{InputStage, Predictor};
use uniferum_ct::batch::{Input, Shard};
use uniferum_ct::io::cache::Hash;
use uniferum_data::InputSettings;
use uniferum_fusion::Prompts;
use uniferum_fusion::checkpoint::locate;
use uniferum_kernels::DeviceChoice;
use uniferum_tasks::Task;
use uniferum_train::Baseline;

use crate::commands::check_usable;
use crate::commands::shard::Part;
use crate::dtype::Dtype;
use crate::global::Global;
use asking::Run;
use output::Row;
use saved::{Basis, Earlier, Saved, Terms, place};

/// Answer questions about chest CTs with a trained model
///
/// Each scan is read, standardised and encoded once; then all questions are asked of it. Prints task,
/// logit and probability; for a segmentation question the logit is the largest of its mask. Scans
/// that cannot be used are reported, and the exit code is then 1: in JSON they are {scan, error}, and
/// with --out they stand in failed.csv. With --out a row is written as soon as it is there, so that a
/// run that is stopped keeps its answers and --resume goes on with them (predictions.json appears at
/// the end); the answers of an earlier run are not written over unless --overwrite says so.
///
/// Folders of results below an input, and of DICOM without a CT, are passed over.
///
/// Examples:
///
///   uniferum predict scan.nii.gz --checkpoint model.safetensors --tokenizer tokenizer.json \
///       --task "Diagnose the presence of pleural effusion around the lungs"
///
///   uniferum predict scans/ --checkpoint demo/model.safetensors --tasks ct-rate --format csv
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Scans (NIfTI, NRRD, MetaImage, .npz, .bin, .uct, a folder with a DICOM series), folders of scans, lists
    /// (.txt, a path a line) and tables (.csv with a column `scan`, if wanted `mask` and `hu_source`)
    #[arg(required = true, value_name = "SCAN")]
    scans: Vec<PathBuf>,

    /// The DICOM series to take where a folder has several (it is refused with a list of them)
    #[arg(long, value_name = "ID")]
    series: Option<String>,

    /// Weights: a .safetensors file (or a folder with model.safetensors), or PyTorch's .bin or .pth
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,

    /// tokenizer.json or vocab.txt [default: the one beside the checkpoint]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    #[command(flatten)]
    questions: questions::QuestionArgs,

    /// Mask of TotalSegmentator v2 on the scan's grid, whose lungs bound the model's view: a label map, or
    /// the folder with a file a class; once for each scan, in their order
    #[arg(long, value_name = "PATH")]
    mask: Vec<PathBuf>,

    /// Find the lungs in the scan itself where no mask is given
    #[arg(long)]
    estimate_lungs: bool,

    /// How far the scans are prepared already
    #[arg(long, value_enum, default_value_t = Stage::Raw, value_name = "STAGE")]
    input_stage: Stage,

    /// Also write predictions.csv (predictions.json with --format json) and masks into this folder; with --shard
    /// I/N the file is predictions-I-of-N.csv
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Write over the answers of an earlier run in --out
    #[arg(long, requires = "out")]
    overwrite: bool,

    /// Go on with an earlier run in --out: ask what it left, with the same weights, questions and settings;
    /// not with --format json
    #[arg(long, requires = "out", conflicts_with = "overwrite")]
    resume: bool,

    /// Write the mask of each segmentation question as NIfTI on the scan's grid, into DIR/masks; the
    /// file is named after scan and question, where scans have one name also after the scan's folder
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "binary", requires = "out", value_name = "KIND")]
    save_masks: Option<MaskKind>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,

    /// Where to compute: auto (a GPU if there is one), cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Number format of the computation on the CPU; bf16 is faster on processors that have it
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,

    /// Only the i-th of n shares of the scans, for several machines; `rank`: the share of this process under
    /// mpirun, srun or torchrun
    #[arg(long, value_name = "I/N", value_parser = crate::commands::shard::parse)]
    shard: Option<Part>,
}

/// See [`InputStage`].
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Stage {
    /// As the scanner left it
    Raw,
    /// Cropped to the body and resampled by `uniferum prepare`
    Standardised,
    /// The model's own array in HU, such as 256x160x128
    Array,
}

impl From<Stage> for InputStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Raw => InputStage::Raw,
            Stage::Standardised => InputStage::Standardised,
            Stage::Array => InputStage::Array,
        }
    }
}

/// What a mask file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MaskKind {
    /// 1 where the probability is at least 0.5
    Binary,
    /// The probability of each voxel; 0 where the model saw nothing
    Probability,
}

/// How predictions are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Text,
    /// An array of {scan, task, kind, logit, probability, mask_file}, and {scan, error} for what cannot be
    /// used
    Json,
    /// The answers as a table; what cannot be used is in failed.csv of --out
    Csv,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let raw = matches!(args.input_stage, Stage::Raw);
    ensure!(
        raw || args.mask.is_empty() && !args.estimate_lungs,
        "--mask and --estimate-lungs help to standardise: expected --input-stage raw with them"
    );
    let out = args.out.as_deref();
    let inputs = inputs::find(&args.scans, &args.mask, out, raw, global)?;
    let tasks = args.questions.resolve()?;
    if args.save_masks.is_some() && !tasks.iter().any(|t| t.kind.is_segmentation()) {
        bail!("--save-masks: no segmentation question is asked");
    }
    // Of all parts' scans: they share the folder of masks.
    let names = match args.save_masks {
        Some(_) => names::of(inputs.iter().map(|input| input.scan.as_path()))?,
        None => Vec::new(),
    };
    let weights = weights(&args.checkpoint)?;
    let settings = InputSettings::find(&weights)?;
    let tokenizer = tokenizer(&args)?;
    let Part { shard, process } = args.shard.unwrap_or_default();
    let device = device(&args, process)?;
    // Before the first scan: a folder that cannot be written must not cost the answers.
    let (mut saved, mut rows) = (None, Vec::new());
    if let Some(folder) = args.out.as_deref() {
        let basis = basis(&args, &weights, settings.clone(), &tasks, &inputs)?;
        let (files, before) = create(folder, &args, shard, basis)?;
        (saved, rows) = (Some(files), before);
    }
    let predictor = predictor(&args, &tokenizer, &device)?;
    if raw && settings.is_none() {
        global.warn(format!(
            "no {} beside the checkpoint says how its scans are prepared: they are as in the paper",
            InputSettings::FILE_NAME
        ));
    }
    warn_of_unlearnt(&predictor, &tasks, global);
    let left = left(&inputs, &rows, shard, global);
    let run = Run {
        bar: global.bar(left.len() as u64, "predict"),
        predictor,
        args: &args,
        mask_names: names::of_masks(&tasks),
        tasks: &tasks,
        global,
    };
    let scans = left
        .iter()
        .map(|&i| (&inputs[i], names.get(i).map(String::as_str)));
    let (answered, failed, written) = run.all(scans, saved.as_mut());
    rows.extend(answered);
    // What cannot be written can still be printed.
    let written = written.and_then(|()| saved.map_or(Ok(()), |saved| saved.finish(&rows, &failed)));
    output::print(&rows, &failed, args.format)?;
    written?;
    ensure!(
        failed.is_empty(),
        "{} of {} scans could not be used",
        failed.len(),
        left.len()
    );
    Ok(())
}

/// The file of weights of a model that answers sentences.
fn weights(checkpoint: &Path) -> anyhow::Result<PathBuf> {
    let name = checkpoint.display();
    ensure!(checkpoint.exists(), "{name}: no such file");
    check_usable(checkpoint)?;
    let file = locate(checkpoint);
    ensure!(
        file.is_file(),
        "{}: no such file: is the training finished? The best model so far is in {}",
        file.display(),
        checkpoint.join("best").display()
    );
    ensure!(
        Baseline::read_config(&file)?.is_none(),
        "{name}: a baseline, which takes no sentences: ask it with `uniferum evaluate --checkpoint`"
    );
    Ok(file)
}

fn tokenizer(args: &Args) -> anyhow::Result<PathBuf> {
    match &args.tokenizer {
        Some(path) => Ok(path.clone()),
        None => Prompts::find(&args.checkpoint).context("--tokenizer: none is given"),
    }
}

fn device(args: &Args, process: usize) -> anyhow::Result<Device> {
    let device = args.device.open_for(process)?;
    ensure!(
        device.is_cpu() || matches!(args.dtype, Dtype::F32),
        "--dtype bf16 is for the CPU, and --device is a GPU: expected --dtype f32 or --device cpu"
    );
    Ok(device)
}

/// The model as the command line wants it to answer.
fn predictor(args: &Args, tokenizer: &Path, device: &Device) -> anyhow::Result<Predictor> {
    let mut predictor = Predictor::load(&args.checkpoint, tokenizer, device)?;
    predictor.set_inference_precision(args.dtype.into());
    predictor.settings_mut().standardise.estimate_lungs |= args.estimate_lungs;
    Ok(predictor)
}

/// Which of the inputs are this share's and have no answers yet.
fn left(inputs: &[Input], answered: &[Row], shard: Shard, global: &Global) -> Vec<usize> {
    let done = answered.iter().map(|row| place(row.scan.as_ref()));
    let done: BTreeSet<String> = done.collect();
    let is_left = |i: &usize| !done.contains(&place(&inputs[*i].scan));
    let own = (0..inputs.len()).filter(|&i| shard.has(i));
    let left: Vec<usize> = own.filter(is_left).collect();
    if !done.is_empty() {
        let (done, left) = (done.len(), left.len());
        global.hint(format!(
            "{done} scans were answered before, {left} are left"
        ));
    }
    left
}

fn warn_of_unlearnt(predictor: &Predictor, tasks: &[Task], global: &Global) {
    const MOST: usize = 5;
    let unlearnt = predictor.unlearnt(tasks);
    let names: Vec<&str> = unlearnt.iter().take(MOST).map(|t| t.id.as_str()).collect();
    if !names.is_empty() {
        let more = match unlearnt.len() {
            n if n > MOST => format!(" and {} others", n - MOST),
            _ => String::new(),
        };
        global.warn(format!(
            "{}{more}: the model was not trained on it (see questions.json beside the checkpoint): the answer \
             may mean nothing",
            names.join(", ")
        ));
    }
}

/// What the answers of this command line depend on.
fn basis(
    args: &Args,
    weights: &Path,
    settings: Option<InputSettings>,
    tasks: &[Task],
    inputs: &[Input],
) -> anyhow::Result<Basis> {
    let terms = Terms {
        weights: Hash::of_file(weights)?.to_string(),
        input: settings.unwrap_or_default(),
        options: vec![
            format!("{:?}", args.input_stage),
            args.dtype.name().to_owned(),
            format!("lungs estimated: {}", args.estimate_lungs),
            format!("series: {:?}", args.series),
        ],
        questions: tasks
            .iter()
            .map(|t| (t.id.clone(), t.prompt.clone()))
            .collect(),
        masks: args.save_masks.map(|kind| format!("{kind:?}")),
    };
    let scans = inputs
        .iter()
        .map(|i| (place(&i.scan), format!("{:?} {:?}", i.mask, i.hu)));
    Ok(Basis {
        terms,
        scans: scans.collect(),
        named_from: place(Path::new(".")),
    })
}

/// The files of answers, and those of an earlier run that this one goes on with.
fn create(
    folder: &Path,
    args: &Args,
    shard: Shard,
    basis: Basis,
) -> anyhow::Result<(Saved, Vec<Row>)> {
    let earlier = match (args.overwrite, args.resume) {
        (true, _) => Earlier::Overwrite,
        (_, true) => Earlier::GoOn,
        _ => Earlier::Keep,
    };
    ensure!(
        !(args.resume && args.format == Format::Json),
        "--resume: expected --format text or csv: JSON is whole at the end alone"
    );
    Saved::create(folder, args.format, shard, earlier, basis)
}
