use serde::{Deserialize, Serialize};

use crate::delong::{AucEstimate, covariance_matrix};
use crate::error::{Result, check_len, check_open_unit};
use crate::interval::{Interval, IntervalMethod, auroc_interval, automatic, logit_interval};
use crate::special::normal_quantile;

/// The mean AUROC of several tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MacroAuroc {
    /// Mean over the tasks whose AUROC is defined; `None` when there is none.
    pub value: Option<f64>,
    /// Standard error from the full covariance between tasks.
    pub std_err: Option<f64>,
    /// Lower limit of the interval of `value`.
    pub ci_low: Option<f64>,
    /// Upper limit of the interval of `value`.
    pub ci_high: Option<f64>,
    /// The own one of a single task; [`Logit`](IntervalMethod::Logit) from `std_err`; with `few_units`
    /// [`Mover`](IntervalMethod::Mover), which allows for them; where `std_err` is missing or 0 the mean
    /// of the tasks' own intervals at a Bonferroni-corrected level, which is
    /// [`Simultaneous`](IntervalMethod::Simultaneous) and wide.
    pub ci_method: Option<IntervalMethod>,
    /// Tasks in the mean.
    pub n_tasks: usize,
    /// Tasks asked for.
    pub n_tasks_total: usize,
    /// Tasks left out of the mean because a class is absent.
    pub undefined: Vec<String>,
    /// Tasks in the mean with a single positive or negative unit, which deny it a standard error.
    pub without_variance: Vec<String>,
    /// Tasks in the mean whose own interval is not [`Logit`](IntervalMethod::Logit) by
    /// [`Auto`](IntervalMethod::Auto)'s rule: too few units of a class, or too few of them misplaced.
    #[serde(default)]
    pub few_units: Vec<String>,
}

/// Mean AUROC of the estimates that are defined, with the interval of their full covariance.
///
/// `names` and `estimates` run in parallel; `None` stands for an undefined AUROC.
///
/// # Errors
/// [`crate::Error`] when the estimates do not describe the same rows, for a bad level, or when there is
/// not one name for each.
pub fn macro_auroc(
    names: &[&str],
    estimates: &[Option<AucEstimate>],
    level: f64,
) -> Result<MacroAuroc> {
    check_open_unit("level", level)?;
    check_len("names of the estimates", estimates.len(), names.len())?;
    let mut result = MacroAuroc {
        value: None,
        std_err: None,
        ci_low: None,
        ci_high: None,
        ci_method: None,
        n_tasks: 0,
        n_tasks_total: estimates.len(),
        undefined: Vec::new(),
        without_variance: Vec::new(),
        few_units: Vec::new(),
    };
    let mut defined = Vec::new();
    for (name, estimate) in names.iter().zip(estimates) {
        match estimate {
            None => result.undefined.push(name.to_string()),
            Some(estimate) => {
                if estimate.variance().is_none() {
                    result.without_variance.push(name.to_string());
                }
                if automatic(estimate) != IntervalMethod::Logit {
                    result.few_units.push(name.to_string());
                }
                defined.push(estimate);
            }
        }
    }
    result.n_tasks = defined.len();
    if defined.is_empty() {
        return Ok(result);
    }
    let k = defined.len() as f64;
    let value = defined.iter().map(|e| e.auroc()).sum::<f64>() / k;
    result.value = Some(value);
    let covariance = covariance_matrix(&defined)?;
    let total: Option<f64> = covariance.iter().flatten().copied().sum();
    result.std_err = total.map(|total| total.max(0.0).sqrt() / k);
    let z = normal_quantile(0.5 + 0.5 * level);
    let logit = result.std_err.and_then(|se| logit_interval(value, se, z));
    let interval = match (defined.as_slice(), logit) {
        ([only], _) => own(only, level)?,
        (_, None) => simultaneous(&defined, level)?,
        (_, Some(logit)) if result.few_units.is_empty() => logit,
        (_, Some(logit)) => mover(&defined, &covariance, level)?.united(logit),
    };
    (result.ci_low, result.ci_high) = (Some(interval.low), Some(interval.high));
    result.ci_method = Some(interval.method);
    Ok(result)
}

/// The interval of one task; `Auto` always answers.
fn own(estimate: &AucEstimate, level: f64) -> Result<Interval> {
    let found = auroc_interval(estimate, level, IntervalMethod::Auto)?;
    Ok(found.unwrap_or(Interval {
        low: 0.0,
        high: 1.0,
        method: IntervalMethod::Exact,
    }))
}

/// Limits of the mean from the tasks' own limits, which hold also where the normal law does not, and the
/// correlations of the estimates. Tasks of variance 0 count as uncorrelated.
///
/// # Reference
/// Zou & Donner 2008 (method of variance estimates recovery).
fn mover(
    estimates: &[&AucEstimate],
    covariance: &[Vec<Option<f64>>],
    level: f64,
) -> Result<Interval> {
    let k = estimates.len();
    let intervals = estimates.iter().map(|e| own(e, level));
    let intervals: Vec<Interval> = intervals.collect::<Result<_>>()?;
    let correlation = |i: usize, j: usize| {
        if i == j {
            return 1.0;
        }
        let of = |i: usize, j: usize| covariance[i][j].unwrap_or(0.0);
        let spread = (of(i, i) * of(j, j)).sqrt();
        if spread > 0.0 { of(i, j) / spread } else { 0.0 }
    };
    let reach = |distance: &dyn Fn(usize) -> f64| {
        let pairs = (0..k).flat_map(|i| (0..k).map(move |j| (i, j)));
        let square = pairs.map(|(i, j)| correlation(i, j) * distance(i) * distance(j));
        square.sum::<f64>().max(0.0).sqrt() / k as f64
    };
    let value = estimates.iter().map(|e| e.auroc()).sum::<f64>() / k as f64;
    let below = reach(&|i| estimates[i].auroc() - intervals[i].low);
    let above = reach(&|i| intervals[i].high - estimates[i].auroc());
    Ok(Interval {
        low: (value - below).max(0.0),
        high: (value + above).min(1.0),
        method: IntervalMethod::Mover,
    })
}

/// The mean of intervals that hold together, whatever the dependence between the tasks.
fn simultaneous(estimates: &[&AucEstimate], level: f64) -> Result<Interval> {
    let k = estimates.len() as f64;
    let (mut low, mut high) = (0.0, 0.0);
    for estimate in estimates {
        let each = own(estimate, 1.0 - (1.0 - level) / k)?;
        low += each.low / k;
        high += each.high / k;
    }
    Ok(Interval {
        low,
        high: high.min(1.0),
        method: IntervalMethod::Simultaneous,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Cases;
    use crate::evaluate::{EvaluateOptions, TaskColumn, evaluate_tasks};

    fn column<'a>(task: &'a str, scores: &'a [f64], labels: &'a [Option<bool>]) -> TaskColumn<'a> {
        TaskColumn {
            task,
            scores,
            labels,
        }
    }

    #[test]
    fn a_macro_average_says_which_tasks_it_holds() {
        let scores = [0.1, 0.9, 0.4, 0.6];
        let (yes, no) = (Some(true), Some(false));
        let (both, constant) = ([no, yes, no, yes], [no, no, no, None]);
        let columns = [
            column("both", &scores, &both),
            column("constant", &scores, &constant),
        ];
        let result = evaluate_tasks(&columns, &EvaluateOptions::default()).unwrap();
        let all = result.macro_auroc;
        assert_eq!((all.n_tasks, all.n_tasks_total), (1, 2));
        assert_eq!(all.undefined, ["constant"]);
        assert_eq!(
            (result.tasks[1].auroc, result.tasks[1].ci_low),
            (None, None)
        );
        assert_eq!(result.tasks[1].n_missing, 1);
    }

    #[test]
    fn few_positives_widen_a_macro_average() {
        let scores: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 200)).collect();
        let label = |above: u32, every: u32| {
            let of = |i: u32| Some(i * 37 % 200 > above && i.is_multiple_of(every));
            (0..200).map(of).collect::<Vec<_>>()
        };
        let (many, few) = (label(60, 2), label(120, 17));
        let columns = [column("many", &scores, &many), column("few", &scores, &few)];
        let ask = |columns: &[TaskColumn<'_>]| {
            evaluate_tasks(columns, &EvaluateOptions::default()).unwrap()
        };
        let both = ask(&columns);
        let all = &both.macro_auroc;
        assert!(both.tasks[1].n_pos < 10 && both.tasks[0].n_pos > 50);
        assert_eq!(all.few_units, ["few"]);
        assert_eq!(all.ci_method, Some(IntervalMethod::Mover));
        let z = normal_quantile(0.975);
        let plain = logit_interval(all.value.unwrap(), all.std_err.unwrap(), z).unwrap();
        assert!(all.ci_low.unwrap() <= plain.low && all.ci_high.unwrap() >= plain.high);
        assert!(all.ci_high.unwrap() - all.ci_low.unwrap() > plain.high - plain.low + 0.01);
        // One task: its own interval.
        let one = ask(&columns[1..]);
        let (task, all) = (&one.tasks[0], &one.macro_auroc);
        assert_eq!(task.ci_method, Some(IntervalMethod::Score));
        assert_eq!((all.ci_low, all.ci_high), (task.ci_low, task.ci_high));
        assert_eq!(all.ci_method, task.ci_method);
        // Enough of everything: as before.
        let twice = ask(&[columns[0], columns[0]]).macro_auroc;
        assert_eq!(twice.ci_method, Some(IntervalMethod::Logit));
        assert!(twice.few_units.is_empty());
    }

    #[test]
    fn every_estimate_needs_a_name() {
        let estimate = AucEstimate::new(
            &Cases::complete(&[0.1, 0.2, 0.3, 0.4], &[false, true, false, true]).unwrap(),
        );
        let estimates = [estimate.clone().ok(), estimate.ok()];
        let error = macro_auroc(&["a"], &estimates, 0.95).unwrap_err();
        assert_eq!(
            error.to_string(),
            "names of the estimates: expected 2 values, got 1"
        );
    }

    #[test]
    fn a_perfect_macro_average_still_has_a_lower_limit() {
        let scores: Vec<f64> = (0..60).map(f64::from).collect();
        let labels: Vec<Option<bool>> = (0..60).map(|i| Some(i >= 30)).collect();
        let columns = [column("a", &scores, &labels), column("b", &scores, &labels)];
        let result = evaluate_tasks(&columns, &EvaluateOptions::default()).unwrap();
        let all = result.macro_auroc;
        assert_eq!((all.value, all.std_err), (Some(1.0), Some(0.0)));
        assert_eq!(all.ci_method, Some(IntervalMethod::Simultaneous));
        let (low, each) = (all.ci_low.unwrap(), result.tasks[0].ci_low.unwrap());
        assert!(
            low > 0.8 && low < each && all.ci_high == Some(1.0),
            "{low} {each}"
        );
    }
}
