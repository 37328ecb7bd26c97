use serde::{Deserialize, Serialize};

use crate::error::{Result, Undefined, check_open_unit, check_threshold};
use crate::ranked::Ranked;
use crate::special::{normal_quantile, wilson};

/// The four counts at a threshold, by weight: cases with `score >= threshold` are called positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// Positives called positive.
    pub tp: f64,
    /// Negatives called positive.
    pub fp: f64,
    /// Positives called negative.
    #[serde(rename = "fn")]
    pub fn_: f64,
    /// Negatives called negative.
    pub tn: f64,
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

impl Confusion {
    /// Share of the positives that are called positive (recall); `None` without positives.
    pub fn sensitivity(&self) -> Option<f64> {
        ratio(self.tp, self.tp + self.fn_)
    }

    /// Share of the negatives that are called negative; `None` without negatives.
    pub fn specificity(&self) -> Option<f64> {
        ratio(self.tn, self.tn + self.fp)
    }

    /// Share of the positive calls that are right (precision); `None` without positive calls.
    pub fn ppv(&self) -> Option<f64> {
        ratio(self.tp, self.tp + self.fp)
    }

    /// Share of the negative calls that are right; `None` without negative calls.
    pub fn npv(&self) -> Option<f64> {
        ratio(self.tn, self.tn + self.fn_)
    }

    /// Share of all calls that are right; `None` without cases.
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.tp + self.tn, self.tp + self.fp + self.fn_ + self.tn)
    }

    /// Harmonic mean of precision and recall, `2 TP / (2 TP + FP + FN)`; `None` when neither a
    /// positive nor a positive call exists.
    ///
    /// # Reference
    /// van Rijsbergen 1979; the same as Dice 1945 on masks.
    pub fn f1(&self) -> Option<f64> {
        ratio(2.0 * self.tp, 2.0 * self.tp + self.fp + self.fn_)
    }

    /// Sensitivity + specificity - 1; `None` unless both classes are present.
    ///
    /// # Reference
    /// Youden 1950.
    pub fn youden(&self) -> Option<f64> {
        Some(self.sensitivity()? + self.specificity()? - 1.0)
    }
}

/// A threshold chosen on a validation set, and the value that made it best there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChosenThreshold {
    /// Cases with `score >= threshold` are called positive.
    pub threshold: f64,
    /// The criterion's value on the cases it was chosen on.
    pub value: f64,
}

/// What a threshold is chosen to maximise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ThresholdRule {
    /// Sensitivity + specificity - 1.
    #[default]
    Youden,
    /// Harmonic mean of precision and recall.
    F1,
}

impl Ranked<'_> {
    /// The four counts at a threshold.
    ///
    /// ```
    /// use uniferum_metrics::{Cases, Ranked};
    /// let cases = Cases::complete(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true])?;
    /// let confusion = Ranked::new(&cases).confusion(0.35);
    /// assert_eq!((confusion.tp, confusion.fp), (2.0, 1.0));
    /// assert_eq!(confusion.specificity(), Some(0.5));
    /// # Ok::<(), uniferum_metrics::Error>(())
    /// ```
    pub fn confusion(&self, threshold: f64) -> Confusion {
        let called = self.groups.partition_point(|g| g.score < threshold);
        let sum = |f: fn(&crate::ranked::TieGroup) -> f64| {
            // A sum of nothing is -0.
            self.groups[called..].iter().map(f).sum::<f64>() + 0.0
        };
        let (tp, fp) = (sum(|g| g.pos), sum(|g| g.neg));
        Confusion {
            tp,
            fp,
            fn_: (self.pos - tp).max(0.0),
            tn: (self.neg - fp).max(0.0),
        }
    }

    /// The threshold that maximises a criterion on these cases, which should be a validation set:
    /// a threshold chosen on the cases it is judged on flatters itself.
    ///
    /// It lies midway between two observed scores, so that it carries over to other cases; among
    /// equals the highest is taken, which calls fewest cases positive.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    pub fn best_threshold(&self, rule: ThresholdRule) -> Result<ChosenThreshold, Undefined> {
        self.check()?;
        let (mut tp, mut fp) = (0.0, 0.0);
        let mut best: Option<ChosenThreshold> = None;
        for (at, group) in self.groups.iter().enumerate().rev() {
            tp += group.pos;
            fp += group.neg;
            let confusion = Confusion {
                tp,
                fp,
                fn_: (self.pos - tp).max(0.0),
                tn: (self.neg - fp).max(0.0),
            };
            let value = match rule {
                ThresholdRule::Youden => confusion.youden(),
                ThresholdRule::F1 => confusion.f1(),
            };
            let better = |value: &f64| best.is_none_or(|b| *value > b.value + 1e-12);
            if let Some(value) = value.filter(better) {
                let below = at.checked_sub(1).map(|b| self.groups[b].score);
                let threshold = below.map_or(group.score, |b| between(b, group.score));
                best = Some(ChosenThreshold { threshold, value });
            }
        }
        best.ok_or_else(|| self.cases.undefined())
    }
}

/// The midpoint, or `high` where the two are neighbouring numbers.
fn between(low: f64, high: f64) -> f64 {
    let middle = low + 0.5 * (high - low);
    if middle > low { middle } else { high }
}

/// A share and its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// The share.
    pub value: f64,
    /// Lower limit.
    pub ci_low: f64,
    /// Upper limit.
    pub ci_high: f64,
}

/// What calling cases positive at a threshold achieves. Shares without cases are `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// Cases with `score >= threshold` are called positive.
    pub threshold: f64,
    /// The four counts.
    #[serde(flatten)]
    pub confusion: Confusion,
    /// Share of the positives called positive.
    pub sensitivity: Option<Proportion>,
    /// Share of the negatives called negative.
    pub specificity: Option<Proportion>,
    /// Share of the positive calls that are right.
    pub ppv: Option<Proportion>,
    /// Share of the negative calls that are right.
    pub npv: Option<Proportion>,
    /// Share of all calls that are right.
    pub accuracy: Option<Proportion>,
    /// Harmonic mean of precision and recall.
    pub f1: Option<f64>,
    /// Sensitivity + specificity - 1.
    pub youden: Option<f64>,
}

impl OperatingPoint {
    /// Shares at a threshold with Wilson's intervals; with clusters or weights they use the
    /// effective number of cases, so that two volumes of a patient do not count as two patients.
    ///
    /// # Errors
    /// [`crate::Error::Option`] for a level that is not strictly between 0 and 1, or a threshold that is NaN.
    ///
    /// # Reference
    /// Wilson 1927; effective sample size from the variance of a ratio of cluster sums, Rao & Scott
    /// 1992.
    pub fn new(ranked: &Ranked<'_>, threshold: f64, level: f64) -> Result<Self> {
        check_open_unit("level", level)?;
        check_threshold(threshold)?;
        let cases = ranked.cases;
        let z = normal_quantile(0.5 + 0.5 * level);
        let called = |i: usize| cases.scores[i] >= threshold;
        let label = |i: usize| cases.labels[i];
        let share = |of: &dyn Fn(usize) -> bool, hit: &dyn Fn(usize) -> bool| {
            proportion(ranked, of, hit, z)
        };
        let confusion = ranked.confusion(threshold);
        Ok(OperatingPoint {
            threshold,
            confusion,
            sensitivity: share(&label, &called),
            specificity: share(&|i| !label(i), &|i| !called(i)),
            ppv: share(&called, &label),
            npv: share(&|i| !called(i), &|i| !label(i)),
            accuracy: share(&|_| true, &|i| called(i) == label(i)),
            f1: confusion.f1(),
            youden: confusion.youden(),
        })
    }
}

/// The share of `hit` among the cases that are `of` the denominator.
pub(crate) fn proportion(
    ranked: &Ranked<'_>,
    of: &dyn Fn(usize) -> bool,
    hit: &dyn Fn(usize) -> bool,
    z: f64,
) -> Option<Proportion> {
    let cases = ranked.cases;
    let (mut whole, mut part, mut n) = (0.0, 0.0, 0.0);
    for i in (0..cases.len()).filter(|&i| of(i) && ranked.weight(i) > 0.0) {
        let weight = ranked.weight(i);
        n += ranked.count(i);
        whole += weight;
        part += if hit(i) { weight } else { 0.0 };
    }
    if n == 0.0 {
        return None;
    }
    let value = (part / whole).min(1.0);
    let effective = if cases.clusters.is_none() && cases.weights.is_none() {
        n
    } else {
        effective_cases(ranked, of, hit, value, n)
    };
    let (ci_low, ci_high) = wilson(value, effective, z);
    Some(Proportion {
        value,
        ci_low,
        ci_high,
    })
}

/// The number of independent cases whose share would vary as much as this one.
fn effective_cases(
    ranked: &Ranked<'_>,
    of: &dyn Fn(usize) -> bool,
    hit: &dyn Fn(usize) -> bool,
    share: f64,
    n: f64,
) -> f64 {
    let cases = ranked.cases;
    let mut units: std::collections::HashMap<u32, (f64, f64)> = std::collections::HashMap::new();
    for i in (0..cases.len()).filter(|&i| of(i) && ranked.weight(i) > 0.0) {
        let unit = cases.clusters.as_ref().map_or(i as u32, |c| c[i]);
        let (deviation, whole) = units.entry(unit).or_default();
        let weight = ranked.weight(i);
        *deviation += weight * (if hit(i) { 1.0 } else { 0.0 } - share);
        *whole += weight;
    }
    // A fixed order of summation: hash maps iterate differently from run to run.
    let mut units: Vec<(u32, (f64, f64))> = units.into_iter().collect();
    units.sort_unstable_by_key(|u| u.0);
    let k = units.len() as f64;
    let whole: f64 = units.iter().map(|(_, u)| u.1).sum();
    let squares: f64 = units.iter().map(|(_, u)| u.0 * u.0).sum();
    let variance = squares / (whole * whole) * k / (k - 1.0);
    // At 0 and 1 nothing is seen to vary, and the clusters are all that is known to be independent.
    if k > 1.0 && variance > 0.0 && share > 0.0 && share < 1.0 {
        (share * (1.0 - share) / variance).clamp(1.0, n)
    } else {
        k
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cases;

    fn ranked_point(cases: &Cases) -> OperatingPoint {
        OperatingPoint::new(&Ranked::new(cases), 0.5, 0.95).unwrap()
    }

    #[test]
    fn counts_and_shares() {
        let scores = [0.9, 0.8, 0.3, 0.6, 0.2, 0.1];
        let labels = [true, true, true, false, false, false];
        let cases = Cases::complete(&scores, &labels).unwrap();
        let point = ranked_point(&cases);
        let c = point.confusion;
        assert_eq!((c.tp, c.fp, c.fn_, c.tn), (2.0, 1.0, 1.0, 2.0));
        assert_eq!(point.f1, Some(2.0 / 3.0));
        assert!((point.youden.unwrap() - 1.0 / 3.0).abs() < 1e-15);
        let sensitivity = point.sensitivity.unwrap();
        // Wilson's limits of 2 out of 3.
        assert!(
            (sensitivity.ci_low - 0.207_655).abs() < 1e-5,
            "{sensitivity:?}"
        );
        assert!((sensitivity.ci_high - 0.938_508).abs() < 1e-5);
    }

    #[test]
    fn a_resample_has_shares_of_its_own() {
        let scores: Vec<f64> = (0..60).map(|i| f64::from(i % 10) / 10.0).collect();
        let labels: Vec<bool> = (0..60).map(|i| i % 7 > 2).collect();
        let cases = Cases::complete(&scores, &labels).unwrap();
        let bootstrap = crate::Bootstrap {
            replicates: 200,
            ..Default::default()
        };
        let sensitivity = |resampled: &[Ranked<'_>]| {
            let point = OperatingPoint::new(&resampled[0], 0.5, 0.95).ok()?;
            let share = point.sensitivity?.value;
            let of_counts = point.confusion.tp / (point.confusion.tp + point.confusion.fn_);
            assert!((share - of_counts).abs() < 1e-12);
            Some(share)
        };
        let interval = bootstrap.run(&[cases], 0.95, sensitivity).unwrap();
        assert!(interval.ci_high.unwrap() > interval.ci_low.unwrap() + 0.1);
    }

    #[test]
    fn two_volumes_of_a_patient_are_not_two_patients() {
        let labels: Vec<bool> = (0..40).map(|_| true).collect();
        let scores: Vec<f64> = (0..40).map(|i| if i < 30 { 0.9 } else { 0.1 }).collect();
        let single = Cases::complete(&scores, &labels).unwrap();
        let twins: Vec<u32> = (0..40).map(|i| i / 2).collect();
        let clustered = single.clone().with_clusters(&twins).unwrap();
        let width = |c: &Cases| {
            let s = ranked_point(c).sensitivity.unwrap();
            s.ci_high - s.ci_low
        };
        assert!(width(&clustered) > 1.3 * width(&single));
        // Twins that always agree are 20 cases, but for the small-sample factor.
        let half = Cases::complete(&scores[10..30], &labels[10..30]).unwrap();
        assert!(ranked_point(&half).sensitivity.is_some());
    }

    #[test]
    fn thresholds_lie_between_scores_and_may_be_neighbours() {
        let cases = Cases::complete(&[0.2, 0.4, 0.8], &[false, false, true]).unwrap();
        let chosen = Ranked::new(&cases).best_threshold(ThresholdRule::Youden);
        let chosen = chosen.unwrap();
        assert!((chosen.threshold - 0.6).abs() < 1e-15 && chosen.value == 1.0);
        let next = f64::from_bits(0.4f64.to_bits() + 1);
        let cases = Cases::complete(&[0.4, next], &[false, true]).unwrap();
        let ranked = Ranked::new(&cases);
        let chosen = ranked.best_threshold(ThresholdRule::F1).unwrap();
        assert_eq!(chosen.threshold, next);
        assert_eq!(ranked.confusion(chosen.threshold).f1(), Some(1.0));
    }
}
