use std::sync::Arc;

use rayon::prelude::*;

use crate::cases::Cases;
use crate::error::{Result, Undefined};

/// Below this many cases a second thread costs more than it saves.
const PARALLEL_SORT: usize = 1 << 16;

/// Cases of equal score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TieGroup {
    pub(crate) score: f64,
    /// End of the group in [`Ranked::order`].
    pub(crate) end: usize,
    /// Weight of the positives in the group.
    pub(crate) pos: f64,
    /// Weight of the negatives in the group.
    pub(crate) neg: f64,
}

/// Cases sorted by score once, from which every rank statistic and curve is read in linear time.
///
/// Sums run over weights in `f64`. Without weights these are whole numbers, exact up to 2^53, so
/// `n_pos * n_neg` may be far beyond 2^32.
#[derive(Debug, Clone)]
pub struct Ranked<'a> {
    pub(crate) cases: &'a Cases,
    /// Positions in `cases`, by ascending score.
    pub(crate) order: Arc<[usize]>,
    /// How often each case counts in a resample; `None` for the sample itself.
    counts: Option<Vec<f64>>,
    /// Tie groups, by ascending score.
    pub(crate) groups: Vec<TieGroup>,
    pub(crate) pos: f64,
    pub(crate) neg: f64,
}

impl<'a> Ranked<'a> {
    /// Sorts in O(n log n).
    pub fn new(cases: &'a Cases) -> Self {
        Self::grouped(cases, ascending(&cases.scores).into(), None)
    }

    /// The resample in which case `i` is present `counts[i]` times, without sorting again.
    pub(crate) fn resampled(&self, counts: Vec<f64>) -> Ranked<'a> {
        Self::grouped(self.cases, Arc::clone(&self.order), Some(counts))
    }

    fn grouped(cases: &'a Cases, order: Arc<[usize]>, counts: Option<Vec<f64>>) -> Self {
        let mut ranked = Ranked {
            cases,
            order,
            counts,
            groups: Vec::new(),
            pos: 0.0,
            neg: 0.0,
        };
        let mut groups: Vec<TieGroup> = Vec::new();
        for (at, &i) in ranked.order.iter().enumerate() {
            let score = cases.scores[i];
            let weight = ranked.weight(i);
            let (pos, neg) = if cases.labels[i] {
                (weight, 0.0)
            } else {
                (0.0, weight)
            };
            match groups.last_mut() {
                // `==` so that -0.0 and 0.0 tie.
                Some(group) if group.score == score => {
                    group.end = at + 1;
                    group.pos += pos;
                    group.neg += neg;
                }
                _ => groups.push(TieGroup {
                    score,
                    end: at + 1,
                    pos,
                    neg,
                }),
            }
        }
        ranked.pos = groups.iter().map(|g| g.pos).sum();
        ranked.neg = groups.iter().map(|g| g.neg).sum();
        ranked.groups = groups;
        ranked
    }

    /// Weight of case `i`, times its count in a resample.
    pub(crate) fn weight(&self, i: usize) -> f64 {
        self.cases.weight(i) * self.count(i)
    }

    /// How often case `i` is in a resample; once in the sample itself.
    pub(crate) fn count(&self, i: usize) -> f64 {
        self.counts.as_ref().map_or(1.0, |c| c[i])
    }

    /// The cases that were sorted; of a resample, the sample that it was drawn from.
    pub fn cases(&self) -> &'a Cases {
        self.cases
    }

    /// Area under the ROC curve: the probability that a positive outranks a negative, ties half.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    ///
    /// # Reference
    /// Hanley & McNeil 1982; Mann & Whitney 1947.
    pub fn auroc(&self) -> Result<f64, Undefined> {
        self.check()?;
        let (mut below, mut twice) = (0.0, 0.0);
        let (mut pos_below, mut separated) = (false, true);
        for group in &self.groups {
            twice += group.pos * (2.0 * below + group.neg);
            below += group.neg;
            pos_below |= group.pos > 0.0;
            separated &= !(pos_below && group.neg > 0.0);
        }
        // Sums of weights round; perfect separation is 1 all the same, and then has no variance.
        Ok(if separated {
            1.0
        } else {
            (twice / (2.0 * self.pos * self.neg)).min(1.0)
        })
    }

    /// Average precision, the step-wise area under the precision-recall curve.
    ///
    /// Its chance level is the prevalence, not one half.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    ///
    /// # Reference
    /// `AP = sum_k (R_k - R_(k-1)) P_k` over descending thresholds, as scikit-learn defines it.
    pub fn average_precision(&self) -> Result<f64, Undefined> {
        self.check()?;
        let (mut tp, mut called, mut area) = (0.0, 0.0, 0.0);
        for group in self.groups.iter().rev() {
            tp += group.pos;
            called += group.pos + group.neg;
            if group.pos > 0.0 {
                area += group.pos * tp / called;
            }
        }
        Ok((area / self.pos).min(1.0))
    }

    pub(crate) fn check(&self) -> Result<(), Undefined> {
        let defined = self.pos > 0.0 && self.neg > 0.0;
        if defined {
            Ok(())
        } else {
            Err(self.cases.undefined())
        }
    }
}

/// Area under the ROC curve of complete cases, `None` when a class is absent; see [`Ranked::auroc`].
///
/// # Errors
/// As [`Cases::complete`].
///
/// ```
/// let auroc = uniferum_metrics::auroc(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true])?;
/// assert_eq!(auroc, Some(0.75));
/// # Ok::<(), uniferum_metrics::Error>(())
/// ```
pub fn auroc(scores: &[f64], labels: &[bool]) -> Result<Option<f64>> {
    Ok(Ranked::new(&Cases::complete(scores, labels)?).auroc().ok())
}

/// Average precision of complete cases, `None` when a class is absent; see
/// [`Ranked::average_precision`].
///
/// # Errors
/// As [`auroc`].
pub fn average_precision(scores: &[f64], labels: &[bool]) -> Result<Option<f64>> {
    let cases = Cases::complete(scores, labels)?;
    Ok(Ranked::new(&cases).average_precision().ok())
}

/// Positions by ascending score.
fn ascending(scores: &[f64]) -> Vec<usize> {
    // Sorting (key, position) pairs by an integer key is several times faster than sorting
    // positions through an indirect float comparison; it also makes the order deterministic.
    let mut keyed: Vec<(u64, usize)> = scores
        .iter()
        .enumerate()
        .map(|(i, &s)| (ordered_bits(s), i))
        .collect();
    if keyed.len() >= PARALLEL_SORT {
        keyed.par_sort_unstable();
    } else {
        keyed.sort_unstable();
    }
    keyed.into_iter().map(|(_, i)| i).collect()
}

/// Maps finite floats to integers of the same order, both zeros to one.
fn ordered_bits(x: f64) -> u64 {
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 0 {
        bits | 1 << 63
    } else {
        !bits
    }
}
