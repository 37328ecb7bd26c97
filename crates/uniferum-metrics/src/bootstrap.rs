use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cases::{Cases, cluster_count};
use crate::error::{Error, Result, check_clustering, check_len, check_open_unit};
use crate::ranked::Ranked;

/// A seeded bootstrap that draws whole clusters (patients) where there are any, else cases.
///
/// Replicate `r` is a pure function of the seed and of `r`, whatever the number of threads.
///
/// ```
/// use uniferum_metrics::{Bootstrap, Cases};
/// let scores: Vec<f64> = (0..60).map(|i| f64::from(i * 7 % 60)).collect();
/// let labels: Vec<bool> = (0..60).map(|i| i * 7 % 60 + 5 * (i % 9) > 50).collect();
/// let cases = Cases::complete(&scores, &labels)?;
/// let bootstrap = Bootstrap { replicates: 200, ..Default::default() };
/// let result = bootstrap.run(&[cases], 0.95, |r| r[0].average_precision().ok())?;
/// assert_eq!((result.replicates, result.invalid), (200, 0));
/// assert!(result.ci_low.unwrap() < result.value.unwrap());
/// # Ok::<(), uniferum_metrics::Error>(())
/// ```
///
/// # Reference
/// Efron & Tibshirani 1993, percentile interval; clusters as Field & Welsh 2007.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// Number of resamples.
    pub replicates: usize,
    /// Seed of all of them.
    pub seed: u64,
    /// Keep the numbers of units with and without a positive of the first entry, as the design of a
    /// study with fixed class sizes asks for; it also keeps resamples from losing a class.
    pub stratified: bool,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap {
            replicates: 2000,
            seed: 0,
            stratified: true,
        }
    }
}

/// What a bootstrap found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BootstrapResult {
    /// The statistic of the sample itself; `None` where it is undefined.
    pub value: Option<f64>,
    /// Standard deviation over valid replicates; `None` with fewer than two.
    pub std_err: Option<f64>,
    /// Lower limit; `None` when less than half of the replicates are valid.
    pub ci_low: Option<f64>,
    /// Upper limit; `None` when less than half of the replicates are valid.
    pub ci_high: Option<f64>,
    /// Replicates drawn.
    pub replicates: usize,
    /// Replicates in which the statistic was undefined; they are left out, not counted as 0.
    pub invalid: usize,
}

impl Bootstrap {
    /// Bootstraps any statistic of one or several columns over the same rows: each resample draws the
    /// same rows (or clusters) for all of them, so that differences between models stay paired.
    ///
    /// `level` is the confidence level of the interval. The statistic returns `None` where it is undefined.
    /// The cases are sorted once, not once a replicate.
    ///
    /// # Errors
    /// [`Error::Length`] when the columns have different numbers of rows, [`Error::Clustering`] when only
    /// some are clustered, [`Error::Option`] without replicates, without columns, or for a bad level.
    pub fn run(
        &self,
        cases: &[Cases],
        level: f64,
        statistic: impl Fn(&[Ranked<'_>]) -> Option<f64> + Sync,
    ) -> Result<BootstrapResult> {
        check_open_unit("level", level)?;
        let ranked: Vec<Ranked<'_>> = cases.par_iter().map(Ranked::new).collect();
        let plan = self.plan(cases)?;
        let draw = |r: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(r);
            let counts = plan.draw(&mut rng);
            let resample: Vec<Ranked<'_>> = ranked
                .iter()
                .map(|column| {
                    let count = |i: usize| f64::from(counts[unit_of(column.cases, i)]);
                    column.resampled((0..column.cases.len()).map(count).collect())
                })
                .collect();
            statistic(&resample).filter(|v| v.is_finite())
        };
        let drawn: Vec<Option<f64>> = (0..self.replicates as u64)
            .into_par_iter()
            .map(draw)
            .collect();
        let value = statistic(&ranked).filter(|v| v.is_finite());
        Ok(self.summary(level, value, drawn))
    }

    fn plan(&self, cases: &[Cases]) -> Result<Plan> {
        let option = |name, expected, got| {
            Err(Error::Option {
                name,
                expected,
                got,
            })
        };
        if self.replicates == 0 {
            return option("replicates", "at least 1", 0.0);
        }
        let Some(first) = cases.first() else {
            return option("columns to resample", "at least 1", 0.0);
        };
        for other in cases {
            check_len("rows of a column to resample", first.n_rows, other.n_rows)?;
            let clustered = [first, other].map(|c| c.clusters.is_some());
            check_clustering("a column to resample", clustered[0], clustered[1])?;
        }
        Ok(Plan::new(cases, self.stratified))
    }

    fn summary(&self, level: f64, value: Option<f64>, drawn: Vec<Option<f64>>) -> BootstrapResult {
        let mut valid: Vec<f64> = drawn.iter().copied().flatten().collect();
        valid.sort_unstable_by(f64::total_cmp);
        let (n, half) = (valid.len(), self.replicates.div_ceil(2));
        let mean = valid.iter().sum::<f64>() / n as f64;
        let squares: f64 = valid.iter().map(|v| (v - mean).powi(2)).sum();
        let enough = value.is_some() && n >= half.max(1);
        let tail = 0.5 * (1.0 - level);
        BootstrapResult {
            value,
            std_err: (n > 1).then(|| (squares / (n as f64 - 1.0)).sqrt()),
            ci_low: enough.then(|| quantile(&valid, tail)),
            ci_high: enough.then(|| quantile(&valid, 1.0 - tail)),
            replicates: self.replicates,
            invalid: self.replicates - n,
        }
    }
}

/// Which units are drawn from which.
struct Plan {
    strata: Vec<Vec<u32>>,
    units: usize,
}

impl Plan {
    fn new(cases: &[Cases], stratified: bool) -> Plan {
        let first = &cases[0];
        let last = |c: &Cases| match &c.clusters {
            Some(clusters) => cluster_count(clusters),
            None => c.n_rows,
        };
        let units = cases.iter().map(last).max().unwrap_or(0);
        // 0: not among the labelled cases of the first column, 1: negatives only, 2: a positive.
        let mut kind = vec![0u8; units];
        let mut known = vec![false; units];
        for (c, column) in cases.iter().enumerate() {
            for i in 0..column.len() {
                let unit = unit_of(column, i);
                known[unit] = true;
                if c == 0 && stratified {
                    kind[unit] = kind[unit].max(1 + u8::from(first.labels[i]));
                }
            }
        }
        let mut strata = vec![Vec::new(); 3];
        for unit in (0..units).filter(|&u| known[u]) {
            strata[kind[unit] as usize].push(unit as u32);
        }
        Plan { strata, units }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let mut counts = vec![0u32; self.units];
        for stratum in self.strata.iter().filter(|s| !s.is_empty()) {
            for _ in 0..stratum.len() {
                counts[stratum[rng.random_range(0..stratum.len())] as usize] += 1;
            }
        }
        counts
    }
}

fn unit_of(cases: &Cases, i: usize) -> usize {
    match &cases.clusters {
        Some(clusters) => clusters[i] as usize,
        None => cases.rows[i],
    }
}

/// Quantile of sorted values, linear between them (R's type 7).
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let at = p * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (at - low as f64) * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delong::AucEstimate;

    fn sample(n: u32) -> Cases {
        let scores: Vec<f64> = (0..n).map(|i| f64::from(i * 7919 % 1009)).collect();
        let labels: Vec<bool> = (0..n)
            .map(|i| f64::from(i * 7919 % 1009) > f64::from(i * 104_729 % 1009))
            .collect();
        Cases::complete(&scores, &labels).unwrap()
    }

    fn area(r: &[Ranked<'_>]) -> Option<f64> {
        r[0].auroc().ok()
    }

    #[test]
    fn agrees_with_delong_and_repeats_itself() {
        let cases = sample(400);
        let delong = AucEstimate::new(&cases).unwrap().variance().unwrap().sqrt();
        let bootstrap = Bootstrap::default();
        let one = bootstrap
            .run(std::slice::from_ref(&cases), 0.95, area)
            .unwrap();
        assert!(
            (one.std_err.unwrap() / delong - 1.0).abs() < 0.08,
            "{one:?}"
        );
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let again = pool
            .unwrap()
            .install(|| bootstrap.run(&[cases], 0.95, area));
        assert_eq!(again.unwrap(), one);
    }

    #[test]
    fn patients_are_drawn_whole() {
        let base = sample(200);
        let twice = |v: &[f64]| v.iter().flat_map(|&x| [x, x]).collect::<Vec<_>>();
        let labels: Vec<bool> = base.labels().iter().flat_map(|&l| [l, l]).collect();
        let doubled = Cases::complete(&twice(base.scores()), &labels).unwrap();
        let twins: Vec<u32> = (0..400).map(|i| i / 2).collect();
        let clustered = doubled.clone().with_clusters(&twins).unwrap();
        let bootstrap = Bootstrap::default();
        // Drawn by patient, the copies add nothing: the very same resamples come out.
        let by_patient = bootstrap.run(&[clustered], 0.95, area).unwrap();
        let singles = bootstrap.run(&[base], 0.95, area).unwrap();
        assert!((by_patient.std_err.unwrap() - singles.std_err.unwrap()).abs() < 1e-12);
        let naive = bootstrap.run(&[doubled], 0.95, area).unwrap();
        assert!(naive.std_err.unwrap() < 0.8 * by_patient.std_err.unwrap());
    }

    #[test]
    fn invalid_replicates_are_counted() {
        let labels = [true, false, false, false, false, false];
        let cases = Cases::complete(&[0.9, 0.1, 0.2, 0.3, 0.4, 0.95], &labels).unwrap();
        let plain = Bootstrap {
            stratified: false,
            ..Default::default()
        };
        let found = plain.run(std::slice::from_ref(&cases), 0.95, area).unwrap();
        // The only positive is missed with probability (5/6)^6 = 0.335.
        let share = found.invalid as f64 / found.replicates as f64;
        assert!((share - 0.335).abs() < 0.04, "{share}");
        let kept = Bootstrap::default().run(&[cases], 0.95, area).unwrap();
        assert_eq!(kept.invalid, 0);
        let never = plain.run(&[sample(10)], 0.95, |_| None).unwrap();
        assert_eq!(
            (never.invalid, never.ci_low, never.value),
            (2000, None, None)
        );
    }
}
