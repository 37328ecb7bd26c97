use serde::{Deserialize, Serialize};

use crate::delong::AucEstimate;
use crate::error::{Result, check_open_unit};
use crate::special::{bisect, normal_quantile, sigmoid};

/// Fewer positive (or negative) cases or patients than this, and the normal approximation of
/// DeLong's interval is not to be trusted.
pub const FEW_UNITS: usize = 10;

/// Fewer units of the smaller class than this on the wrong side of the curve, `min(m, n) min(A, 1 - A)`,
/// and the normal approximation is as little to be trusted, however many units there are.
const FEW_MISPLACED: f64 = 5.0;

/// How an interval is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IntervalMethod {
    /// [`Logit`](Self::Logit); [`Score`](Self::Score) below [`FEW_UNITS`] units of either class, and where
    /// the AUROC is so near 0 or 1 that less than five units of the smaller class stand for the
    /// difference; [`Exact`](Self::Exact) where the variance is 0.
    #[default]
    Auto,
    /// Estimate ± z standard errors, cut at 0 and 1. What R's pROC prints.
    Wald,
    /// Symmetric on the logit scale: never leaves 0..=1 and holds its level near the ends.
    Logit,
    /// Score interval from the class sizes alone (Newcombe 2006, method 5), never degenerate.
    Score,
    /// Holds its level for any score distribution and any number of cases, hence wide.
    Exact,
    /// Percentiles of resamples, drawn by patient; see [`Bootstrap`](crate::Bootstrap). With few cases
    /// of a class it is too narrow: what `Auto` takes there holds its level.
    Bootstrap,
    /// Mean of several intervals, each at a level so corrected that all hold together; only macro
    /// averages use it.
    Simultaneous,
    /// The smallest interval that holds [`Logit`](Self::Logit)'s and the one recovered from several own
    /// intervals and the correlations of their estimates; only macro averages use it.
    Mover,
}

/// A confidence interval and the method that gave it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower limit.
    pub low: f64,
    /// Upper limit.
    pub high: f64,
    /// The method used, never [`IntervalMethod::Auto`].
    pub method: IntervalMethod,
}

impl Interval {
    /// The smallest interval that holds both, by this one's method.
    pub(crate) fn united(self, other: Interval) -> Interval {
        Interval {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            ..self
        }
    }
}

/// Confidence interval of an AUROC.
///
/// `None` when the method asked for needs a variance and there is none, or the variance is 0
/// ([`IntervalMethod::Wald`] and [`Logit`](IntervalMethod::Logit)); `Auto` always answers.
/// [`IntervalMethod::Bootstrap`] needs the cases themselves, which [`crate::evaluate_tasks`] has; here
/// it is `None`.
///
/// # Errors
/// [`crate::Error::Option`] when `level` is not strictly between 0 and 1.
pub fn auroc_interval(
    estimate: &AucEstimate,
    level: f64,
    method: IntervalMethod,
) -> Result<Option<Interval>> {
    check_open_unit("level", level)?;
    let z = normal_quantile(0.5 + 0.5 * level);
    let (auroc, m, n) = (estimate.auroc(), estimate.pos_units(), estimate.neg_units());
    let variance = estimate.variance();
    let method = match method {
        IntervalMethod::Auto => automatic(estimate),
        other => other,
    };
    let limits = match method {
        IntervalMethod::Wald => spread(variance).map(|se| wald(auroc, se, z)),
        IntervalMethod::Auto | IntervalMethod::Logit => {
            spread(variance).and_then(|se| logit(auroc, se, z))
        }
        IntervalMethod::Score | IntervalMethod::Mover => {
            Some(newcombe(auroc, m as f64, n as f64, z))
        }
        // Of a single estimate that is its own exact interval.
        IntervalMethod::Exact | IntervalMethod::Simultaneous => {
            Some(hoeffding(auroc, m.min(n) as f64, level))
        }
        IntervalMethod::Bootstrap => None,
    };
    Ok(limits.map(|(low, high)| Interval { low, high, method }))
}

/// What [`IntervalMethod::Auto`] takes.
pub(crate) fn automatic(estimate: &AucEstimate) -> IntervalMethod {
    let smaller = estimate.pos_units().min(estimate.neg_units());
    let misplaced = smaller as f64 * estimate.auroc().min(1.0 - estimate.auroc());
    if smaller < FEW_UNITS {
        IntervalMethod::Score
    } else if estimate.variance().is_none_or(|v| v <= 0.0) {
        IntervalMethod::Exact
    } else if misplaced < FEW_MISPLACED {
        IntervalMethod::Score
    } else {
        IntervalMethod::Logit
    }
}

/// Interval of any estimate in 0..=1 from its standard error, symmetric on the logit scale.
///
/// `None` when the standard error is 0 or the estimate is 0 or 1.
pub(crate) fn logit_interval(value: f64, std_err: f64, z: f64) -> Option<Interval> {
    let (low, high) = logit(value, std_err, z)?;
    Some(Interval {
        low,
        high,
        method: IntervalMethod::Logit,
    })
}

fn spread(variance: Option<f64>) -> Option<f64> {
    variance.filter(|&v| v > 0.0).map(f64::sqrt)
}

fn wald(value: f64, se: f64, z: f64) -> (f64, f64) {
    ((value - z * se).max(0.0), (value + z * se).min(1.0))
}

fn logit(value: f64, se: f64, z: f64) -> Option<(f64, f64)> {
    if !(value > 0.0 && value < 1.0 && se > 0.0) {
        return None;
    }
    let centre = (value / (1.0 - value)).ln();
    let half = z * se / (value * (1.0 - value));
    Some((sigmoid(centre - half), sigmoid(centre + half)))
}

/// Newcombe's method 5: the values `t` with `(A - t)^2 <= z^2 var(t)`, where `var` is Hanley and
/// McNeil's with both class sizes in its bracket replaced by their mean.
fn newcombe(auroc: f64, m: f64, n: f64, z: f64) -> (f64, f64) {
    let extra = (0.5 * (m + n) - 1.0).max(0.0);
    let outside = |t: f64| {
        let bracket = 1.0 + extra * ((1.0 - t) / (2.0 - t) + t / (1.0 + t));
        (auroc - t).powi(2) - z * z * t * (1.0 - t) / (m * n) * bracket
    };
    let low = if auroc > 0.0 {
        bisect(0.0, auroc, outside)
    } else {
        0.0
    };
    let high = if auroc < 1.0 {
        bisect(auroc, 1.0, outside)
    } else {
        1.0
    };
    (low, high)
}

/// Inverts the tail bound of a two-sample U statistic: `k KL(A || t) <= ln(2 / alpha)` with
/// `k = min(m, n)` disjoint pairs (Hoeffding 1963, section 5b). At A = 1 it is `t^k >= alpha / 2`.
fn hoeffding(auroc: f64, k: f64, level: f64) -> (f64, f64) {
    let bound = (2.0 / (1.0 - level)).ln();
    let outside = |t: f64| k * divergence(auroc, t) - bound;
    let low = if auroc > 0.0 {
        bisect(0.0, auroc, outside)
    } else {
        0.0
    };
    let high = if auroc < 1.0 {
        bisect(auroc, 1.0, outside)
    } else {
        1.0
    };
    (low, high)
}

/// Kullback-Leibler divergence of Bernoulli(p) from Bernoulli(q).
fn divergence(p: f64, q: f64) -> f64 {
    let part = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a * (a / b).ln() };
    part(p, q) + part(1.0 - p, 1.0 - q)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_limit_of_perfect_separation_is_clopper_pearson() {
        let (low, high) = hoeffding(1.0, 20.0, 0.95);
        assert!((low - 0.025f64.powf(1.0 / 20.0)).abs() < 1e-12);
        assert_eq!(high, 1.0);
    }

    #[test]
    fn score_limits_solve_their_equation_and_mirror() {
        let (low, high) = newcombe(0.8, 7.0, 30.0, 1.96);
        let (low2, high2) = newcombe(0.2, 7.0, 30.0, 1.96);
        assert!(low < 0.8 && high > 0.8 && low > 0.0 && high < 1.0);
        assert!((low - (1.0 - high2)).abs() < 1e-12 && (high - (1.0 - low2)).abs() < 1e-12);
    }

    #[test]
    fn logit_interval_is_inside_and_needs_spread() {
        let (low, high) = logit(0.99, 0.02, 1.96).unwrap();
        assert!(low > 0.5 && low < 0.99 && high > 0.99 && high < 1.0);
        assert_eq!(logit(1.0, 0.02, 1.96), None);
        assert_eq!(logit(0.9, 0.0, 1.96), None);
    }
}
