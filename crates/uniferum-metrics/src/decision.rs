use serde::{Deserialize, Serialize};

use crate::error::{Result, check_open_unit};
use crate::ranked::Ranked;

/// One point of a decision curve.
///
/// Net benefits are true positives per case, less the false positives weighed by the odds of the
/// threshold. Treating nobody has net benefit 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DecisionPoint {
    /// Probability from which on one would act.
    pub threshold: f64,
    /// Net benefit of acting where the model says so.
    pub model: f64,
    /// Net benefit of always acting.
    pub treat_all: f64,
    /// `model` as a share of the best possible, the prevalence.
    pub standardised: f64,
}

impl Ranked<'_> {
    /// Net benefit at each threshold; `None` without positive cases.
    ///
    /// # Errors
    /// [`crate::Error::NotAProbability`], [`crate::Error::Option`] for a threshold that is not
    /// strictly between 0 and 1.
    ///
    /// # Reference
    /// Vickers & Elkin 2006.
    ///
    /// ```
    /// use uniferum_metrics::{Cases, Ranked};
    /// let cases = Cases::complete(&[0.1, 0.3, 0.6, 0.9], &[false, false, false, true])?;
    /// let curve = Ranked::new(&cases).decision_curve(&[0.5])?.unwrap();
    /// assert_eq!(curve[0].model, 0.25 - 0.25);
    /// assert_eq!(curve[0].treat_all, 0.25 - 0.75);
    /// # Ok::<(), uniferum_metrics::Error>(())
    /// ```
    pub fn decision_curve(&self, thresholds: &[f64]) -> Result<Option<Vec<DecisionPoint>>> {
        self.cases.check_probabilities()?;
        for &threshold in thresholds {
            check_open_unit("threshold", threshold)?;
        }
        if self.pos <= 0.0 {
            return Ok(None);
        }
        let total = self.pos + self.neg;
        let prevalence = self.pos / total;
        let point = |&threshold: &f64| {
            let odds = threshold / (1.0 - threshold);
            let c = self.confusion(threshold);
            let model = (c.tp - c.fp * odds) / total;
            DecisionPoint {
                threshold,
                model,
                treat_all: prevalence - (1.0 - prevalence) * odds,
                standardised: model / prevalence,
            }
        };
        Ok(Some(thresholds.iter().map(point).collect()))
    }
}
