//! Held-out scans: every question once, statistics with intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use candle_core::{Device, Tensor};
use serde::Serialize;
use uniferum_ct::ndarray::Array3;
use uniferum_data::{Dataset, Example, OnError, Scan, SkippedScan, image_tensor};
use uniferum_fusion::{Prompts, Uniferum};
use uniferum_metrics::special::sigmoid;
use uniferum_tasks::{Task, TaskKind};

use crate::error::{Error, Result};
use crate::judge::{GroupReport, Intervals, judge};
use crate::learner::examiner;
use crate::masks::{Cells, MaskMetrics};

/// The answer to one question about one scan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prediction {
    /// The scan's name; its path where several scans that were asked share names.
    pub scan: String,
    /// The patient.
    pub patient: String,
    /// The task's id.
    pub task: String,
    /// `diagnosis`, `prognosis` or `segmentation`.
    pub kind: TaskKind,
    /// The label, or whether the mask is not empty; `None` where missing.
    pub label: Option<bool>,
    /// The logit; the largest of the mask's for segmentation.
    pub logit: f64,
    /// Its sigmoid.
    pub probability: f64,
}

/// What a model said about some scans.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Mask tasks.
    pub masks: Vec<MaskMetrics>,
    /// Every answer.
    pub predictions: Vec<Prediction>,
    /// Scans that could not be read and have no answers.
    pub skipped: Vec<SkippedScan>,
}

impl Answers {
    /// Adds the statistics of the label tasks.
    ///
    /// # Errors
    /// Those of [`judge`].
    pub fn judge(self, tasks: &[Task], intervals: &Intervals) -> Result<EvaluationReport> {
        Ok(EvaluationReport {
            labels: judge(tasks, &self.predictions, intervals)?,
            masks: self.masks,
            predictions: self.predictions,
            skipped: self.skipped,
        })
    }
}

/// Everything about a split.
#[derive(Debug, Clone, Serialize)]
pub struct EvaluationReport {
    /// Label tasks and their means.
    #[serde(flatten)]
    pub labels: GroupReport,
    /// Mask tasks.
    pub masks: Vec<MaskMetrics>,
    /// Every answer.
    #[serde(skip)]
    pub predictions: Vec<Prediction>,
    /// Scans that could not be read and are not in the numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedScan>,
}

/// What a model says to a task about a scan.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The logit of a label.
    Label(f32),
    /// The logits of a mask, in the order of [`uniferum_data::mask_target`].
    Mask(Vec<f32>),
    /// Nothing: the model has no output for the task.
    None,
}

/// Asks every task of every scan, each scan encoded once.
///
/// Intervals are clustered by patient. `progress` is called after each scan.
///
/// # Errors
/// Those of data, model and statistics; a scan that cannot be read is named.
pub fn evaluate(
    model: &Uniferum,
    prompts: &Prompts,
    dataset: &Dataset,
    scans: &[usize],
    device: &Device,
    intervals: &Intervals,
    progress: impl FnMut(),
) -> Result<EvaluationReport> {
    let ask = examiner(model.clone(), prompts, &dataset.tasks, device)?;
    let answers = ask_scans(&ask, dataset, scans, device, OnError::Stop, progress)?;
    answers.judge(&dataset.tasks, intervals)
}

/// As [`evaluate`], for any model that answers the dataset's tasks, and without statistics of labels.
///
/// With [`OnError::SkipAndReport`] scans that cannot be read are listed in place of their answers, and those
/// with an answer that is no finite number.
///
/// # Errors
/// Those of data and model; also where none of the scans can be used.
pub fn ask_scans(
    ask: &dyn Fn(&Tensor) -> Result<Vec<Answer>>,
    dataset: &Dataset,
    scans: &[usize],
    device: &Device,
    on_error: OnError,
    mut progress: impl FnMut(),
) -> Result<Answers> {
    let mut answers = Answers {
        masks: Vec::new(),
        predictions: Vec::new(),
        skipped: Vec::new(),
    };
    let mut cells: BTreeMap<usize, Cells> = BTreeMap::new();
    let names = names(dataset, scans);
    // The next scan is read while one is asked about.
    std::thread::scope(|scope| {
        let (ahead, read) = sync_channel(0);
        scope.spawn(move || {
            let mut scans = scans.iter();
            scans.all(|&scan| ahead.send(Loaded::read(dataset, scan)).is_ok())
        });
        for ((&scan, name), loaded) in scans.iter().zip(names).zip(read) {
            let asked = loaded.and_then(|loaded| loaded.ask(ask, dataset, (scan, name), device));
            match asked {
                Ok(asked) => {
                    for (task, prediction, mask) in asked {
                        answers.predictions.push(prediction);
                        if let Some((logits, target)) = mask {
                            cells.entry(task).or_default().add(&logits, &target)?;
                        }
                    }
                }
                // The last of none that can be read is an error in any case.
                Err(
                    error @ (Error::Data(uniferum_data::Error::Scan { .. }) | Error::Answer { .. }),
                ) if on_error == OnError::SkipAndReport
                    && answers.skipped.len() + 1 < scans.len() =>
                {
                    answers.skipped.push(SkippedScan {
                        scan: dataset.manifest.scans[scan].path.display().to_string(),
                        reason: error.to_string(),
                        times: 1,
                    });
                }
                Err(error) => return Err(error),
            }
            progress();
        }
        Ok(())
    })?;
    let masks = cells.iter();
    let masks = masks.map(|(&task, cells)| cells.metrics(&dataset.tasks[task]));
    answers.masks = masks.collect::<Result<_>>()?;
    Ok(answers)
}

/// Whether the macro AUROC of these scans is defined: some label task has positives and negatives among them.
pub fn has_auroc(dataset: &Dataset, scans: &[usize]) -> bool {
    let rows = || scans.iter().map(|&scan| &dataset.manifest.scans[scan]);
    let has = |task: &Task, label| rows().any(|row| row.labels.get(&task.id) == Some(&label));
    let mut labels = dataset.tasks.iter();
    labels.any(|task| task.kind != TaskKind::Segmentation && has(task, true) && has(task, false))
}

/// A name for each scan: its file's, where no two are alike, and else its path.
fn names(dataset: &Dataset, scans: &[usize]) -> Vec<String> {
    let all = &dataset.manifest.scans;
    let called = |name: &dyn Fn(&Scan) -> String| -> Vec<String> {
        // A place that is none is refused where its scan is read.
        let names = scans.iter().map(|&scan| all.get(scan).map(name));
        names.map(Option::unwrap_or_default).collect()
    };
    let short = called(&Scan::name);
    match short.iter().collect::<BTreeSet<_>>().len() == scans.len() {
        true => short,
        false => called(&|scan| scan.path.display().to_string()),
    }
}

/// A scan as a model takes it.
struct Loaded {
    example: Arc<Example>,
    array: Array3<f32>,
}

/// The task's number, the answer, and of a mask that is known logits and truth.
type Asked = (usize, Prediction, Option<(Vec<f32>, Vec<f32>)>);

impl Loaded {
    fn read(dataset: &Dataset, scan: usize) -> Result<Self> {
        let example = dataset.example(scan)?;
        let array = dataset.array_of(scan, &example)?;
        Ok(Self { example, array })
    }

    fn ask(
        self,
        ask: &dyn Fn(&Tensor) -> Result<Vec<Answer>>,
        dataset: &Dataset,
        (scan, name): (usize, String),
        device: &Device,
    ) -> Result<Vec<Asked>> {
        let Loaded { example, array } = self;
        let image = image_tensor(&[array], device)?;
        let row = &dataset.manifest.scans[scan];
        let mut answers = Vec::new();
        for (index, (task, answer)) in dataset.tasks.iter().zip(ask(&image)?).enumerate() {
            let (label, logit, mask) = match answer {
                Answer::None => continue,
                Answer::Label(logit) => (row.labels.get(&task.id).copied(), logit, None),
                Answer::Mask(logits) => {
                    let target = dataset.target_of(scan, &example, task)?;
                    let label = target.as_ref().map(|t| t.iter().any(|v| *v > 0.5));
                    let finite = logits.iter().all(|l| l.is_finite());
                    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let top = if finite { top } else { f32::NAN };
                    (label, top, target.map(|target| (logits, target)))
                }
            };
            if !logit.is_finite() {
                return Err(Error::Answer {
                    scan: name,
                    task: task.id.clone(),
                });
            }
            let logit = f64::from(logit);
            let prediction = Prediction {
                scan: name.clone(),
                patient: row.patient.clone(),
                task: task.id.clone(),
                kind: task.kind,
                label,
                logit,
                probability: sigmoid(logit),
            };
            answers.push((index, prediction, mask));
        }
        Ok(answers)
    }
}

/// All elements of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
