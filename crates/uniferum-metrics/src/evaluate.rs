use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Bootstrap;
use crate::cases::Cases;
use crate::delong::AucEstimate;
use crate::error::{Result, check_open_unit};
use crate::interval::{Interval, IntervalMethod, auroc_interval};
use crate::macro_average::{MacroAuroc, macro_auroc};
use crate::ranked::Ranked;

/// How tasks are evaluated.
#[derive(Debug, Clone, Copy)]
pub struct EvaluateOptions<'a> {
    /// Confidence level of every interval.
    pub level: f64,
    /// How the AUROC's interval is computed.
    pub interval: IntervalMethod,
    /// Replicates and seed of every bootstrap.
    ///
    /// Without one, numbers that have no closed form have no interval
    /// ([`describe_task`](crate::describe_task)), and [`IntervalMethod::Bootstrap`] takes the default.
    pub bootstrap: Option<Bootstrap>,
    /// The patient of each row; when given, variances are clustered. See [`crate::cluster_ids`].
    pub clusters: Option<&'a [u32]>,
    /// Weight of each row.
    pub weights: Option<&'a [f64]>,
}

impl Default for EvaluateOptions<'_> {
    fn default() -> Self {
        let interval = IntervalMethod::default();
        EvaluateOptions {
            level: 0.95,
            interval,
            bootstrap: None,
            clusters: None,
            weights: None,
        }
    }
}

impl EvaluateOptions<'_> {
    /// The cases of a column with the clusters and weights of these options.
    ///
    /// # Errors
    /// Those of [`Cases::new`], [`Cases::with_weights`] and [`Cases::with_clusters`].
    pub fn cases(&self, column: &TaskColumn<'_>) -> Result<Cases> {
        let mut cases = Cases::new(column.scores, column.labels)?;
        if let Some(weights) = self.weights {
            cases = cases.with_weights(weights)?;
        }
        if let Some(clusters) = self.clusters {
            cases = cases.with_clusters(clusters)?;
        }
        Ok(cases)
    }
}

/// The column of one task: a score and a label, or `None`, for each row.
#[derive(Debug, Clone, Copy)]
pub struct TaskColumn<'a> {
    /// Name of the task.
    pub task: &'a str,
    /// One finite score a row.
    pub scores: &'a [f64],
    /// One label a row, `None` where it is missing.
    pub labels: &'a [Option<bool>],
}

/// The numbers of one task. A number that is undefined is `None`, in JSON `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// Name of the task.
    pub task: String,
    /// Labelled cases.
    pub n: usize,
    /// Cases whose label is missing.
    pub n_missing: usize,
    /// Positive cases.
    pub n_pos: usize,
    /// Negative cases.
    pub n_neg: usize,
    /// Patients among the labelled cases, when the variances are clustered.
    pub n_clusters: Option<usize>,
    /// Share of positives, which is also the chance level of `auprc`.
    pub prevalence: Option<f64>,
    /// Area under the ROC curve.
    pub auroc: Option<f64>,
    /// Standard error of `auroc`: DeLong's, or Obuchowski's with clusters.
    pub std_err: Option<f64>,
    /// Lower limit of the interval of `auroc`.
    pub ci_low: Option<f64>,
    /// Upper limit of the interval of `auroc`.
    pub ci_high: Option<f64>,
    /// How the interval was computed.
    pub ci_method: Option<IntervalMethod>,
    /// Average precision.
    pub auprc: Option<f64>,
}

/// The numbers of several tasks over the same rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// One entry a task, in the order given.
    pub tasks: Vec<TaskMetrics>,
    /// Their mean.
    #[serde(rename = "macro")]
    pub macro_auroc: MacroAuroc,
}

/// Evaluates one task.
///
/// ```
/// use uniferum_metrics::{EvaluateOptions, evaluate_task};
/// let scores = [0.2, 0.3, 0.7, 0.8, 0.5];
/// let labels = [Some(false), Some(true), Some(false), Some(true), None];
/// let metrics = evaluate_task("nodule", &scores, &labels, &EvaluateOptions::default())?;
/// assert_eq!((metrics.n, metrics.n_missing), (4, 1));
/// assert_eq!(metrics.auroc, Some(0.75));
/// # Ok::<(), uniferum_metrics::Error>(())
/// ```
///
/// # Errors
/// [`crate::Error`] for columns of different lengths, non-finite scores, bad weights or a bad level.
pub fn evaluate_task(
    task: &str,
    scores: &[f64],
    labels: &[Option<bool>],
    options: &EvaluateOptions<'_>,
) -> Result<TaskMetrics> {
    check_open_unit("level", options.level)?;
    Ok(measure(
        &TaskColumn {
            task,
            scores,
            labels,
        },
        options,
    )?
    .0)
}

/// Evaluates several tasks over the same rows, and their mean AUROC with its interval.
///
/// # Errors
/// As [`evaluate_task`]; all columns must have the same number of rows.
pub fn evaluate_tasks(
    columns: &[TaskColumn<'_>],
    options: &EvaluateOptions<'_>,
) -> Result<Evaluation> {
    check_open_unit("level", options.level)?;
    let measured: Vec<_> = columns
        .par_iter()
        .map(|column| measure(column, options))
        .collect::<Result<_>>()?;
    let (tasks, estimates): (Vec<_>, Vec<_>) = measured.into_iter().unzip();
    let names: Vec<&str> = columns.iter().map(|c| c.task).collect();
    let macro_auroc = macro_auroc(&names, &estimates, options.level)?;
    Ok(Evaluation { tasks, macro_auroc })
}

/// The AUROC of each column with its influences, for tests between models; `None` where a class is
/// absent. See [`crate::compare_tasks`].
///
/// # Errors
/// As [`evaluate_tasks`].
pub fn auc_estimates(
    columns: &[TaskColumn<'_>],
    options: &EvaluateOptions<'_>,
) -> Result<Vec<Option<AucEstimate>>> {
    let estimate = |column: &TaskColumn<'_>| Ok(AucEstimate::new(&options.cases(column)?).ok());
    columns.par_iter().map(estimate).collect()
}

/// Numbers and estimate of one column, from a single sort.
fn measure(
    column: &TaskColumn<'_>,
    options: &EvaluateOptions<'_>,
) -> Result<(TaskMetrics, Option<AucEstimate>)> {
    let cases = options.cases(column)?;
    let ranked = Ranked::new(&cases);
    let estimate = AucEstimate::from_ranked(&ranked).ok();
    let interval = match &estimate {
        Some(_) if options.interval == IntervalMethod::Bootstrap => resampled(&cases, options)?,
        Some(estimate) => auroc_interval(estimate, options.level, options.interval)?,
        None => None,
    };
    let metrics = TaskMetrics {
        task: column.task.to_string(),
        n: cases.len(),
        n_missing: cases.n_missing(),
        n_pos: cases.n_pos(),
        n_neg: cases.n_neg(),
        n_clusters: cases.n_clusters(),
        prevalence: cases.prevalence(),
        auroc: estimate.as_ref().map(AucEstimate::auroc),
        std_err: estimate
            .as_ref()
            .and_then(AucEstimate::variance)
            .map(f64::sqrt),
        ci_low: interval.map(|i| i.low),
        ci_high: interval.map(|i| i.high),
        ci_method: interval.map(|i| i.method),
        auprc: ranked.average_precision().ok(),
    };
    Ok((metrics, estimate))
}

/// The bootstrap's interval of the AUROC; `None` when most resamples lack a class.
fn resampled(cases: &Cases, options: &EvaluateOptions<'_>) -> Result<Option<Interval>> {
    let bootstrap = options.bootstrap.unwrap_or_default();
    let area = |r: &[Ranked<'_>]| r[0].auroc().ok();
    let found = bootstrap.run(std::slice::from_ref(cases), options.level, area)?;
    let method = IntervalMethod::Bootstrap;
    let limits = found.ci_low.zip(found.ci_high);
    Ok(limits.map(|(low, high)| Interval { low, high, method }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_interval_is_like_the_closed_form() {
        let scores: Vec<f64> = (0..300).map(|i| f64::from(i * 7919 % 1009)).collect();
        let noisy = |i: u32| Some(f64::from(i * 7919 % 1009) > f64::from(i * 104_729 % 1009));
        let labels: Vec<Option<bool>> = (0..300).map(noisy).collect();
        let ask = |interval| EvaluateOptions {
            interval,
            ..Default::default()
        };
        let [a, b] = [IntervalMethod::Logit, IntervalMethod::Bootstrap]
            .map(|m| evaluate_task("t", &scores, &labels, &ask(m)).unwrap());
        assert_eq!(b.ci_method, Some(IntervalMethod::Bootstrap));
        let off = |x: Option<f64>, y: Option<f64>| (x.unwrap() - y.unwrap()).abs();
        assert!(off(a.ci_low, b.ci_low) < 0.01 && off(a.ci_high, b.ci_high) < 0.01);
        assert_eq!(
            evaluate_task("t", &scores, &labels, &ask(IntervalMethod::Bootstrap)).unwrap(),
            b
        );
    }
}
