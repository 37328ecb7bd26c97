use serde::{Deserialize, Serialize};

use crate::delong::{AucEstimate, covariance_matrix, degrees_of_freedom};
use crate::error::{Result, check_len, check_open_unit};
use crate::multiple::{benjamini_hochberg, holm};
use crate::special::{t_quantile, two_sided_t};

/// A variance this much smaller than its terms is what rounding leaves of 0.
const ROUNDING: f64 = 1e-13;

/// Fewer positive (or negative) units than this, and no test of a difference holds its level: the
/// variance of two values is right too seldom even for Student's law.
pub const FEWEST_TESTED: usize = 3;

/// Whether a difference could be tested, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ComparisonState {
    /// The test was made.
    Tested,
    /// The areas are equal and so is what each unit (case or patient) adds to them: no difference, and
    /// none that other cases like these could show. Scores, and the order within a class, may differ.
    Identical,
    /// The areas differ but neither varies, as with perfect separation against all ties.
    NoVariance,
    /// Fewer than [`FEWEST_TESTED`] units hold all positives or all negatives. In a macro average: some
    /// task has a single one, so that there is no variance.
    TooFewUnits,
    /// A class is absent.
    Undefined,
}

/// The difference of two AUROCs over the same cases, tested with their covariance.
///
/// Numbers that do not exist are `None`; `state` says why.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AurocDifference {
    /// AUROC of the first model.
    pub auroc_a: Option<f64>,
    /// AUROC of the second model.
    pub auroc_b: Option<f64>,
    /// `auroc_a - auroc_b`.
    pub difference: Option<f64>,
    /// Standard error of the difference.
    pub std_err: Option<f64>,
    /// Lower limit of the difference.
    pub ci_low: Option<f64>,
    /// Upper limit of the difference.
    pub ci_high: Option<f64>,
    /// Difference over standard error, standard normal in large samples if the areas are equal:
    /// DeLong's statistic.
    pub z: Option<f64>,
    /// Degrees of freedom of Student's law, to which `z` is referred.
    pub df: Option<f64>,
    /// Two-sided p-value by Student's law.
    pub p_value: Option<f64>,
    /// Whether the test was made.
    pub state: ComparisonState,
}

impl AurocDifference {
    fn without_test(a: Option<f64>, b: Option<f64>, state: ComparisonState) -> Self {
        AurocDifference {
            auroc_a: a,
            auroc_b: b,
            difference: a.zip(b).map(|(a, b)| a - b),
            std_err: None,
            ci_low: None,
            ci_high: None,
            z: None,
            df: None,
            p_value: None,
            state,
        }
    }

    /// From the two areas, the variance of their difference and the size of its terms; `df` is asked
    /// only where there is a variance.
    fn test(
        (a, b): (f64, f64),
        variance: f64,
        terms: f64,
        level: f64,
        df: impl FnOnce() -> f64,
    ) -> Self {
        let difference = a - b;
        if variance <= ROUNDING * terms {
            let state = if difference.abs() <= ROUNDING {
                ComparisonState::Identical
            } else {
                ComparisonState::NoVariance
            };
            let mut result = Self::without_test(Some(a), Some(b), state);
            result.std_err = Some(0.0);
            return result;
        }
        let std_err = variance.sqrt();
        let df = df();
        let half = t_quantile(level, df) * std_err;
        let z = difference / std_err;
        AurocDifference {
            std_err: Some(std_err),
            ci_low: Some((difference - half).max(-1.0)),
            ci_high: Some((difference + half).min(1.0)),
            z: Some(z),
            df: Some(df),
            p_value: Some(two_sided_t(z, df)),
            ..Self::without_test(Some(a), Some(b), ComparisonState::Tested)
        }
    }
}

/// Tests the difference of two AUROCs over the same rows.
///
/// With clusters the covariance is Obuchowski's, else DeLong's. The interval is symmetric about the
/// difference and cut at -1 and 1. Both it and the p-value are Student's, with Welch and
/// Satterthwaite's degrees of freedom from the positive and the negative units: the normal law, which
/// DeLong et al. used, rejects far too often with few positives. Its p-value is
/// [`two_sided_p`](crate::special::two_sided_p) of `z`.
///
/// # Errors
/// [`crate::Error::Length`] when the estimates do not describe the same rows,
/// [`crate::Error::Option`] for a bad level.
///
/// # Reference
/// DeLong, DeLong & Clarke-Pearson 1988; with clusters Obuchowski 1997; Satterthwaite 1946, Welch 1947.
///
/// ```
/// use uniferum_metrics::{AucEstimate, Cases, ComparisonState, compare_auroc};
/// let labels = [false, false, false, true, true, true];
/// let a = Cases::complete(&[0.1, 0.2, 0.6, 0.5, 0.8, 0.9], &labels)?;
/// let b = a.with_scores(&[0.3, 0.1, 0.9, 0.5, 0.2, 0.8])?;
/// let (a, b) = (AucEstimate::new(&a)?, AucEstimate::new(&b)?);
/// let test = compare_auroc(&a, &b, 0.95)?;
/// assert!(test.difference.unwrap() > 0.0 && test.p_value.unwrap() > 0.05);
/// assert_eq!(compare_auroc(&a, &a, 0.95)?.state, ComparisonState::Identical);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn compare_auroc(a: &AucEstimate, b: &AucEstimate, level: f64) -> Result<AurocDifference> {
    check_open_unit("level", level)?;
    let (area_a, area_b) = (a.auroc(), b.auroc());
    let covariance = a.covariance(b)?;
    let units = [a, b].map(|e| e.pos_units().min(e.neg_units()));
    let parts = a.variance().zip(b.variance()).zip(covariance);
    let parts = parts.filter(|_| units[0].min(units[1]) >= FEWEST_TESTED);
    let Some(((va, vb), covariance)) = parts else {
        let state = ComparisonState::TooFewUnits;
        return Ok(AurocDifference::without_test(
            Some(area_a),
            Some(area_b),
            state,
        ));
    };
    let variance = va + vb - 2.0 * covariance;
    Ok(AurocDifference::test(
        (area_a, area_b),
        variance,
        va + vb,
        level,
        || degrees_of_freedom(&[(a, b)]),
    ))
}

/// A task's line of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskComparison {
    /// Name of the task.
    pub task: String,
    /// The difference and its test.
    #[serde(flatten)]
    pub difference: AurocDifference,
    /// `p_value` adjusted over the tasks by Holm's method.
    pub p_holm: Option<f64>,
    /// `p_value` adjusted over the tasks by Benjamini and Hochberg's method.
    pub p_bh: Option<f64>,
}

/// The difference of two macro averages over the tasks that both define.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MacroDifference {
    /// The difference and its test, from the full covariance over models and tasks.
    #[serde(flatten)]
    pub difference: AurocDifference,
    /// Tasks in both means.
    pub n_tasks: usize,
    /// Tasks left out because a class is absent.
    pub undefined: Vec<String>,
    /// Tasks with a single positive or negative unit, which deny the difference a test. A single task
    /// needs [`FEWEST_TESTED`].
    pub without_variance: Vec<String>,
}

/// Two models over several tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// One entry a task, in the order given.
    pub tasks: Vec<TaskComparison>,
    /// The difference of the means.
    #[serde(rename = "macro")]
    pub macro_difference: MacroDifference,
}

/// Compares two models task by task, with p-values corrected over the tasks, and their macro averages.
///
/// `names`, `a` and `b` run in parallel; `None` stands for an undefined AUROC. See
/// [`crate::auc_estimates`].
///
/// # Errors
/// As [`compare_auroc`].
pub fn compare_tasks(
    names: &[&str],
    a: &[Option<AucEstimate>],
    b: &[Option<AucEstimate>],
    level: f64,
) -> Result<Comparison> {
    check_open_unit("level", level)?;
    check_len("estimates of the first model", names.len(), a.len())?;
    check_len("estimates of the second model", names.len(), b.len())?;
    let mut differences = Vec::with_capacity(names.len());
    for (a, b) in a.iter().zip(b) {
        differences.push(match (a, b) {
            (Some(a), Some(b)) => compare_auroc(a, b, level)?,
            _ => {
                let area = |e: &Option<AucEstimate>| e.as_ref().map(AucEstimate::auroc);
                AurocDifference::without_test(area(a), area(b), ComparisonState::Undefined)
            }
        });
    }
    let p_values: Vec<Option<f64>> = differences.iter().map(|d| d.p_value).collect();
    let adjusted = holm(&p_values)
        .into_iter()
        .zip(benjamini_hochberg(&p_values));
    let tasks = names.iter().zip(&differences).zip(adjusted);
    let tasks = tasks
        .map(|((name, difference), (p_holm, p_bh))| TaskComparison {
            task: name.to_string(),
            difference: *difference,
            p_holm,
            p_bh,
        })
        .collect();
    Ok(Comparison {
        tasks,
        macro_difference: compare_macro(names, a, b, level)?,
    })
}

fn compare_macro(
    names: &[&str],
    a: &[Option<AucEstimate>],
    b: &[Option<AucEstimate>],
    level: f64,
) -> Result<MacroDifference> {
    let (mut undefined, mut without_variance) = (Vec::new(), Vec::new());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for ((name, a), b) in names.iter().zip(a).zip(b) {
        let (Some(a), Some(b)) = (a, b) else {
            undefined.push(name.to_string());
            continue;
        };
        if a.variance().is_none() || b.variance().is_none() {
            without_variance.push(name.to_string());
        }
        first.push(a);
        second.push(b);
    }
    let k = first.len();
    let finish = |difference| MacroDifference {
        difference,
        n_tasks: k,
        undefined,
        without_variance: without_variance.clone(),
    };
    if k == 0 {
        let state = ComparisonState::Undefined;
        return Ok(finish(AurocDifference::without_test(None, None, state)));
    }
    if k == 1 {
        return Ok(finish(compare_auroc(first[0], second[0], level)?));
    }
    let mean = |e: &[&AucEstimate]| e.iter().map(|e| e.auroc()).sum::<f64>() / k as f64;
    let (mean_a, mean_b) = (mean(&first), mean(&second));
    let pairs: Vec<(&AucEstimate, &AucEstimate)> =
        first.iter().copied().zip(second.iter().copied()).collect();
    let both: Vec<&AucEstimate> = first.into_iter().chain(second).collect();
    let matrix = covariance_matrix(&both)?;
    let sign = |i: usize| if i < k { 1.0 } else { -1.0 };
    let (mut variance, mut terms) = (Some(0.0), 0.0);
    for (i, row) in matrix.iter().enumerate() {
        for (j, entry) in row.iter().enumerate() {
            variance = variance.zip(*entry).map(|(v, c)| v + sign(i) * sign(j) * c);
            terms += entry.unwrap_or(0.0).abs();
        }
    }
    let k2 = (k * k) as f64;
    Ok(finish(match variance {
        Some(variance) => {
            AurocDifference::test((mean_a, mean_b), variance / k2, terms / k2, level, || {
                degrees_of_freedom(&pairs)
            })
        }
        None => {
            AurocDifference::without_test(Some(mean_a), Some(mean_b), ComparisonState::TooFewUnits)
        }
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cases::Cases;

    pub(crate) fn estimate(scores: &[f64], labels: &[bool]) -> AucEstimate {
        AucEstimate::new(&Cases::complete(scores, labels).unwrap()).unwrap()
    }

    pub(crate) const LABELS: [bool; 8] = [false, false, false, false, true, true, true, true];
    pub(crate) const A: [f64; 8] = [1.0, 2.0, 3.0, 6.5, 4.0, 6.0, 7.0, 8.0];
    pub(crate) const B: [f64; 8] = [4.0, 2.0, 8.0, 1.0, 5.0, 3.0, 7.0, 6.0];

    #[test]
    fn identical_and_invariable_models_are_states() {
        let (a, b) = (estimate(&A, &LABELS), estimate(&B, &LABELS));
        let moved: Vec<f64> = A.iter().map(|x| x.powi(3) - 5.0).collect();
        let same = compare_auroc(&a, &estimate(&moved, &LABELS), 0.95).unwrap();
        assert_eq!(same.state, ComparisonState::Identical);
        assert_eq!((same.difference, same.p_value), (Some(0.0), None));
        let perfect = estimate(&[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], &LABELS);
        let flat = estimate(&[0.0; 8], &LABELS);
        let extreme = compare_auroc(&perfect, &flat, 0.95).unwrap();
        assert_eq!(extreme.state, ComparisonState::NoVariance);
        assert_eq!(extreme.difference, Some(0.5));
        let tested = compare_auroc(&a, &b, 0.95).unwrap();
        assert_eq!(tested.state, ComparisonState::Tested);
    }

    #[test]
    fn a_single_positive_cannot_be_tested() {
        let labels = [false, false, false, true];
        let (a, b) = (estimate(&A[..4], &labels), estimate(&B[..4], &labels));
        let result = compare_tasks(&["t"], &[Some(a)], &[Some(b)], 0.95).unwrap();
        let line = &result.tasks[0];
        assert_eq!(line.difference.state, ComparisonState::TooFewUnits);
        assert_eq!(result.macro_difference.without_variance, ["t"]);
        assert_eq!(result.macro_difference.difference.p_value, None);
    }

    #[test]
    fn two_positives_are_too_few_for_a_test_and_three_are_tested_by_students_law() {
        let of = |positives: usize| {
            let labels: Vec<bool> = (0..8).map(|i| i < positives).collect();
            compare_auroc(&estimate(&A, &labels), &estimate(&B, &labels), 0.95).unwrap()
        };
        let two = of(2);
        assert_eq!(two.state, ComparisonState::TooFewUnits);
        assert!(two.difference.is_some() && two.p_value.is_none());
        let three = of(3);
        let df = three.df.unwrap();
        assert!((2.0..=6.0).contains(&df), "{df}");
        let normal = crate::special::two_sided_p(three.z.unwrap());
        assert!(three.p_value.unwrap() > normal);
        // The interval and the p-value are of one law.
        let at = compare_auroc(
            &estimate(&A, &LABELS),
            &estimate(&B, &LABELS),
            1.0 - p_of(&A, &B),
        );
        let at = at.unwrap();
        let nearest = at.ci_low.unwrap().abs().min(at.ci_high.unwrap().abs());
        assert!(nearest < 1e-9, "{at:?}");
    }

    fn p_of(a: &[f64], b: &[f64]) -> f64 {
        let test = compare_auroc(&estimate(a, &LABELS), &estimate(b, &LABELS), 0.95);
        test.unwrap().p_value.unwrap()
    }

    #[test]
    fn degrees_of_freedom_are_welch_and_satterthwaites() {
        let (a, b) = (estimate(&A, &LABELS), estimate(&B, &LABELS));
        // Placements of `A - B` by hand: positives, then negatives.
        let v = [0.75 - 0.75, 0.75 - 0.5, 1.0 - 0.75, 1.0 - 0.75];
        let w = [1.0 - 0.75, 1.0 - 1.0, 1.0 - 0.0, 0.5 - 1.0];
        let spread = |x: [f64; 4]| {
            let mean = x.iter().sum::<f64>() / 4.0;
            x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 3.0 / 4.0
        };
        let (s1, s0) = (spread(v), spread(w));
        let expected = (s1 + s0).powi(2) / (s1 * s1 / 3.0 + s0 * s0 / 3.0);
        let test = compare_auroc(&a, &b, 0.95).unwrap();
        assert!((test.std_err.unwrap().powi(2) - s1 - s0).abs() < 1e-14);
        assert!((test.df.unwrap() - expected).abs() < 1e-10, "{test:?}");
        // The same task twice is one test; every case its own patient changes nothing.
        assert!((degrees_of_freedom(&[(&a, &b), (&a, &b)]) - expected).abs() < 1e-10);
        let own: Vec<u32> = (0..8).collect();
        let clustered = |s: &[f64]| {
            let cases = Cases::complete(s, &LABELS).unwrap();
            AucEstimate::new(&cases.with_clusters(&own).unwrap()).unwrap()
        };
        let df = degrees_of_freedom(&[(&clustered(&A), &clustered(&B))]);
        assert!((df - expected).abs() < 1e-10);
        // Patients that hold both classes count once: four of them have three degrees of freedom.
        let pairs = [0, 1, 2, 3, 0, 1, 2, 3];
        let paired = |s: &[f64]| {
            let cases = Cases::complete(s, &LABELS).unwrap();
            AucEstimate::new(&cases.with_clusters(&pairs).unwrap()).unwrap()
        };
        let df = degrees_of_freedom(&[(&paired(&A), &paired(&B))]);
        assert!((df - 3.0).abs() < 1e-10, "{df}");
    }

    #[test]
    fn macro_of_one_task_is_the_task() {
        let (a, b) = (estimate(&A, &LABELS), estimate(&B, &LABELS));
        let names = ["t", "absent"];
        let (a, b) = ([Some(a), None], [Some(b), None]);
        let result = compare_tasks(&names, &a, &b, 0.9).unwrap();
        let (task, all) = (&result.tasks[0].difference, &result.macro_difference);
        assert!((task.p_value.unwrap() - all.difference.p_value.unwrap()).abs() < 1e-12);
        assert_eq!(all.undefined, ["absent"]);
        assert_eq!(result.tasks[1].difference.state, ComparisonState::Undefined);
        assert_eq!(result.tasks[0].p_holm, task.p_value);
    }
}
