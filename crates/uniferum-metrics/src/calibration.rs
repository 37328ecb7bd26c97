use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bins::{Binning, Sums};
use crate::cases::{Cases, cluster_count};
use crate::error::Result;
use crate::ranked::{Ranked, TieGroup};
use crate::recalibrate::logistic_fit;
use crate::special::clipped_logit;

/// Probabilities nearer to 0 or 1 than this count as this near where a logarithm is taken.
pub const PROBABILITY_MARGIN: f64 = 1e-12;

/// The Brier score and where it comes from.
///
/// `score = reliability - resolution + uncertainty + within_variance - within_covariance`, exactly.
/// The last two vanish when all probabilities in a bin are equal; without them Murphy's three parts
/// do not add up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Brier {
    /// Mean squared difference between probability and outcome; 0 is perfect.
    pub score: f64,
    /// Squared distance between predicted and observed shares over bins; 0 is best.
    pub reliability: f64,
    /// Spread of the observed shares over bins; high is good.
    pub resolution: f64,
    /// `p (1 - p)` of the prevalence: the score of always predicting it.
    pub uncertainty: f64,
    /// Variance of the probabilities inside bins.
    pub within_variance: f64,
    /// Twice the covariance of probabilities and outcomes inside bins.
    pub within_covariance: f64,
    /// `1 - score / uncertainty`, the share of the uncertainty that is explained; `None` when one
    /// class is absent.
    pub skill: Option<f64>,
}

/// Expected and maximal calibration error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationError {
    /// Mean distance between predicted and observed share, by the weight of the bins.
    pub expected: f64,
    /// Largest distance.
    pub maximal: f64,
}

/// Logistic recalibration of the outcome on the logit of the probability.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationLine {
    /// Intercept of the line: the logit of the outcome where the probability is one half. With a slope
    /// other than 1 it says nothing of the whole; see [`in_the_large`](Self::in_the_large).
    pub intercept: f64,
    /// Slope: below 1 the probabilities are too extreme.
    pub slope: f64,
    /// Intercept with the slope held at 1, calibration in the large: above 0 the probabilities are too
    /// low overall.
    pub in_the_large: f64,
}

impl Ranked<'_> {
    /// Brier score with its decomposition; `None` without cases.
    ///
    /// # Errors
    /// [`crate::Error::NotAProbability`], [`crate::Error::Option`] for 0 bins.
    ///
    /// # Reference
    /// Brier 1950; Murphy 1973; the terms inside bins Stephenson, Coelho & Jolliffe 2008.
    pub fn brier(&self, binning: Binning) -> Result<Option<Brier>> {
        self.check_binned(binning)?;
        let total = self.pos + self.neg;
        if total <= 0.0 {
            return Ok(None);
        }
        let prevalence = self.pos / total;
        let squares = |g: &TieGroup| g.pos * (1.0 - g.score).powi(2) + g.neg * g.score.powi(2);
        let score = self.groups.iter().map(squares).sum::<f64>() / total;
        let (mut reliability, mut resolution) = (0.0, 0.0);
        let (mut variance, mut covariance) = (0.0, 0.0);
        for bin in self.bins(binning) {
            let sums = Sums::of(bin);
            let (p, o) = (sums.mean_score(), sums.mean_label());
            reliability += sums.weight * (p - o).powi(2);
            resolution += sums.weight * (o - prevalence).powi(2);
            for g in bin {
                let d = g.score - p;
                variance += (g.pos + g.neg) * d * d;
                covariance += 2.0 * d * (g.pos * (1.0 - o) - g.neg * o);
            }
        }
        let uncertainty = prevalence * (1.0 - prevalence);
        Ok(Some(Brier {
            score,
            reliability: reliability / total,
            resolution: resolution / total,
            uncertainty,
            within_variance: variance / total,
            within_covariance: covariance / total,
            skill: (uncertainty > 0.0).then(|| 1.0 - score / uncertainty),
        }))
    }

    /// Mean negative log-likelihood in nats, probabilities clipped by [`PROBABILITY_MARGIN`]; `None`
    /// without cases.
    ///
    /// # Errors
    /// [`crate::Error::NotAProbability`].
    pub fn log_loss(&self) -> Result<Option<f64>> {
        self.cases.check_probabilities()?;
        let total = self.pos + self.neg;
        if total <= 0.0 {
            return Ok(None);
        }
        let loss = |g: &TieGroup| {
            let p = g.score.clamp(PROBABILITY_MARGIN, 1.0 - PROBABILITY_MARGIN);
            -(g.pos * p.ln() + g.neg * (-p).ln_1p())
        };
        Ok(Some(self.groups.iter().map(loss).sum::<f64>() / total))
    }

    /// Expected and maximal calibration error over bins; `None` without cases.
    ///
    /// The expected error of a perfectly calibrated model is above 0 on a finite sample and grows
    /// with the number of bins: compare it with [`Ranked::calibrated_ece`]. A bootstrap, which must not be
    /// stratified by the label, gives a range of resamples; that is no confidence interval, because
    /// resampling adds to the error once more what the sample has added.
    ///
    /// # Errors
    /// [`crate::Error::NotAProbability`], [`crate::Error::Option`] for 0 bins.
    ///
    /// # Reference
    /// Naeini, Cooper & Hauskrecht 2015.
    pub fn calibration_error(&self, binning: Binning) -> Result<Option<CalibrationError>> {
        self.check_binned(binning)?;
        let total = self.pos + self.neg;
        if total <= 0.0 {
            return Ok(None);
        }
        let (mut expected, mut maximal) = (0.0, 0.0f64);
        for bin in self.bins(binning) {
            let sums = Sums::of(bin);
            let gap = (sums.mean_score() - sums.mean_label()).abs();
            expected += sums.weight / total * gap;
            maximal = maximal.max(gap);
        }
        Ok(Some(CalibrationError { expected, maximal }))
    }

    /// The expected calibration error that a perfectly calibrated model would show on these cases: the
    /// mean over `draws` sets of outcomes that are drawn from the probabilities themselves.
    ///
    /// With clusters the outcomes of a patient are drawn by one number, as if their volumes showed the
    /// same. `None` without cases or draws. Draws are a function of the seed alone.
    ///
    /// # Errors
    /// [`crate::Error::NotAProbability`], [`crate::Error::Option`] for 0 bins.
    ///
    /// # Reference
    /// Bröcker & Smith 2007, consistency resampling.
    ///
    /// ```
    /// use uniferum_metrics::{Binning, Cases, Ranked};
    /// let cases = Cases::complete(&[0.5; 4], &[false, true, true, true])?;
    /// let ece = Ranked::new(&cases).calibrated_ece(Binning::default(), 2000, 0)?;
    /// // Of four fair coins the share of heads is 0.1875 from one half in the mean.
    /// assert!((ece.unwrap() - 0.1875).abs() < 0.01);
    /// # Ok::<(), uniferum_metrics::Error>(())
    /// ```
    pub fn calibrated_ece(&self, binning: Binning, draws: usize, seed: u64) -> Result<Option<f64>> {
        self.check_binned(binning)?;
        let total = self.pos + self.neg;
        if total <= 0.0 || draws == 0 {
            return Ok(None);
        }
        let bins = self.cases_of_bins(binning);
        let drawn = |r: u64| {
            let chance = Chance::draw(self.cases, seed, r);
            let surplus = |&i: &usize| {
                let p = self.cases.scores[i];
                self.weight(i) * (p - f64::from(u8::from(chance.of(self.cases, i) < p)))
            };
            let gaps = bins.iter().map(|bin| bin.iter().map(surplus).sum::<f64>());
            gaps.map(f64::abs).sum::<f64>() / total
        };
        // Collected first, so that the sum does not depend on the number of threads.
        let errors: Vec<f64> = (0..draws as u64).into_par_iter().map(drawn).collect();
        Ok(Some(errors.iter().sum::<f64>() / draws as f64))
    }

    /// Calibration intercept and slope.
    ///
    /// `Ok(None)` when no finite fit exists: a class is absent, all probabilities are equal, or they
    /// separate the classes.
    ///
    /// # Errors
    /// [`crate::Error::NotAProbability`].
    ///
    /// # Reference
    /// Cox 1958; Van Calster et al. 2019.
    pub fn calibration_line(&self) -> Result<Option<CalibrationLine>> {
        self.cases.check_probabilities()?;
        if self.check().is_err() {
            return Ok(None);
        }
        let points: Vec<(f64, f64, f64)> = self
            .groups
            .iter()
            .map(|g| (clipped_logit(g.score, PROBABILITY_MARGIN), g.pos, g.neg))
            .collect();
        let line = logistic_fit(&points, None);
        let large = logistic_fit(&points, Some(1.0));
        Ok(line
            .zip(large)
            .map(|((intercept, slope), (large, _))| CalibrationLine {
                intercept,
                slope,
                in_the_large: large,
            }))
    }
}

/// A number from 0 to 1 for each case, or for each cluster.
struct Chance(Vec<f64>);

impl Chance {
    fn draw(cases: &Cases, seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let clusters = cases.clusters.as_deref();
        let n = clusters.map_or(cases.len(), cluster_count);
        Chance((0..n).map(|_| rng.random()).collect())
    }

    fn of(&self, cases: &Cases, i: usize) -> f64 {
        self.0[cases.clusters.as_ref().map_or(i, |c| c[i] as usize)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::tests::sample;
    use crate::error::Error;

    #[test]
    fn parts_of_the_brier_score_add_up() {
        let cases = sample();
        let ranked = Ranked::new(&cases);
        for binning in [
            Binning::EqualWidth(10),
            Binning::EqualWidth(3),
            Binning::EqualMass(7),
        ] {
            let b = ranked.brier(binning).unwrap().unwrap();
            let sum = b.reliability - b.resolution + b.uncertainty + b.within_variance
                - b.within_covariance;
            assert!((sum - b.score).abs() < 1e-14, "{b:?}");
        }
    }

    #[test]
    fn a_calibrated_model_has_the_error_that_is_foretold() {
        let n = 400;
        let p: Vec<f64> = (0..n)
            .map(|i| (f64::from(i) + 0.5) / f64::from(n))
            .collect();
        let outcomes = |trial: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(trial);
            let labels: Vec<bool> = p.iter().map(|p| rng.random::<f64>() < *p).collect();
            Cases::complete(&p, &labels).unwrap()
        };
        let ten = Binning::EqualWidth(10);
        let seen = (0..200).map(|trial| {
            let cases = outcomes(trial);
            Ranked::new(&cases)
                .calibration_error(ten)
                .unwrap()
                .unwrap()
                .expected
        });
        let seen = seen.sum::<f64>() / 200.0;
        let cases = outcomes(0);
        let foretold = Ranked::new(&cases)
            .calibrated_ece(ten, 500, 7)
            .unwrap()
            .unwrap();
        assert!((foretold / seen - 1.0).abs() < 0.1, "{foretold} {seen}");
        // Each patient twice with one outcome is no larger sample.
        let twice = [&p[..], &p].concat();
        let labels = [cases.labels(), cases.labels()].concat();
        let patients: Vec<u32> = (0..2 * n as u32).map(|i| i % n as u32).collect();
        let doubled = Cases::complete(&twice, &labels).unwrap();
        let clustered = doubled.clone().with_clusters(&patients).unwrap();
        let of = |c: &Cases| Ranked::new(c).calibrated_ece(ten, 500, 7).unwrap().unwrap();
        assert!((of(&clustered) / foretold - 1.0).abs() < 1e-9);
        assert!(of(&doubled) < 0.8 * foretold);
    }

    #[test]
    fn states_and_errors() {
        let odd = Cases::complete(&[0.5, 1.5], &[true, false]).unwrap();
        let error = Ranked::new(&odd).brier(Binning::default()).unwrap_err();
        assert_eq!(
            error,
            Error::NotAProbability {
                index: 1,
                value: 1.5
            }
        );
        let none = Cases::new(&[0.5], &[None]).unwrap();
        let ranked = Ranked::new(&none);
        assert!(ranked.brier(Binning::default()).unwrap().is_none());
        assert!(ranked.log_loss().unwrap().is_none());
        assert!(
            ranked
                .calibration_curve(Binning::default(), 0.95)
                .unwrap()
                .is_empty()
        );
        let zero = Ranked::new(&none).calibration_error(Binning::EqualMass(0));
        assert!(matches!(zero, Err(Error::Option { .. })));
        // One class: the Brier score is defined, its skill is not.
        let all = Cases::complete(&[0.5, 0.75], &[true, true]).unwrap();
        let brier = Ranked::new(&all)
            .brier(Binning::default())
            .unwrap()
            .unwrap();
        assert_eq!((brier.skill, brier.uncertainty), (None, 0.0));
        assert_eq!(Ranked::new(&all).calibration_line(), Ok(None));
    }
}
