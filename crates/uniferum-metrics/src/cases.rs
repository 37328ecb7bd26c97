use std::collections::HashMap;
use std::hash::Hash;

use crate::error::{Error, Result, Undefined, check_len};

/// The scored cases of one label: validated, with the cases whose label is missing left out.
///
/// Every metric of this crate reads a `Cases`, so that each check is made once.
///
/// ```
/// use uniferum_metrics::Cases;
/// let cases = Cases::new(&[0.1, 0.9, 0.4], &[Some(false), Some(true), None])?;
/// assert_eq!((cases.n_pos(), cases.n_neg(), cases.n_missing()), (1, 1, 1));
/// # Ok::<(), uniferum_metrics::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Cases {
    pub(crate) scores: Vec<f64>,
    pub(crate) labels: Vec<bool>,
    pub(crate) weights: Option<Vec<f64>>,
    pub(crate) clusters: Option<Vec<u32>>,
    /// Row of the input that each case came from.
    pub(crate) rows: Vec<usize>,
    pub(crate) n_rows: usize,
}

impl Cases {
    /// Pairs scores with labels and drops the cases whose label is `None`.
    ///
    /// # Errors
    /// [`Error::Length`] when the columns differ in length, [`Error::NonFiniteScore`] for a NaN or
    /// infinite score, also on a case whose label is missing.
    pub fn new(scores: &[f64], labels: &[Option<bool>]) -> Result<Self> {
        check_len("labels", scores.len(), labels.len())?;
        if let Some(index) = scores.iter().position(|s| !s.is_finite()) {
            return Err(Error::NonFiniteScore {
                index,
                value: scores[index],
            });
        }
        let kept = labels.iter().filter(|l| l.is_some()).count();
        let mut cases = Cases {
            scores: Vec::with_capacity(kept),
            labels: Vec::with_capacity(kept),
            weights: None,
            clusters: None,
            rows: Vec::with_capacity(kept),
            n_rows: scores.len(),
        };
        for (row, (&score, label)) in scores.iter().zip(labels).enumerate() {
            if let Some(label) = *label {
                cases.scores.push(score);
                cases.labels.push(label);
                cases.rows.push(row);
            }
        }
        Ok(cases)
    }

    /// Cases without missing labels.
    ///
    /// # Errors
    /// As [`Cases::new`].
    pub fn complete(scores: &[f64], labels: &[bool]) -> Result<Self> {
        let labels: Vec<_> = labels.iter().map(|&l| Some(l)).collect();
        Self::new(scores, &labels)
    }

    /// Gives each row of the input a weight; weight 0 leaves the case out of every sum.
    ///
    /// # Errors
    /// [`Error::Length`], or [`Error::InvalidWeight`] for one that is neither 0 nor between 1e-60 and 1e60.
    pub fn with_weights(mut self, weights: &[f64]) -> Result<Self> {
        check_len("weights", self.n_rows, weights.len())?;
        // Squares and products of sums must not leave the range of numbers.
        let possible = |w: &f64| *w == 0.0 || (1e-60..=1e60).contains(w);
        if let Some(index) = weights.iter().position(|w| !possible(w)) {
            return Err(Error::InvalidWeight {
                index,
                value: weights[index],
            });
        }
        self.weights = Some(self.rows.iter().map(|&r| weights[r]).collect());
        Ok(self)
    }

    /// Names the cluster (the patient) of each row of the input; see [`cluster_ids`].
    ///
    /// Any numbers will do. Columns over the same rows must be given the same ones.
    ///
    /// # Errors
    /// [`Error::Length`] when there is not one id per row.
    pub fn with_clusters(mut self, clusters: &[u32]) -> Result<Self> {
        check_len("clusters", self.n_rows, clusters.len())?;
        // Sums over clusters are arrays, which a large number must not make huge. Numbered over all rows,
        // labelled or not, so that columns of different labels agree.
        let large = clusters.iter().any(|&c| c as usize >= self.n_rows);
        let compact = large.then(|| cluster_ids(clusters));
        let ids = compact.as_deref().unwrap_or(clusters);
        self.clusters = Some(self.rows.iter().map(|&r| ids[r]).collect());
        Ok(self)
    }

    /// Number of labelled cases.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// True when no case has a label.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Cases dropped because their label is missing.
    pub fn n_missing(&self) -> usize {
        self.n_rows - self.len()
    }

    /// Positive cases.
    pub fn n_pos(&self) -> usize {
        self.labels.iter().filter(|&&l| l).count()
    }

    /// Negative cases.
    pub fn n_neg(&self) -> usize {
        self.len() - self.n_pos()
    }

    /// Distinct clusters among the labelled cases, when clusters were given.
    pub fn n_clusters(&self) -> Option<usize> {
        let clusters = self.clusters.as_ref()?;
        Some(
            clusters
                .iter()
                .collect::<std::collections::HashSet<_>>()
                .len(),
        )
    }

    /// Scores of the labelled cases, in the order of the input.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// Labels of the labelled cases, in the order of the input.
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }

    /// Weight of labelled case `i`, 1 when no weights were given.
    pub fn weight(&self, i: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |w| w[i])
    }

    /// Share of positives, by weight; `None` without cases.
    pub fn prevalence(&self) -> Option<f64> {
        let (pos, neg) = self.class_weights();
        (pos + neg > 0.0).then(|| pos / (pos + neg))
    }

    /// Total weight of the positives and of the negatives.
    pub(crate) fn class_weights(&self) -> (f64, f64) {
        if self.weights.is_none() {
            return (self.n_pos() as f64, self.n_neg() as f64);
        }
        let mut sums = (0.0, 0.0);
        for (i, &label) in self.labels.iter().enumerate() {
            let sum = if label { &mut sums.0 } else { &mut sums.1 };
            *sum += self.weight(i);
        }
        sums
    }

    pub(crate) fn undefined(&self) -> Undefined {
        Undefined {
            n_pos: self.n_pos(),
            n_neg: self.n_neg(),
        }
    }

    /// Every score is a probability.
    ///
    /// # Errors
    /// [`Error::NotAProbability`] with the row of the first score outside 0..=1.
    pub fn check_probabilities(&self) -> Result<()> {
        match self.scores.iter().position(|s| !(0.0..=1.0).contains(s)) {
            None => Ok(()),
            Some(i) => Err(Error::NotAProbability {
                index: self.rows[i],
                value: self.scores[i],
            }),
        }
    }

    /// The same cases with other scores: recalibrated ones, or those of another model.
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::NonFiniteScore`].
    pub fn with_scores(&self, scores: &[f64]) -> Result<Self> {
        check_len("scores", self.len(), scores.len())?;
        if let Some(index) = scores.iter().position(|s| !s.is_finite()) {
            return Err(Error::NonFiniteScore {
                index: self.rows[index],
                value: scores[index],
            });
        }
        Ok(Cases {
            scores: scores.to_vec(),
            ..self.clone()
        })
    }
}

/// Labels written as numbers: 0, 1, or NaN where missing.
///
/// # Errors
/// [`Error::InvalidLabel`] for any other value.
pub fn labels_from_f64(labels: &[f64]) -> Result<Vec<Option<bool>>> {
    let parse = |(index, &value): (usize, &f64)| match value {
        v if v.is_nan() => Ok(None),
        0.0 => Ok(Some(false)),
        1.0 => Ok(Some(true)),
        _ => Err(Error::InvalidLabel { index, value }),
    };
    labels.iter().enumerate().map(parse).collect()
}

/// Numbers the distinct keys (patient ids) from 0 in order of appearance.
///
/// ```
/// assert_eq!(uniferum_metrics::cluster_ids(&["b", "a", "b"]), [0, 1, 0]);
/// ```
pub fn cluster_ids<K: Hash + Eq>(keys: &[K]) -> Vec<u32> {
    let mut seen = HashMap::new();
    keys.iter()
        .map(|key| {
            let next = seen.len() as u32;
            *seen.entry(key).or_insert(next)
        })
        .collect()
}
/// Room for a sum for each cluster: ids may leave numbers out.
pub(crate) fn cluster_count(clusters: &[u32]) -> usize {
    clusters.iter().max().map_or(0, |&m| m as usize + 1)
}
