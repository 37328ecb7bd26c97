use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check_open_unit};
use crate::operating::proportion;
use crate::ranked::{Ranked, TieGroup};
use crate::special::normal_quantile;

/// How probabilities are put into bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Binning {
    /// Bins of equal width from 0 to 1, each without its lower end; empty ones are left out.
    EqualWidth(usize),
    /// Bins of about equal weight; equal probabilities are never split.
    EqualMass(usize),
}

impl Default for Binning {
    /// Ten bins of equal width, as most publications have it.
    fn default() -> Self {
        Binning::EqualWidth(10)
    }
}

/// One bin of a calibration curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Weight of the cases in the bin.
    pub weight: f64,
    /// Mean predicted probability.
    pub predicted: f64,
    /// Share of positives.
    pub observed: f64,
    /// Lower limit of the interval of `observed`.
    pub ci_low: f64,
    /// Upper limit of the interval of `observed`.
    pub ci_high: f64,
}

impl Ranked<'_> {
    /// Probabilities, and a bin to put them in.
    pub(crate) fn check_binned(&self, binning: Binning) -> Result<()> {
        let (Binning::EqualWidth(k) | Binning::EqualMass(k)) = binning;
        if k == 0 {
            return Err(Error::Option {
                name: "number of bins",
                expected: "at least 1",
                got: 0.0,
            });
        }
        self.cases.check_probabilities()
    }

    /// Neighbouring groups that share a bin.
    pub(crate) fn bins(&self, binning: Binning) -> Vec<&[TieGroup]> {
        let (Binning::EqualWidth(k) | Binning::EqualMass(k)) = binning;
        let total = self.pos + self.neg;
        let mut below = 0.0;
        let mut of = |group: &TieGroup| {
            let share = match binning {
                Binning::EqualWidth(_) => group.score,
                // The middle of the group decides, so that ties stay together.
                Binning::EqualMass(_) => (below + 0.5 * (group.pos + group.neg)) / total,
            };
            below += group.pos + group.neg;
            ((share * k as f64).ceil() as usize)
                .saturating_sub(1)
                .min(k - 1)
        };
        let (mut bins, mut start, mut current) = (Vec::new(), 0, None);
        for (at, group) in self.groups.iter().enumerate() {
            let bin = of(group);
            if current.is_some_and(|c| c != bin) {
                bins.push(&self.groups[start..at]);
                start = at;
            }
            current = Some(bin);
        }
        bins.push(&self.groups[start..]);
        bins.retain(|bin| bin.iter().any(|g| g.pos + g.neg > 0.0));
        bins
    }

    /// Observed against predicted shares in bins, with Wilson's intervals that know of clusters.
    ///
    /// # Errors
    /// [`Error::NotAProbability`], or [`Error::Option`] for 0 bins or a bad level.
    ///
    /// ```
    /// use uniferum_metrics::{Binning, Cases, Ranked};
    /// let cases = Cases::complete(&[0.1, 0.2, 0.8, 0.9], &[false, false, true, false])?;
    /// let curve = Ranked::new(&cases).calibration_curve(Binning::EqualWidth(2), 0.95)?;
    /// assert_eq!(curve.len(), 2);
    /// assert_eq!(curve[1].observed, 0.5);
    /// # Ok::<(), uniferum_metrics::Error>(())
    /// ```
    pub fn calibration_curve(&self, binning: Binning, level: f64) -> Result<Vec<CalibrationBin>> {
        self.check_binned(binning)?;
        check_open_unit("level", level)?;
        let z = normal_quantile(0.5 + 0.5 * level);
        let curve = self.bins(binning).into_iter().filter_map(|bin| {
            let (low, high) = (bin[0].score, bin[bin.len() - 1].score);
            let inside = |i: usize| (low..=high).contains(&self.cases.scores[i]);
            let share = proportion(self, &inside, &|i| self.cases.labels[i], z)?;
            let sums = Sums::of(bin);
            Some(CalibrationBin {
                weight: sums.weight,
                predicted: sums.mean_score(),
                observed: sums.mean_label(),
                ci_low: share.ci_low,
                ci_high: share.ci_high,
            })
        });
        Ok(curve.collect())
    }

    /// The cases of each bin, bin after bin.
    pub(crate) fn cases_of_bins(&self, binning: Binning) -> Vec<&[usize]> {
        let all = self.bins(binning).into_iter().map(|bin| {
            let (first, last) = (&bin[0], &bin[bin.len() - 1]);
            let before = self.groups.partition_point(|g| g.end < first.end);
            let start = before.checked_sub(1).map_or(0, |g| self.groups[g].end);
            &self.order[start..last.end]
        });
        all.collect()
    }
}

/// Sums over the groups of a bin.
pub(crate) struct Sums {
    pub(crate) weight: f64,
    score: f64,
    pos: f64,
}

impl Sums {
    pub(crate) fn of(bin: &[TieGroup]) -> Sums {
        let mut sums = Sums {
            weight: 0.0,
            score: 0.0,
            pos: 0.0,
        };
        for g in bin {
            sums.weight += g.pos + g.neg;
            sums.score += (g.pos + g.neg) * g.score;
            sums.pos += g.pos;
        }
        sums
    }

    pub(crate) fn mean_score(&self) -> f64 {
        self.score / self.weight
    }

    pub(crate) fn mean_label(&self) -> f64 {
        self.pos / self.weight
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cases::Cases;

    pub(crate) fn sample() -> Cases {
        let scores: Vec<f64> = (0..200).map(|i| f64::from(i * 37 % 200) / 199.0).collect();
        let labels: Vec<bool> = (0..200).map(|i| i * 53 % 100 < i * 37 % 200 / 2).collect();
        Cases::complete(&scores, &labels).unwrap()
    }

    #[test]
    fn equal_mass_bins_hold_about_as_many_cases() {
        let cases = sample();
        let curve = Ranked::new(&cases)
            .calibration_curve(Binning::EqualMass(8), 0.95)
            .unwrap();
        assert_eq!(curve.len(), 8);
        assert!(curve.iter().all(|b| (b.weight - 25.0).abs() <= 1.0));
        assert!(curve.windows(2).all(|w| w[0].predicted < w[1].predicted));
    }
}
