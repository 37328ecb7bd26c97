use serde::{Deserialize, Serialize};

use crate::error::Undefined;
use crate::ranked::Ranked;
use crate::special::{bisect, sigmoid, softplus};

/// Platt scaling: `p = sigmoid(slope * score + intercept)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    /// Factor of the score.
    pub slope: f64,
    /// Added afterwards.
    pub intercept: f64,
}

/// Temperature scaling: `p = sigmoid(logit / temperature)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Temperature {
    /// Above 1 the logits were too extreme.
    pub temperature: f64,
    /// The likelihood still rose at the end of the range searched, 1/1000 to 1000: the scores
    /// separate the classes, or point the wrong way.
    pub at_limit: bool,
}

impl Platt {
    /// Fits on a validation set; any finite scores will do.
    ///
    /// Targets are smoothed as Platt did, so that a fit exists also for scores that separate the
    /// classes.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    ///
    /// # Reference
    /// Platt 1999; the iteration of Lin, Lin & Weng 2007.
    ///
    /// ```
    /// use uniferum_metrics::{Cases, Platt, Ranked};
    /// let cases = Cases::complete(&[-2.0, -1.0, 0.5, 3.0], &[false, false, true, true])?;
    /// let platt = Platt::fit(&Ranked::new(&cases)).unwrap();
    /// assert!(platt.apply(3.0) > 0.5 && platt.apply(-2.0) < 0.5);
    /// # Ok::<(), uniferum_metrics::Error>(())
    /// ```
    pub fn fit(ranked: &Ranked<'_>) -> Result<Platt, Undefined> {
        ranked.check()?;
        let high = (ranked.pos + 1.0) / (ranked.pos + 2.0);
        let low = 1.0 / (ranked.neg + 2.0);
        let points: Vec<(f64, f64, f64)> = ranked
            .groups
            .iter()
            .map(|g| {
                let yes = g.pos * high + g.neg * low;
                (g.score, yes, g.pos + g.neg - yes)
            })
            .collect();
        match logistic_fit(&points, None) {
            Some((intercept, slope)) => Ok(Platt { slope, intercept }),
            // All scores equal: only the prevalence is left to fit.
            None => Ok(Platt {
                slope: 0.0,
                intercept: (ranked.pos / ranked.neg).ln(),
            }),
        }
    }

    /// The calibrated probability of a score.
    pub fn apply(&self, score: f64) -> f64 {
        sigmoid(self.slope * score + self.intercept)
    }
}

impl Temperature {
    /// Fits on a validation set; the scores must be logits.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    ///
    /// # Reference
    /// Guo, Pleiss, Sun & Weinberger 2017.
    pub fn fit(ranked: &Ranked<'_>) -> Result<Temperature, Undefined> {
        const RANGE: f64 = 1000.0;
        ranked.check()?;
        // The loss is convex in 1/T; its slope changes sign once.
        let slope = |beta: f64| {
            let part = |g: &crate::ranked::TieGroup| {
                let p = sigmoid(beta * g.score);
                g.score * (g.neg * p - g.pos * (1.0 - p))
            };
            ranked.groups.iter().map(part).sum::<f64>()
        };
        let (least, most) = (1.0 / RANGE, RANGE);
        let (beta, at_limit) = if slope(least) >= 0.0 {
            (least, true)
        } else if slope(most) <= 0.0 {
            (most, true)
        } else {
            (bisect(least, most, slope), false)
        };
        Ok(Temperature {
            temperature: 1.0 / beta,
            at_limit,
        })
    }

    /// The calibrated probability of a logit.
    pub fn apply(&self, logit: f64) -> f64 {
        sigmoid(logit / self.temperature)
    }
}

/// Maximum-likelihood `(intercept, slope)` of `sigmoid(intercept + slope x)` for points
/// `(x, weight of yes, weight of no)`; the slope may be held.
///
/// `None` when no finite maximum exists.
pub(crate) fn logistic_fit(points: &[(f64, f64, f64)], held: Option<f64>) -> Option<(f64, f64)> {
    let (mut yes, mut no, mut sum) = (0.0, 0.0, 0.0);
    for &(x, y, n) in points {
        yes += y;
        no += n;
        sum += x * (y + n);
    }
    let total = yes + no;
    if !(yes > 0.0 && no > 0.0) {
        return None;
    }
    // Standardised, so that the step below is well conditioned whatever the unit of the scores.
    let mean = sum / total;
    let spread = points
        .iter()
        .map(|&(x, y, n)| (y + n) * (x - mean).powi(2))
        .sum::<f64>();
    let spread = (spread / total).sqrt();
    if held.is_none() && spread <= 1e-12 * (1.0 + mean.abs()) {
        return None;
    }
    let unit = if spread > 0.0 { spread } else { 1.0 };
    let standard = |x: f64| (x - mean) / unit;
    let slope = held.map_or(0.0, |s| s * unit);
    let fit = newton(points, &standard, [(yes / no).ln(), slope], held.is_some())?;
    let slope = held.unwrap_or(fit[1] / unit);
    Some((fit[0] - slope * mean, slope))
}

/// Newton's method with halved steps on the convex loss.
fn newton(
    points: &[(f64, f64, f64)],
    standard: &impl Fn(f64) -> f64,
    start: [f64; 2],
    held: bool,
) -> Option<[f64; 2]> {
    let total: f64 = points.iter().map(|p| p.1 + p.2).sum();
    let loss = |at: [f64; 2]| {
        let part = |&(x, y, n): &(f64, f64, f64)| {
            let eta = at[0] + at[1] * standard(x);
            y * softplus(-eta) + n * softplus(eta)
        };
        points.iter().map(part).sum::<f64>()
    };
    let (mut at, mut value) = (start, loss(start));
    for _ in 0..100 {
        let (mut g, mut h) = ([0.0; 2], [0.0; 3]);
        for &(x, y, n) in points {
            let s = standard(x);
            let p = sigmoid(at[0] + at[1] * s);
            let (residual, curvature) = ((y + n) * p - y, (y + n) * p * (1.0 - p));
            g[0] += residual;
            g[1] += residual * s;
            h[0] += curvature;
            h[1] += curvature * s;
            h[2] += curvature * s * s;
        }
        let step = if held {
            [g[0] / h[0], 0.0]
        } else {
            let det = h[0] * h[2] - h[1] * h[1];
            [
                (g[0] * h[2] - g[1] * h[1]) / det,
                (g[1] * h[0] - g[0] * h[1]) / det,
            ]
        };
        // Flat curvature: the likelihood has its maximum at infinity.
        if !step.iter().all(|s| s.is_finite()) || at.iter().any(|a| a.abs() > 1e4) {
            return None;
        }
        let mut share = 1.0;
        let (next, after) = loop {
            let next = [at[0] - share * step[0], at[1] - share * step[1]];
            let after = loss(next);
            if after <= value || share < 1e-10 {
                break (next, after);
            }
            share *= 0.5;
        };
        let moved = (share * step[0]).abs() + (share * step[1]).abs();
        (at, value) = (next, after.min(value));
        if moved < 1e-12 * (1.0 + at[0].abs() + at[1].abs()) {
            // Separable scores reach a loss of nothing, not a maximum.
            return (value > 1e-9 * total).then_some(at);
        }
    }
    (value > 1e-9 * total).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::Cases;

    #[test]
    fn gradients_vanish_at_the_fit() {
        let points: Vec<(f64, f64, f64)> = (0..50)
            .map(|i| {
                (
                    1e3 + f64::from(i),
                    f64::from(i % 3),
                    f64::from((50 - i) % 4),
                )
            })
            .collect();
        let (a, b) = logistic_fit(&points, None).unwrap();
        let (mut g0, mut g1) = (0.0, 0.0);
        for (x, y, n) in points {
            let residual = (y + n) * sigmoid(a + b * x) - y;
            g0 += residual;
            g1 += residual * (x - 1e3);
        }
        assert!(g0.abs() < 1e-8 && g1.abs() < 1e-6, "{g0} {g1}");
    }

    #[test]
    fn separation_is_a_state() {
        let cases = Cases::complete(&[-1.0, -0.5, 0.5, 1.0], &[false, false, true, true]);
        let cases = cases.unwrap();
        let ranked = Ranked::new(&cases);
        assert!(Temperature::fit(&ranked).unwrap().at_limit);
        let platt = Platt::fit(&ranked).unwrap();
        assert!(platt.slope.is_finite() && platt.slope > 0.0);
        let points: Vec<_> = [(-1.0, 0.0, 1.0), (1.0, 1.0, 0.0)].to_vec();
        assert_eq!(logistic_fit(&points, None), None);
        // The wrong way round.
        let cases = cases.with_scores(&[1.0, 0.5, -0.5, -1.0]).unwrap();
        let fit = Temperature::fit(&Ranked::new(&cases)).unwrap();
        assert!(fit.at_limit && fit.temperature > 999.0);
    }

    #[test]
    fn temperature_recovers_a_known_scaling() {
        // Outcomes in exact proportion to sigmoid(x / 2.5).
        let n = 4001;
        let logits: Vec<f64> = (0..n).map(|i| f64::from(i - 2000) / 400.0).collect();
        let pairs: Vec<f64> = logits.iter().chain(&logits).copied().collect();
        let labels: Vec<bool> = (0..2 * n).map(|i| i < n).collect();
        let weights: Vec<f64> = logits
            .iter()
            .map(|x| sigmoid(x / 2.5))
            .chain(logits.iter().map(|x| 1.0 - sigmoid(x / 2.5)))
            .collect();
        let cases = Cases::complete(&pairs, &labels).unwrap();
        let cases = cases.with_weights(&weights).unwrap();
        let fit = Temperature::fit(&Ranked::new(&cases)).unwrap();
        assert!(
            (fit.temperature - 2.5).abs() < 1e-9 && !fit.at_limit,
            "{fit:?}"
        );
    }
}
