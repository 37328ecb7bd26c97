//! Statistics of label predictions: each task with its intervals, and the means of a group.

use serde::{Deserialize, Serialize};
use uniferum_metrics::{
    Bootstrap, BootstrapResult, DetailOptions, EvaluateOptions, MacroAuroc, TaskColumn,
    TaskMetrics, cluster_ids, describe_task, evaluate_tasks,
};
use uniferum_tasks::{Task, TaskKind};

use crate::error::{Error, Result};
use crate::evaluate::Prediction;

/// Which intervals [`judge`] computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intervals {
    /// Confidence level of every interval.
    pub level: f64,
    /// Draws patients for the intervals of average precision, which has no closed form; none without.
    pub bootstrap: Option<Bootstrap>,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            level: 0.95,
            bootstrap: None,
        }
    }
}

/// A task's line of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskReport {
    /// `diagnosis`, `prognosis` or `segmentation`.
    pub kind: TaskKind,
    /// Statistics over scans, with intervals.
    #[serde(flatten)]
    pub metrics: TaskMetrics,
    /// Lower limit of the interval of average precision, where there was a bootstrap.
    pub auprc_ci_low: Option<f64>,
    /// Upper limit of the interval of average precision.
    pub auprc_ci_high: Option<f64>,
}

/// Statistics of a group of label tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Mean AUROC.
    pub macro_auroc: MacroAuroc,
    /// Mean average precision of the tasks in which it is defined.
    pub macro_auprc: Option<f64>,
    /// Lower limit of its interval, where there was a bootstrap.
    pub macro_auprc_ci_low: Option<f64>,
    /// Upper limit of its interval.
    pub macro_auprc_ci_high: Option<f64>,
    /// The tasks that were asked.
    pub tasks: Vec<TaskReport>,
}

impl GroupReport {
    /// The line of a task.
    pub fn task(&self, id: &str) -> Option<&TaskReport> {
        self.tasks.iter().find(|t| t.metrics.task == id)
    }
}

/// A task's predictions as a column.
struct Column<'a> {
    task: &'a Task,
    scores: Vec<f64>,
    labels: Vec<Option<bool>>,
}

impl Column<'_> {
    fn view(&self) -> TaskColumn<'_> {
        TaskColumn {
            task: &self.task.id,
            scores: &self.scores,
            labels: &self.labels,
        }
    }
}

/// Statistics of some tasks' label predictions.
///
/// Masks and tasks without predictions are left out; intervals are clustered by patient.
///
/// # Errors
/// [`Error::Config`] for tasks that were asked of different scans, or in another order; [`Error::Metrics`].
pub fn judge(
    tasks: &[Task],
    predictions: &[Prediction],
    intervals: &Intervals,
) -> Result<GroupReport> {
    let labels = tasks.iter().filter(|t| t.kind != TaskKind::Segmentation);
    let columns: Vec<Column<'_>> = labels.filter_map(|t| column(t, predictions)).collect();
    let of = |task: &Task| {
        let rows = predictions.iter().filter(|p| p.task == task.id);
        rows.map(|p| (p.scan.as_str(), p.patient.as_str()))
            .collect::<Vec<_>>()
    };
    let rows = columns.first().map(|c| of(c.task)).unwrap_or_default();
    if let Some(other) = columns.iter().find(|c| of(c.task) != rows) {
        let expected = "every task asked of the same scans, in one order";
        return Err(Error::config("predictions", expected, &other.task.id));
    }
    let patients: Vec<&str> = rows.iter().map(|(_, patient)| *patient).collect();
    let clusters = cluster_ids(&patients);
    let options = EvaluateOptions {
        level: intervals.level,
        clusters: Some(&clusters),
        bootstrap: intervals.bootstrap,
        ..Default::default()
    };
    let views: Vec<TaskColumn<'_>> = columns.iter().map(Column::view).collect();
    let evaluation = evaluate_tasks(&views, &options)?;
    let mut reports = Vec::new();
    for (metrics, column) in evaluation.tasks.into_iter().zip(&columns) {
        let (auprc_ci_low, auprc_ci_high) = precision_limits(column, &options)?;
        reports.push(TaskReport {
            kind: column.task.kind,
            metrics,
            auprc_ci_low,
            auprc_ci_high,
        });
    }
    // A mean is known no better than what it is of: a task with few cases has no interval, see `describe_task`.
    let mut averaged = reports.iter().filter(|r| r.metrics.auprc.is_some());
    let resampled = match averaged.all(|r| r.auprc_ci_low.is_some()) {
        true => mean_precision(&views, &options)?,
        false => None,
    };
    let resampled = resampled.as_ref();
    Ok(GroupReport {
        macro_auroc: evaluation.macro_auroc,
        macro_auprc: mean(reports.iter().filter_map(|r| r.metrics.auprc)),
        macro_auprc_ci_low: resampled.and_then(|r| r.ci_low),
        macro_auprc_ci_high: resampled.and_then(|r| r.ci_high),
        tasks: reports,
    })
}

fn column<'a>(task: &'a Task, predictions: &[Prediction]) -> Option<Column<'a>> {
    let rows = predictions.iter().filter(|p| p.task == task.id);
    let (scores, labels): (Vec<f64>, Vec<_>) = rows.map(|p| (p.logit, p.label)).unzip();
    (!scores.is_empty()).then_some(Column {
        task,
        scores,
        labels,
    })
}

/// The interval of a task's average precision, where there is a bootstrap.
fn precision_limits(
    column: &Column<'_>,
    options: &EvaluateOptions<'_>,
) -> Result<(Option<f64>, Option<f64>)> {
    // Validation while training asks for none, and pays for no other details.
    if options.bootstrap.is_none() {
        return Ok((None, None));
    }
    let details = describe_task(&column.view(), options, &DetailOptions::default())?;
    Ok((details.auprc_ci_low, details.auprc_ci_high))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
    (n > 0.0).then_some(sum / n)
}

/// The bootstrap of the mean average precision; each resample draws the same patients for all tasks.
fn mean_precision(
    columns: &[TaskColumn<'_>],
    options: &EvaluateOptions<'_>,
) -> Result<Option<BootstrapResult>> {
    let Some(bootstrap) = options.bootstrap else {
        return Ok(None);
    };
    let cases = columns.iter().map(|c| options.cases(c));
    let cases: Vec<_> = cases.collect::<uniferum_metrics::Result<_>>()?;
    let defined: Vec<_> = cases.into_iter().filter(|c| c.n_pos() > 0).collect();
    if defined.is_empty() {
        return Ok(None);
    }
    let bootstrap = Bootstrap {
        // The classes of the first task are no strata of the others.
        stratified: false,
        ..bootstrap
    };
    let statistic = |tasks: &[uniferum_metrics::Ranked<'_>]| {
        mean(tasks.iter().filter_map(|t| t.average_precision().ok()))
    };
    Ok(Some(bootstrap.run(&defined, options.level, statistic)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uniferum_tasks::Catalogue;

    fn predictions(task: &str, turn: usize) -> Vec<Prediction> {
        let row = |i: usize| Prediction {
            scan: format!("scan-{i}"),
            patient: format!("patient-{}", i / 2),
            task: task.to_owned(),
            kind: TaskKind::Diagnosis,
            label: (i % 7 != 6).then_some((i + turn).is_multiple_of(3)),
            logit: ((i * 37 + turn) % 80) as f64 / 10.0
                + f64::from(u8::from((i + turn).is_multiple_of(3))),
            probability: 0.5,
        };
        (0..80).map(row).collect()
    }

    #[test]
    fn tasks_of_different_scans_are_not_judged_together() {
        let catalogue = Catalogue::standard();
        let ids = ["phantom.emphysema", "phantom.cardiomegaly"];
        let tasks: Vec<Task> = ids.map(|id| catalogue.get(id).unwrap().clone()).into();
        let mut all = predictions(ids[0], 0);
        let mut second = predictions(ids[1], 1);
        second.swap(0, 5);
        all.extend(second);
        let error = judge(&tasks, &all, &Intervals::default()).unwrap_err();
        assert!(error.to_string().contains("same scans"), "{error}");
    }

    #[test]
    fn a_group_has_the_mean_of_its_tasks_and_intervals_around_it() {
        let catalogue = Catalogue::standard();
        let ids = [
            "phantom.emphysema",
            "phantom.cardiomegaly",
            "phantom.lung-nodule",
        ];
        let tasks: Vec<Task> = ids.map(|id| catalogue.get(id).unwrap().clone()).into();
        // The third was not asked.
        let mut all = predictions(ids[0], 0);
        all.extend(predictions(ids[1], 1));
        let bootstrap = Bootstrap {
            replicates: 300,
            ..Default::default()
        };
        let intervals = Intervals {
            bootstrap: Some(bootstrap),
            ..Default::default()
        };
        let group = judge(&tasks, &all, &intervals).unwrap();
        assert_eq!(group.tasks.len(), 2);
        let precision: Vec<f64> = group
            .tasks
            .iter()
            .map(|t| t.metrics.auprc.unwrap())
            .collect();
        let mean = group.macro_auprc.unwrap();
        assert!((mean - 0.5 * (precision[0] + precision[1])).abs() < 1e-12);
        let (low, high) = (
            group.macro_auprc_ci_low.unwrap(),
            group.macro_auprc_ci_high.unwrap(),
        );
        assert!(low < mean && mean < high, "{low} {mean} {high}");
        let own = &group.tasks[0];
        assert!(
            own.auprc_ci_low.unwrap() < precision[0] && precision[0] < own.auprc_ci_high.unwrap()
        );
        // Two tasks together are surer than one.
        assert!(high - low < own.auprc_ci_high.unwrap() - own.auprc_ci_low.unwrap());
        let plain = judge(&tasks, &all, &Intervals::default()).unwrap();
        assert_eq!(
            (plain.macro_auprc, plain.macro_auprc_ci_low),
            (Some(mean), None)
        );
    }

    #[test]
    fn nothing_asked_is_a_report_without_numbers() {
        let group = judge(&[], &[], &Intervals::default()).unwrap();
        assert_eq!((group.macro_auprc, group.macro_auroc.value), (None, None));
        assert!(group.tasks.is_empty());
    }
}
