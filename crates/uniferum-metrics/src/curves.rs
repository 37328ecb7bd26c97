use serde::{Deserialize, Serialize};

use crate::error::Undefined;
use crate::ranked::Ranked;

/// One point of a ROC curve: the cases with `score >= threshold` are called positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RocPoint {
    /// Threshold on the score; `None` at the origin, where nothing is called positive.
    pub threshold: Option<f64>,
    /// False-positive rate, `1 - specificity`.
    pub fpr: f64,
    /// True-positive rate, the sensitivity.
    pub tpr: f64,
}

/// One point of a precision-recall curve: the cases with `score >= threshold` are called positive.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PrPoint {
    /// Threshold on the score.
    pub threshold: f64,
    /// Recall, the sensitivity.
    pub recall: f64,
    /// Precision, the positive predictive value.
    pub precision: f64,
}

impl Ranked<'_> {
    /// The empirical ROC curve from (0, 0) to (1, 1), one point per distinct score.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    pub fn roc_curve(&self) -> Result<Vec<RocPoint>, Undefined> {
        self.check()?;
        let mut curve = Vec::with_capacity(self.groups.len() + 1);
        curve.push(RocPoint {
            threshold: None,
            fpr: 0.0,
            tpr: 0.0,
        });
        let (mut tp, mut fp) = (0.0, 0.0);
        for group in self.groups.iter().rev() {
            tp += group.pos;
            fp += group.neg;
            curve.push(RocPoint {
                threshold: Some(group.score),
                fpr: (fp / self.neg).min(1.0),
                tpr: (tp / self.pos).min(1.0),
            });
        }
        Ok(curve)
    }

    /// The empirical precision-recall curve by descending threshold, one point per distinct score.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    pub fn pr_curve(&self) -> Result<Vec<PrPoint>, Undefined> {
        self.check()?;
        let (mut tp, mut called) = (0.0, 0.0);
        let mut curve = Vec::with_capacity(self.groups.len());
        for group in self.groups.iter().rev() {
            tp += group.pos;
            called += group.pos + group.neg;
            // Groups of zero weight at the top would divide zero by zero.
            if called > 0.0 {
                curve.push(PrPoint {
                    threshold: group.score,
                    recall: (tp / self.pos).min(1.0),
                    precision: (tp / called).min(1.0),
                });
            }
        }
        Ok(curve)
    }
}
