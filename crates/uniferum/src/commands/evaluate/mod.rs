//! `uniferum evaluate`: how good are the predictions of any model, and how sure is that.

mod align;
mod checkpoint;
mod fit;
mod numbers;
mod page;
mod table;

use std::io::StdoutLock;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use uniferum::report::html::Page;
use uniferum_metrics::{
    Binning, Bootstrap, DetailOptions, EvaluateOptions, Evaluation, IntervalMethod, RocRegion,
    TaskColumn, TaskDetails, TaskMetrics, describe_task, evaluate_tasks,
};

pub(crate) use align::{Aligned, ColumnArgs, Record};
pub(crate) use numbers::{interval, number, percent, print_table, studies};
pub(crate) use table::Table;

use self::fit::{Fitted, ValidationArgs};
use self::numbers::Scale;
use super::tasks_file::TasksFile;
use crate::global::Global;
use crate::output::Format;

/// Judge predictions against labels: AUROC and average precision with intervals, calibration,
/// operating points
///
/// The tables may come from any model. Wide ones have the case in the first column and one column a
/// task; long ones have columns for the case, `task` and `score` (labels: `label`). JSON is told by the
/// file's ending, Parquet by its content, and the separator of text by its first line. Labels are 1, 0,
/// true, false; empty, nan, na, -1 and censored are missing: they are dropped and counted.
/// Cases have one name in both tables: that of `predict`'s tables is the scan's path as it was given.
///
/// Examples:
///
///   uniferum evaluate --predictions scores.csv --labels labels.csv
///
///   uniferum evaluate --predictions uniferum-demo/predictions.csv --labels uniferum-demo/predictions.csv
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Table of scores; several are parts of one, as `predict --shard` writes them
    #[arg(
        long,
        short,
        value_name = "FILE",
        num_args = 1..,
        required_unless_present = "checkpoint",
        requires = "labels",
        conflicts_with_all = ["ModelArgs", "TasksFile"]
    )]
    predictions: Vec<PathBuf>,

    /// Table of labels: 0, 1 or empty; several are parts of one
    #[arg(long, short, value_name = "FILE", num_args = 1.., requires = "predictions")]
    labels: Vec<PathBuf>,

    #[command(flatten)]
    model: checkpoint::ModelArgs,

    // Not in `ModelArgs`: a group has no members where it has another one within.
    #[command(flatten, next_help_heading = checkpoint::HEADING)]
    tasks_file: TasksFile,

    #[command(flatten)]
    columns: ColumnArgs,

    #[command(flatten)]
    validation: ValidationArgs,

    #[command(flatten)]
    level: LevelArgs,

    #[command(flatten)]
    statistics: StatisticsArgs,

    #[command(flatten)]
    seed: SeedArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Statistical choices that `evaluate` and `compare` share.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Statistics")]
pub(crate) struct LevelArgs {
    /// Confidence level of every interval
    #[arg(long, default_value_t = 0.95, value_name = "P", value_parser = open_unit)]
    pub(crate) level: f64,
}

/// The choice that tables and models share.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Statistics")]
struct SeedArgs {
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    seed: u64,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Statistics")]
struct StatisticsArgs {
    /// How the interval of each task's AUROC is computed; the macro average has its own rule
    #[arg(long, value_enum, default_value_t = IntervalArg::Auto, value_name = "METHOD")]
    interval: IntervalArg,

    /// Scores are logits: calibration and thresholds see their sigmoid
    #[arg(long)]
    logits: bool,

    /// Threshold for sensitivity, specificity and F1, the same for all tasks
    #[arg(
        long,
        value_name = "T",
        allow_negative_numbers = true,
        conflicts_with = "validation_predictions"
    )]
    threshold: Option<f64>,

    /// Add the partial AUROC of false-positive rates up to this
    #[arg(long, value_name = "FPR", value_parser = open_unit)]
    max_fpr: Option<f64>,

    /// Bins of the calibration curve
    #[arg(long, default_value_t = 10, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    bins: u16,

    /// Bins of equal numbers of cases instead of equal width
    #[arg(long)]
    equal_mass: bool,

    /// Bootstrap replicates for average precision, partial AUROC and calibration error, drawn by
    /// patient; 0 for none [default: 1000, none where cases times tasks exceed 3 million]
    #[arg(long, value_name = "N")]
    bootstrap: Option<usize>,
}

/// Where results go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,

    /// Also write a self-contained page with plots
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

impl OutputArgs {
    /// Writes the page, if one is wanted, and prints the result.
    pub(crate) fn leave<T: serde::Serialize>(
        &self,
        result: &T,
        page: impl FnOnce(&T) -> Page,
        text: impl FnOnce(&mut StdoutLock<'static>, &T) -> std::io::Result<()>,
        global: &Global,
    ) -> anyhow::Result<()> {
        if let Some(path) = &self.html {
            page(result)
                .write(path)
                .with_context(|| format!("could not write {}", path.display()))?;
            global.hint(format!("wrote {}", path.display()));
        }
        self.format.print(result, text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum IntervalArg {
    /// Logit; Score below ten positives or negatives and near 0 and 1; Exact where the variance is 0
    Auto,
    /// Estimate plus and minus standard errors
    Wald,
    /// Symmetric on the logit scale
    Logit,
    /// From the class sizes alone
    Score,
    /// Holds its level always, hence wide
    Exact,
    /// Percentiles of resamples, drawn by patient; too narrow with few positives
    Bootstrap,
}

fn open_unit(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if v > 0.0 && v < 1.0 => Ok(v),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

/// What `--format json` prints.
#[derive(Debug, serde::Serialize)]
struct Output {
    tasks: Vec<TaskOutput>,
    #[serde(rename = "macro")]
    macro_auroc: MacroOutput,
    settings: Settings,
}

#[derive(Debug, serde::Serialize)]
struct TaskOutput {
    #[serde(flatten)]
    metrics: TaskMetrics,
    #[serde(flatten)]
    details: TaskDetails,
    /// Where the threshold of `operating_point` comes from.
    threshold_from: Option<&'static str>,
    /// How scores became the probabilities that calibration sees.
    scale: Scale,
}

#[derive(Debug, serde::Serialize)]
struct MacroOutput {
    #[serde(flatten)]
    auroc: uniferum_metrics::MacroAuroc,
    /// Mean average precision of the same tasks.
    auprc: Option<f64>,
}

#[derive(Debug, serde::Serialize)]
struct Settings {
    predictions: Vec<PathBuf>,
    labels: Vec<PathBuf>,
    level: f64,
    interval: IntervalMethod,
    bootstrap: Option<Bootstrap>,
    binning: Binning,
    #[serde(flatten)]
    record: Record,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    if !args.model.checkpoint.is_empty() {
        let (level, seed, format) = (args.level.level, args.seed.seed, args.output.format);
        let catalogue = args.tasks_file.catalogue()?;
        return checkpoint::run(&args.model, &catalogue, level, seed, format, global);
    }
    let predictions = [Table::read_parts(&args.predictions)?];
    let labels = Table::read_parts(&args.labels)?;
    let cases = args.columns.align(&predictions, &labels)?;
    for note in &cases.notes {
        global.hint(format!("note: {note}"));
    }
    let fitted = args.fit(&cases, global)?;
    let output = args.judge(&cases, &fitted, global)?;
    let page = |output: &Output| page::page(output, &cases);
    args.output.leave(&output, page, numbers::print, global)
}

impl Args {
    fn judge(&self, cases: &Aligned, fitted: &[Fitted], global: &Global) -> anyhow::Result<Output> {
        let bootstrap = self.bootstrap(cases, global);
        ensure!(
            bootstrap.is_some() || self.statistics.interval != IntervalArg::Bootstrap,
            "--interval bootstrap needs replicates: expected --bootstrap 1 or more"
        );
        let options = EvaluateOptions {
            level: self.level.level,
            interval: self.statistics.interval.into(),
            bootstrap,
            clusters: cases.clusters.as_deref(),
            weights: cases.weights.as_deref(),
        };
        cases.check_labelled(&self.labels[0])?;
        let columns = cases.columns(0);
        let Evaluation { tasks, macro_auroc } = evaluate_tasks(&columns, &options)?;
        let mut outputs = Vec::new();
        for ((metrics, column), fit) in tasks.into_iter().zip(&columns).zip(fitted) {
            let scores = fit.scale.apply(column.scores);
            let column = TaskColumn {
                scores: &scores,
                ..*column
            };
            let detail = self.detail(fit);
            outputs.push(TaskOutput {
                details: describe_task(&column, &options, &detail)?,
                metrics,
                threshold_from: fit.threshold_from,
                scale: fit.scale,
            });
        }
        let probabilities = outputs.iter().all(|t| t.details.brier.is_some());
        let given = self.statistics.threshold;
        ensure!(
            !(probabilities && given.is_some_and(|t| !(0.0..=1.0).contains(&t))),
            "--threshold: the scores are probabilities; expected 0 to 1, got {}",
            given.unwrap_or_default()
        );
        if outputs.iter().all(|t| t.details.brier.is_none()) {
            global.hint("note: no calibration: the scores are not probabilities (--logits?)");
        }
        let defined: Vec<f64> = outputs.iter().filter_map(|t| t.metrics.auprc).collect();
        let mean = defined.iter().sum::<f64>() / defined.len() as f64;
        Ok(Output {
            macro_auroc: MacroOutput {
                auroc: macro_auroc,
                auprc: (!defined.is_empty()).then_some(mean),
            },
            tasks: outputs,
            settings: Settings {
                predictions: self.predictions.clone(),
                labels: self.labels.clone(),
                level: options.level,
                interval: options.interval,
                bootstrap,
                binning: self.binning(),
                record: cases.record.clone(),
            },
        })
    }

    fn binning(&self) -> Binning {
        let bins = usize::from(self.statistics.bins);
        if self.statistics.equal_mass {
            Binning::EqualMass(bins)
        } else {
            Binning::EqualWidth(bins)
        }
    }

    fn detail(&self, fit: &Fitted) -> DetailOptions {
        DetailOptions {
            threshold: fit.threshold,
            region: self
                .statistics
                .max_fpr
                .map(|high| RocRegion::Fpr { low: 0.0, high }),
            binning: self.binning(),
            decisions: (1..20).map(|i| f64::from(i) / 20.0).collect(),
        }
    }

    fn bootstrap(&self, cases: &Aligned, global: &Global) -> Option<Bootstrap> {
        const USUAL: usize = 1000;
        // About a minute of one core.
        const PATIENCE: usize = 3_000_000_000;
        let work = cases.n_cases * cases.tasks.len() * USUAL;
        let replicates = self.statistics.bootstrap.unwrap_or_else(|| {
            if work > PATIENCE {
                global.hint("note: no bootstrap intervals for so large a table (--bootstrap N)");
                return 0;
            }
            USUAL
        });
        (replicates > 0).then_some(Bootstrap {
            replicates,
            seed: self.seed.seed,
            stratified: true,
        })
    }
}

impl Aligned {
    /// The columns of a model as the statistics take them.
    pub(crate) fn columns(&self, model: usize) -> Vec<TaskColumn<'_>> {
        let tasks = self.tasks.iter().zip(&self.scores[model]).zip(&self.labels);
        tasks
            .map(|((task, scores), labels)| TaskColumn {
                task,
                scores,
                labels,
            })
            .collect()
    }
}

impl From<IntervalArg> for IntervalMethod {
    fn from(arg: IntervalArg) -> Self {
        match arg {
            IntervalArg::Auto => IntervalMethod::Auto,
            IntervalArg::Wald => IntervalMethod::Wald,
            IntervalArg::Logit => IntervalMethod::Logit,
            IntervalArg::Score => IntervalMethod::Score,
            IntervalArg::Exact => IntervalMethod::Exact,
            IntervalArg::Bootstrap => IntervalMethod::Bootstrap,
        }
    }
}
