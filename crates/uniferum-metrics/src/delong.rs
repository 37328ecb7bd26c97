use std::borrow::Borrow;

use rayon::prelude::*;

use crate::cases::{Cases, cluster_count};
use crate::error::{Result, Undefined, check_clustering, check_len};
use crate::ranked::Ranked;

/// An AUROC with the influence of each case or patient on it.
///
/// Influences of two estimates over the same rows give their covariance, whatever the models,
/// the labels and the missing entries, in linear time and memory.
///
/// ```
/// use uniferum_metrics::{AucEstimate, Cases};
/// let cases = Cases::complete(&[0.1, 0.4, 0.35, 0.8], &[false, false, true, true])?;
/// let estimate = AucEstimate::new(&cases)?;
/// assert_eq!(estimate.auroc(), 0.75);
/// assert!((estimate.variance().unwrap() - 0.125).abs() < 1e-12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Reference
/// DeLong, DeLong & Clarke-Pearson 1988, with placements from one sort (Sun & Xu 2014); with
/// clusters Obuchowski 1997. Clusters of one case each give DeLong's estimate.
#[derive(Debug, Clone)]
pub struct AucEstimate {
    auroc: f64,
    n_rows: usize,
    pos_units: usize,
    neg_units: usize,
    /// Which classes each unit (row or cluster) holds.
    holds: Vec<u8>,
    influence: Influence,
}

const HAS_POS: u8 = 1;
const HAS_NEG: u8 = 2;

/// Influences scaled so that plain sums of products are covariances.
#[derive(Debug, Clone)]
enum Influence {
    /// One value per row of the input, 0 where the label is missing.
    Cases(Vec<f64>),
    /// Per cluster the sum over its positives and over its negatives, and the ratio of the
    /// small-sample factor of their cross term to the factors already contained.
    Clusters {
        pos: Vec<f64>,
        neg: Vec<f64>,
        cross: f64,
    },
}

impl AucEstimate {
    /// The AUROC of one label and the influence of its cases; clustered when `cases` are.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    pub fn new(cases: &Cases) -> Result<Self, Undefined> {
        Self::from_ranked(&Ranked::new(cases))
    }

    /// As [`AucEstimate::new`], from cases sorted before.
    ///
    /// # Errors
    /// As [`AucEstimate::new`].
    pub fn from_ranked(ranked: &Ranked<'_>) -> Result<Self, Undefined> {
        let auroc = ranked.auroc()?;
        let cases = ranked.cases;
        let parts = case_influences(ranked, auroc);
        let (influence, holds) = match &cases.clusters {
            None => unclustered(cases, parts),
            Some(clusters) => clustered(cases, clusters, &parts),
        };
        Ok(AucEstimate {
            auroc,
            n_rows: cases.n_rows,
            pos_units: count(&holds, HAS_POS),
            neg_units: count(&holds, HAS_NEG),
            holds,
            influence,
        })
    }

    /// The area under the ROC curve.
    pub fn auroc(&self) -> f64 {
        self.auroc
    }

    /// Independent units that hold a positive: patients with clusters, else cases.
    pub fn pos_units(&self) -> usize {
        self.pos_units
    }

    /// Independent units that hold a negative: patients with clusters, else cases.
    pub fn neg_units(&self) -> usize {
        self.neg_units
    }

    /// Variance of the AUROC.
    ///
    /// `None` when only one unit holds a positive, or only one a negative: a sample of one has no
    /// variance. `Some(0.0)` when no case is out of place (perfect separation) or all scores tie.
    pub fn variance(&self) -> Option<f64> {
        (self.pos_units > 1 && self.neg_units > 1).then(|| self.product(self).max(0.0))
    }

    /// Covariance with another estimate over the same rows: another model, another label, or both.
    ///
    /// `Ok(None)` when either variance is undefined.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the two do not describe the same rows,
    /// [`Error::Clustering`](crate::Error::Clustering) when only one is clustered.
    pub fn covariance(&self, other: &AucEstimate) -> Result<Option<f64>> {
        check_len("rows of the second estimate", self.n_rows, other.n_rows)?;
        check_clustering(
            "the second estimate",
            self.is_clustered(),
            other.is_clustered(),
        )?;
        let defined = [self, other]
            .iter()
            .all(|e| e.pos_units > 1 && e.neg_units > 1);
        Ok(defined.then(|| self.product(other)))
    }

    /// What a unit adds as a holder of a class; 0 for one that does not hold it.
    fn part(&self, class: u8, unit: usize) -> f64 {
        match &self.influence {
            Influence::Cases(rows) if self.has(class, unit) => rows[unit],
            Influence::Clusters { pos, .. } if class == HAS_POS => {
                pos.get(unit).map_or(0.0, |&x| x)
            }
            Influence::Clusters { neg, .. } => neg.get(unit).map_or(0.0, |&x| x),
            Influence::Cases(_) => 0.0,
        }
    }

    fn has(&self, class: u8, unit: usize) -> bool {
        self.holds.get(unit).is_some_and(|h| h & class != 0)
    }

    fn is_clustered(&self) -> bool {
        matches!(self.influence, Influence::Clusters { .. })
    }

    fn product(&self, other: &AucEstimate) -> f64 {
        match (&self.influence, &other.influence) {
            (Influence::Cases(a), Influence::Cases(b)) => dot(a, b),
            (
                Influence::Clusters { pos, neg, cross },
                Influence::Clusters {
                    pos: pos2,
                    neg: neg2,
                    cross: cross2,
                },
            ) => {
                let mixed = dot(pos, neg2) + dot(neg, pos2);
                dot(pos, pos2) + dot(neg, neg2) + (cross * cross2).sqrt() * mixed
            }
            _ => 0.0,
        }
    }
}

/// Covariance matrix of several AUROCs over the same rows, row by row.
///
/// Entries whose variance is undefined are `None`; see [`AucEstimate::variance`].
///
/// # Errors
/// As [`AucEstimate::covariance`].
pub fn covariance_matrix(
    estimates: &[impl Borrow<AucEstimate> + Sync],
) -> Result<Vec<Vec<Option<f64>>>> {
    let k = estimates.len();
    let pairs: Vec<(usize, usize)> = (0..k).flat_map(|i| (i..k).map(move |j| (i, j))).collect();
    let values: Vec<Option<f64>> = pairs
        .par_iter()
        .map(|&(i, j)| {
            let (a, b) = (estimates[i].borrow(), estimates[j].borrow());
            if i == j {
                Ok(a.variance())
            } else {
                a.covariance(b)
            }
        })
        .collect::<Result<_>>()?;
    let mut matrix = vec![vec![None; k]; k];
    for (&(i, j), value) in pairs.iter().zip(values) {
        matrix[i][j] = value;
        matrix[j][i] = value;
    }
    Ok(matrix)
}

/// Degrees of freedom of the variance of the sum of some differences `a - b`.
///
/// A class whose `m` units give the variance the part `s` puts `s / sqrt(m (m - 1))` on each of them;
/// with `q` what a unit bears in all, the degrees of freedom are `(sum s)^2 / sum q^2`. For a single
/// difference of independent cases that is Welch and Satterthwaite's
/// `(s1 + s0)^2 / (s1^2 / (m - 1) + s0^2 / (n - 1))`; labels that share their positives share their
/// degrees of freedom, labels with other positives add theirs.
pub(crate) fn degrees_of_freedom(differences: &[(&AucEstimate, &AucEstimate)]) -> f64 {
    let all = differences.iter().flat_map(|(a, b)| [a, b]);
    let mut borne = vec![0.0; all.map(|e| e.holds.len()).max().unwrap_or(0)];
    let mut total = 0.0;
    for &(a, b) in differences {
        for class in [HAS_POS, HAS_NEG] {
            let holds = |unit: &usize| a.has(class, *unit) || b.has(class, *unit);
            let (mut part, mut units) = (0.0, 0.0);
            for unit in (0..borne.len()).filter(holds) {
                part += (a.part(class, unit) - b.part(class, unit)).powi(2);
                units += 1.0;
            }
            total += part;
            let each = part / (units * (units - 1.0f64)).sqrt();
            (0..borne.len())
                .filter(holds)
                .for_each(|u| borne[u] += each);
        }
    }
    total * total / borne.iter().map(|q| q * q).sum::<f64>()
}

/// `w (V - A) / W` for each case: V is the share of the other class that the case is on the right
/// side of (its placement), W the weight of its own class.
fn case_influences(ranked: &Ranked<'_>, auroc: f64) -> Vec<f64> {
    let cases = ranked.cases;
    let mut influence = vec![0.0; cases.len()];
    let (mut start, mut pos_below, mut neg_below) = (0, 0.0, 0.0);
    for group in &ranked.groups {
        let of_pos = (neg_below + 0.5 * group.neg) / ranked.neg - auroc;
        let of_neg = (ranked.pos - pos_below - 0.5 * group.pos) / ranked.pos - auroc;
        for &i in &ranked.order[start..group.end] {
            influence[i] = ranked.weight(i)
                * if cases.labels[i] {
                    of_pos / ranked.pos
                } else {
                    of_neg / ranked.neg
                };
        }
        start = group.end;
        pos_below += group.pos;
        neg_below += group.neg;
    }
    influence
}

/// Units that hold some class of the mask.
fn count(holds: &[u8], mask: u8) -> usize {
    holds.iter().filter(|&&h| h & mask != 0).count()
}

fn class_of(label: bool) -> u8 {
    if label { HAS_POS } else { HAS_NEG }
}

fn unclustered(cases: &Cases, parts: Vec<f64>) -> (Influence, Vec<u8>) {
    let mut holds = vec![0u8; cases.n_rows];
    for i in (0..cases.len()).filter(|&i| cases.weight(i) > 0.0) {
        holds[cases.rows[i]] = class_of(cases.labels[i]);
    }
    let factor = |class| bessel(count(&holds, class)).sqrt();
    let factors = (factor(HAS_POS), factor(HAS_NEG));
    let mut rows = vec![0.0; cases.n_rows];
    for (i, part) in parts.into_iter().enumerate() {
        rows[cases.rows[i]] = part
            * if cases.labels[i] {
                factors.0
            } else {
                factors.1
            };
    }
    (Influence::Cases(rows), holds)
}

fn clustered(cases: &Cases, clusters: &[u32], parts: &[f64]) -> (Influence, Vec<u8>) {
    let n = cluster_count(clusters);
    let (mut pos, mut neg, mut holds) = (vec![0.0; n], vec![0.0; n], vec![0u8; n]);
    for (i, &part) in parts.iter().enumerate() {
        if cases.weight(i) == 0.0 {
            continue;
        }
        let c = clusters[i] as usize;
        let sum = if cases.labels[i] { &mut pos } else { &mut neg };
        sum[c] += part;
        holds[c] |= class_of(cases.labels[i]);
    }
    let factor = |mask| bessel(count(&holds, mask)).sqrt();
    let (f_pos, f_neg) = (factor(HAS_POS), factor(HAS_NEG));
    pos.iter_mut().for_each(|x| *x *= f_pos);
    neg.iter_mut().for_each(|x| *x *= f_neg);
    let cross = bessel(count(&holds, HAS_POS | HAS_NEG)) / (f_pos * f_neg);
    (Influence::Clusters { pos, neg, cross }, holds)
}

/// `n / (n - 1)`; 1 for a single unit, whose variance is undefined anyway.
fn bessel(n: usize) -> f64 {
    if n > 1 {
        n as f64 / (n as f64 - 1.0)
    } else {
        1.0
    }
}

/// Sum of products, in blocks so that rounding does not grow with the length.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let block = |(x, y): (&[f64], &[f64])| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    a.chunks(1024).zip(b.chunks(1024)).map(block).sum()
}
