//! `uniferum predict`: questions about scans, each scan encoded once.

mod inputs;
mod names;
mod output;
mod questions;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use uniferum::{Answer, InputStage, ModelInput, Predictor};
use uniferum_ct::batch::Input;
use uniferum_ct::{Format as FileFormat, ReadOptions, read_ct, read_organs};
use uniferum_kernels::DeviceChoice;
use uniferum_tasks::{Task, totalsegmentator};
use uniferum_train::{Baseline, is_run_state};

use crate::commands::shard::Part;
use crate::dtype::Dtype;
use crate::global::Global;
use output::{Failed, Row, Saved};

/// Answer questions about chest CTs with a trained model
///
/// Each scan is read, standardised and encoded once; then all questions are asked of it. Prints task,
/// logit and probability; for a segmentation question the logit is the largest of its mask. Scans that
/// cannot be used are reported, and the exit code is then 1: in JSON they are {scan, error}, and with --out
/// they stand in failed.csv. With --out a row is written as soon as it is there, so that a run that is stopped
/// keeps its answers (predictions.json appears at the end); the answers of an earlier run are not written over
/// unless --overwrite says so.
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

    /// tokenizer.json or vocab.txt [default: tokenizer.json beside the checkpoint]
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
    /// An array of {scan, task, kind, logit, probability}, and {scan, error} for what cannot be used
    Json,
    /// The same as a table
    Csv,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let inputs = inputs::find(&args.scans, &args.mask, args.out.as_deref())?;
    let tasks = args.questions.resolve()?;
    if args.save_masks.is_some() && !tasks.iter().any(|t| t.kind.is_segmentation()) {
        bail!("--save-masks: no segmentation question is asked");
    }
    // Of all parts' scans: they share the folder of masks.
    let names = match args.save_masks {
        Some(_) => names::of(inputs.iter().map(|input| input.scan.as_path()))?,
        None => Vec::new(),
    };
    ensure!(
        args.checkpoint.exists(),
        "{}: no such file",
        args.checkpoint.display()
    );
    ensure!(
        !is_run_state(&args.checkpoint),
        "{}: a training run goes on from it, and its weights are not for use; expected model.safetensors of \
         the run, or best/model.safetensors",
        args.checkpoint.display()
    );
    let file = match args.checkpoint.is_dir() {
        true => args.checkpoint.join("model.safetensors"),
        false => args.checkpoint.clone(),
    };
    ensure!(
        Baseline::read_config(&file)?.is_none(),
        "{}: a baseline, which takes no sentences: ask it with `uniferum evaluate --checkpoint`",
        args.checkpoint.display()
    );
    let tokenizer = tokenizer(&args)?;
    let Part { shard, process } = args.shard.unwrap_or_default();
    // Before the first scan: a folder that cannot be written must not cost the answers.
    let folder = args.out.as_deref();
    let mut saved = folder
        .map(|folder| Saved::create(folder, args.format, shard, args.overwrite))
        .transpose()?;
    let device = args.device.open_for(process)?;
    let mut predictor = Predictor::load(&args.checkpoint, tokenizer, &device)?;
    predictor.set_inference_precision(args.dtype.into());
    predictor.settings_mut().standardise.estimate_lungs |= args.estimate_lungs;
    for task in predictor.unlearnt(&tasks) {
        global.warn(format!(
            "{}: the model was not trained on it (see questions.json beside the checkpoint): the answer may \
             mean nothing",
            task.id
        ));
    }
    let chosen: Vec<usize> = (0..inputs.len()).filter(|&i| shard.has(i)).collect();
    let bar = global.bar(chosen.len() as u64, "predict");
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    let mut written = Ok(());
    for &index in &chosen {
        let (input, stem) = (&inputs[index], names.get(index).map(String::as_str));
        let mut save = |work: &dyn Fn(&mut Saved) -> anyhow::Result<()>| {
            if let (Ok(()), Some(saved)) = (&written, &mut saved) {
                written = work(saved);
            }
        };
        match one(&predictor, &args, (input, stem), &tasks, global, &bar) {
            Ok(answers) => {
                save(&|saved| saved.add(&answers));
                rows.extend(answers);
            }
            Err(error) => {
                let error = crate::one_line(&error);
                bar.suspend(|| global.warn(&error));
                let scan = input.scan.display().to_string();
                let one = Failed { scan, error };
                save(&|saved| saved.fail(&one));
                failed.push(one);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    // What cannot be written can still be printed.
    let written = written.and_then(|()| saved.map_or(Ok(()), |saved| saved.finish(&rows, &failed)));
    output::print(&rows, &failed, args.format)?;
    written?;
    ensure!(
        failed.is_empty(),
        "{} of {} scans could not be used",
        failed.len(),
        chosen.len()
    );
    Ok(())
}

fn tokenizer(args: &Args) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.tokenizer {
        return Ok(path.clone());
    }
    let folder = if args.checkpoint.is_dir() {
        args.checkpoint.as_path()
    } else {
        args.checkpoint.parent().unwrap_or(Path::new(""))
    };
    let path = folder.join("tokenizer.json");
    ensure!(
        path.is_file(),
        "--tokenizer: none is given and there is no {}",
        path.display()
    );
    Ok(path)
}

fn one(
    predictor: &Predictor,
    args: &Args,
    (input, stem): (&Input, Option<&str>),
    tasks: &[Task],
    global: &Global,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<Vec<Row>> {
    let path = &input.scan;
    let name = path.display().to_string();
    if let Some(problem) = &input.problem {
        bail!("{name}: {problem}");
    }
    let told = input.warnings.clone();
    let options = ReadOptions {
        hu: input.hu,
        series: args.series.clone(),
        ..ReadOptions::default()
    };
    let scan = read_ct(path, &options)?;
    let read = |path| read_organs(path, &totalsegmentator::classes());
    let organs = input.mask.as_ref().map(read).transpose()?;
    let (mask, mask_warnings) = organs.map(|o| (o.volume, o.warnings)).unzip();
    let input = predictor
        .prepare(&scan.volume, mask.as_ref(), args.input_stage.into())
        .with_context(|| name.clone())?;
    if scan.format == FileFormat::Cache && matches!(args.input_stage, Stage::Raw) {
        let told = "`uniferum prepare` wrote it, and it is standardised a second time: \
                    expected --input-stage standardised";
        bar.suspend(|| global.warn(format!("{name}: {told}")));
    }
    let mask_warnings = mask_warnings.unwrap_or_default();
    let warnings = told.iter().chain(&scan.warnings).chain(&mask_warnings);
    for warning in warnings.chain(input.warnings()) {
        bar.suspend(|| global.warn(format!("{name}: {warning}")));
    }
    drop((scan, mask));
    let encoded = predictor.encode(&input).with_context(|| name.clone())?;
    let answers = predictor.ask(&encoded, tasks)?;
    answers
        .iter()
        .map(|answer| {
            let mut row = Row::new(&name, answer);
            row.mask_file = mask_file(stem, &input, answer, args)?;
            Ok(row)
        })
        .collect()
}

/// Writes the mask of an answer that has one, where masks are wanted.
fn mask_file(
    stem: Option<&str>,
    input: &ModelInput,
    answer: &Answer,
    args: &Args,
) -> anyhow::Result<Option<PathBuf>> {
    let (Some(stem), Some(cells)) = (stem, &answer.mask) else {
        return Ok(None);
    };
    let (Some(kind), Some(out)) = (args.save_masks, &args.out) else {
        return Ok(None);
    };
    let volume = input.in_scan(cells.view())?;
    output::save_mask(out, stem, &answer.task, &volume, kind).map(Some)
}
