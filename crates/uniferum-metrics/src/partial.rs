use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ranked::Ranked;

/// The stretch of a ROC curve that a partial area is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RocRegion {
    /// False-positive rates from `low` to `high`: the area under the curve there.
    Fpr {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// Sensitivities from `low` to `high`: the area to the right of the curve there.
    Sensitivity {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
}

/// An area over part of a ROC curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PartialAuroc {
    /// The plain area, at most the width of the region.
    pub area: f64,
    /// Rescaled so that chance is 0.5 and perfection 1.
    pub standardised: f64,
}

impl RocRegion {
    fn limits(self) -> Result<(f64, f64)> {
        let (RocRegion::Fpr { low, high } | RocRegion::Sensitivity { low, high }) = self;
        if low >= 0.0 && low < high && high <= 1.0 {
            return Ok((low, high));
        }
        Err(Error::Option {
            name: "region of the ROC curve",
            expected: "0 <= low < high <= 1",
            got: if (0.0..=1.0).contains(&low) {
                high
            } else {
                low
            },
        })
    }
}

impl Ranked<'_> {
    /// Area over part of the ROC curve, linear between its points; `None` when a class is absent.
    ///
    /// # Errors
    /// [`crate::Error::Option`] unless `0 <= low < high <= 1`.
    ///
    /// # Reference
    /// McClish 1989, also for the standardisation.
    ///
    /// ```
    /// use uniferum_metrics::{Cases, Ranked, RocRegion};
    /// let cases = Cases::complete(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true])?;
    /// let ranked = Ranked::new(&cases);
    /// let partial = ranked.partial_auroc(RocRegion::Fpr { low: 0.0, high: 0.5 })?.unwrap();
    /// assert_eq!(partial.area, 0.25);
    /// # Ok::<(), uniferum_metrics::Error>(())
    /// ```
    pub fn partial_auroc(&self, region: RocRegion) -> Result<Option<PartialAuroc>> {
        let (low, high) = region.limits()?;
        if self.check().is_err() {
            return Ok(None);
        }
        let by_fpr = matches!(region, RocRegion::Fpr { .. });
        let mut area = 0.0;
        let mut before = (0.0, 0.0);
        for group in self.groups.iter().rev() {
            let after = (before.0 + group.neg, before.1 + group.pos);
            let rates = |(fp, tp): (f64, f64)| (fp / self.neg, tp / self.pos);
            let ((x0, y0), (x1, y1)) = (rates(before), rates(after));
            area += if by_fpr {
                slice((x0, y0), (x1, y1), low, high)
            } else {
                slice((y0, 1.0 - x0), (y1, 1.0 - x1), low, high)
            };
            before = after;
        }
        let width = high - low;
        // What chance has: under the diagonal, or to the right of it.
        let least = if by_fpr {
            0.5 * (high * high - low * low)
        } else {
            width - 0.5 * (high * high - low * low)
        };
        Ok(Some(PartialAuroc {
            area,
            standardised: 0.5 * (1.0 + (area - least) / (width - least)),
        }))
    }
}

/// Area under the segment from `a` to `b` over the part of `low..high` that it spans.
fn slice(a: (f64, f64), b: (f64, f64), low: f64, high: f64) -> f64 {
    let (from, to) = (a.0.max(low), b.0.min(high));
    if from >= to {
        return 0.0;
    }
    let at = |x: f64| a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0);
    0.5 * (at(from) + at(to)) * (to - from)
}
