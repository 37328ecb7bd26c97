//! Held-out scans: every question once, statistics with intervals.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use serde::Serialize;
use uniferum_data::{Dataset, OnError, Scan, SkippedScan, image_tensor};
use uniferum_fusion::{Prompts, Uniferum};

use uniferum_metrics::{auroc, average_precision};
use uniferum_tasks::{Task, TaskKind};

use crate::error::{Error, Result};
use crate::judge::{GroupReport, Intervals, judge};
use crate::learner::examiner;

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

/// How well a mask is found, over the cells of the mask head's grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskMetrics {
    /// The task's id.
    pub task: String,
    /// Scans with a mask.
    pub scans: usize,
    /// Foreground cells.
    pub n_pos: usize,
    /// Background cells.
    pub n_neg: usize,
    /// Mean Dice of the scans at probability 0.5; `None` without a foreground cell anywhere.
    pub dice: Option<f64>,
    /// AUROC over cells; cells of a scan are not independent, so no interval is given.
    pub auroc: Option<f64>,
    /// Average precision over cells.
    pub auprc: Option<f64>,
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
/// With [`OnError::SkipAndReport`] scans that cannot be read are listed in place of their answers.
///
/// # Errors
/// Those of data and model; also where none of the scans can be read.
pub fn ask_scans(
    ask: &dyn Fn(&Tensor) -> Result<Vec<Answer>>,
    dataset: &Dataset,
    scans: &[usize],
    device: &Device,
    on_error: OnError,
    mut progress: impl FnMut(),
) -> Result<Answers> {
    let mut predictions = Vec::new();
    let mut cells: BTreeMap<usize, Vec<Cells>> = BTreeMap::new();
    let mut skipped = Vec::new();
    let names = names(dataset, scans);
    for (&scan, name) in scans.iter().zip(names) {
        match ask_scan(ask, dataset, (scan, name), device) {
            Ok(answers) => {
                for (index, prediction, found) in answers {
                    predictions.push(prediction);
                    if let Some(found) = found {
                        cells.entry(index).or_default().push(found);
                    }
                }
            }
            // The last of none that can be read is an error in any case.
            Err(Error::Data(error @ uniferum_data::Error::Scan { .. }))
                if on_error == OnError::SkipAndReport && skipped.len() + 1 < scans.len() =>
            {
                skipped.push(SkippedScan {
                    scan: dataset.manifest.scans[scan].path.display().to_string(),
                    reason: error.to_string(),
                    times: 1,
                });
            }
            Err(error) => return Err(error),
        }
        progress();
    }
    let masks: Result<Vec<MaskMetrics>> = cells
        .iter()
        .map(|(&task, cells)| mask_metrics(&dataset.tasks[task], cells))
        .collect();
    Ok(Answers {
        masks: masks?,
        predictions,
        skipped,
    })
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

/// The answers about one scan: the task's number, the answer, and the cells of a mask that is known.
fn ask_scan(
    ask: &dyn Fn(&Tensor) -> Result<Vec<Answer>>,
    dataset: &Dataset,
    (scan, name): (usize, String),
    device: &Device,
) -> Result<Vec<(usize, Prediction, Option<Cells>)>> {
    let example = dataset.example(scan)?;
    let image = image_tensor(&[dataset.array_of(scan, &example)?], device)?;
    let row = &dataset.manifest.scans[scan];
    let mut answers = Vec::new();
    for (index, (task, answer)) in dataset.tasks.iter().zip(ask(&image)?).enumerate() {
        let (label, logit, cells) = match answer {
            Answer::None => continue,
            Answer::Label(logit) => (row.labels.get(&task.id).copied(), logit, None),
            Answer::Mask(logits) => {
                let target = dataset.target_of(scan, &example, task)?;
                let label = target.as_ref().map(|t| t.iter().any(|v| *v > 0.5));
                let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let cells = target.map(|target| Cells { logits, target });
                (label, top, cells)
            }
        };
        let logit = f64::from(logit);
        let prediction = Prediction {
            scan: name.clone(),
            patient: row.patient.clone(),
            task: task.id.clone(),
            kind: task.kind,
            label,
            logit,
            probability: probability(logit),
        };
        answers.push((index, prediction, cells));
    }
    Ok(answers)
}

/// Sigmoid of a logit.
pub(crate) fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// All elements of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

struct Cells {
    logits: Vec<f32>,
    target: Vec<f32>,
}

fn mask_metrics(task: &Task, scans: &[Cells]) -> Result<MaskMetrics> {
    let mut dice = Vec::new();
    let (mut scores, mut labels) = (Vec::new(), Vec::new());
    for scan in scans {
        let truth: Vec<bool> = scan.target.iter().map(|t| *t > 0.5).collect();
        let found: Vec<bool> = scan.logits.iter().map(|l| *l > 0.0).collect();
        let both = truth.iter().zip(&found).filter(|(t, f)| **t && **f).count();
        let sum = truth.iter().chain(&found).filter(|v| **v).count();
        if truth.contains(&true) {
            dice.push(2.0 * both as f64 / sum as f64);
        }
        scores.extend(scan.logits.iter().map(|l| f64::from(*l)));
        labels.extend(truth);
    }
    let n_pos = labels.iter().filter(|l| **l).count();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    Ok(MaskMetrics {
        task: task.id.clone(),
        scans: scans.len(),
        n_pos,
        n_neg: labels.len() - n_pos,
        dice: (!dice.is_empty()).then(|| mean(&dice)),
        auroc: auroc(&scores, &labels)?.ok(),
        auprc: average_precision(&scores, &labels)?.ok(),
    })
}
