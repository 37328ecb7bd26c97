//! How often do 95 % intervals hold the truth? Prints the tables of `docs/statistics.md`.
//!
//! ```text
//! cargo run --release -p uniferum-metrics --no-default-features --example coverage
//! ```
//!
//! Scores are normal, positives shifted so that the true AUROC is known. In the first table every
//! patient has two volumes with the same label and correlated scores; in the second there are few
//! positives and no clusters; the third averages several labels, some with few positives; the last two
//! compare models that are equally good.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use uniferum_metrics::special::{normal_quantile, sigmoid, two_sided_p};
use uniferum_metrics::{
    AucEstimate, Bootstrap, Cases, Interval, IntervalMethod, MacroAuroc, Ranked, auroc_interval,
    cluster_ids, compare_auroc, macro_auroc,
};

const TRIALS: u64 = 4000;
const BOOTSTRAP_TRIALS: u64 = 600;

fn main() {
    within_patients();
    few_positives();
    macro_averages();
    paired();
    paired_few_positives();
}

/// Standard normal draws, a function of the seed alone.
struct Normal(ChaCha8Rng);

impl Normal {
    fn new(seed: u64) -> Self {
        Normal(ChaCha8Rng::seed_from_u64(seed))
    }

    fn draw(&mut self) -> f64 {
        use rand::Rng;
        // Never 0 or 1.
        normal_quantile((self.0.random_range(0..1u64 << 52) as f64 + 0.5) / (1u64 << 52) as f64)
    }
}

/// Shift of the positives that gives this AUROC: `Phi(shift / sqrt 2)`.
fn shift(auroc: f64) -> f64 {
    normal_quantile(auroc) * 2f64.sqrt()
}

/// Patients with two volumes each; both volumes carry the patient's label.
fn patients(n_pos: usize, n_neg: usize, correlation: f64, auroc: f64, seed: u64) -> Cases {
    let mut normal = Normal::new(seed);
    let (mut scores, mut labels, mut who) = (Vec::new(), Vec::new(), Vec::new());
    for patient in 0..n_pos + n_neg {
        let positive = patient < n_pos;
        let centre = if positive { shift(auroc) } else { 0.0 };
        let common = correlation.sqrt() * normal.draw();
        for _ in 0..2 {
            scores.push(centre + common + (1.0 - correlation).sqrt() * normal.draw());
            labels.push(positive);
            who.push(patient);
        }
    }
    let cases = Cases::complete(&scores, &labels).expect("finite scores");
    cases
        .with_clusters(&cluster_ids(&who))
        .expect("one id a row")
}

fn without_clusters(cases: &Cases) -> Cases {
    Cases::complete(cases.scores(), cases.labels()).expect("finite scores")
}

fn auto(cases: &Cases, method: IntervalMethod) -> Option<Interval> {
    let estimate = AucEstimate::new(cases).ok()?;
    auroc_interval(&estimate, 0.95, method).ok()?
}

/// Share of trials whose interval holds `truth`, and the mean width; no interval counts as a miss.
fn coverage(
    trials: u64,
    truth: f64,
    trial: impl Fn(u64) -> Option<(f64, f64)> + Sync,
) -> (f64, f64) {
    let found: Vec<(f64, f64)> = (0..trials)
        .into_par_iter()
        .map(|seed| match trial(seed) {
            Some((low, high)) => (
                f64::from(u8::from(low <= truth && truth <= high)),
                high - low,
            ),
            None => (0.0, 0.0),
        })
        .collect();
    let mean = |f: fn(&(f64, f64)) -> f64| found.iter().map(f).sum::<f64>() / trials as f64;
    (mean(|x| x.0), mean(|x| x.1))
}

fn limits(interval: Option<Interval>) -> Option<(f64, f64)> {
    interval.map(|i| (i.low, i.high))
}

fn percent((share, width): (f64, f64)) -> String {
    format!("{:.1} % ({width:.3})", 100.0 * share)
}

fn within_patients() {
    println!("Two volumes a patient, 60 positive and 240 negative patients; {TRIALS} trials");
    println!(
        "| correlation | AUROC | DeLong, volumes taken as independent | clustered by patient |"
    );
    println!("|---|---|---|---|");
    for correlation in [0.0, 0.6, 0.9] {
        for truth in [0.75, 0.9] {
            let sample = |seed| patients(60, 240, correlation, truth, seed);
            let naive = coverage(TRIALS, truth, |s| {
                limits(auto(&without_clusters(&sample(s)), IntervalMethod::Auto))
            });
            let clustered = coverage(TRIALS, truth, |s| {
                limits(auto(&sample(s), IntervalMethod::Auto))
            });
            let (naive, clustered) = (percent(naive), percent(clustered));
            println!("| {correlation} | {truth} | {naive} | {clustered} |");
        }
    }
    println!();
}

/// 300 cases of which the first are positive.
fn independent(n_pos: usize, auroc: f64, seed: u64) -> Cases {
    let mut normal = Normal::new(seed);
    let centre = |i: usize| if i < n_pos { shift(auroc) } else { 0.0 };
    let scores: Vec<f64> = (0..300).map(|i| centre(i) + normal.draw()).collect();
    let labels: Vec<bool> = (0..300).map(|i| i < n_pos).collect();
    Cases::complete(&scores, &labels).expect("finite scores")
}

fn few_positives() {
    println!(
        "Few positives among 300 independent cases; {TRIALS} trials, bootstrap {BOOTSTRAP_TRIALS}"
    );
    println!("| positives | AUROC | Wald | logit | score | exact | bootstrap | automatic |");
    println!("|---|---|---|---|---|---|---|---|");
    for n_pos in [3, 5, 9, 10, 15, 20] {
        for truth in [0.75, 0.9, 0.97] {
            let sample = |seed| independent(n_pos, truth, seed);
            let by = |method| {
                percent(coverage(TRIALS, truth, |s| {
                    limits(auto(&sample(s), method))
                }))
            };
            let bootstrap = coverage(BOOTSTRAP_TRIALS, truth, |s| {
                let options = Bootstrap {
                    replicates: 1000,
                    seed: s,
                    ..Default::default()
                };
                let area = |r: &[Ranked<'_>]| r[0].auroc().ok();
                let found = options.run(&[sample(s)], 0.95, area).ok()?;
                found.ci_low.zip(found.ci_high)
            });
            use IntervalMethod::{Auto, Exact, Logit, Score, Wald};
            println!(
                "| {n_pos} | {truth} | {} | {} | {} | {} | {} | {} |",
                by(Wald),
                by(Logit),
                by(Score),
                by(Exact),
                percent(bootstrap),
                by(Auto)
            );
        }
    }
    println!();
}

/// The mean over labels of the same 300 cases, whose scores correlate by one half: positives of each label
/// at random, or the same cases for all.
fn macro_averages() {
    println!("Mean over labels of 300 independent cases; {TRIALS} trials");
    println!("| positives of the labels | AUROC | positives | logit | automatic |");
    println!("|---|---|---|---|---|");
    let sets: [&[usize]; 5] = [&[3, 3], &[5; 5], &[3, 60, 60, 60, 60], &[20; 5], &[60; 5]];
    for positives in sets {
        for truth in [0.8, 0.95] {
            for same in [false, true] {
                let by = |limits: fn(&MacroAuroc) -> Option<(f64, f64)>| {
                    percent(coverage(TRIALS, truth, |seed| {
                        limits(&labels_of_one_sample(positives, truth, same, seed)?)
                    }))
                };
                let auto = by(|m| m.ci_low.zip(m.ci_high));
                let same = if same { "shared" } else { "own" };
                let logit = by(logit);
                println!("| {positives:?} | {truth} | {same} | {logit} | {auto} |");
            }
        }
    }
    println!();
}

fn labels_of_one_sample(
    positives: &[usize],
    auroc: f64,
    same: bool,
    seed: u64,
) -> Option<MacroAuroc> {
    let mut normal = Normal::new(seed);
    let common: Vec<f64> = (0..300).map(|_| normal.draw()).collect();
    let mut estimates = Vec::new();
    for (l, &n_pos) in positives.iter().enumerate() {
        // Independent draws in any order: a shift of the cases is as good as a permutation.
        let first = if same { 0 } else { 60 * l };
        let labels: Vec<bool> = (0..300).map(|i| (i + 300 - first) % 300 < n_pos).collect();
        let score = |(c, &positive): (&f64, &bool)| {
            let centre = if positive { shift(auroc) } else { 0.0 };
            centre + (c + normal.draw()) / 2f64.sqrt()
        };
        let scores: Vec<f64> = common.iter().zip(&labels).map(score).collect();
        let cases = Cases::complete(&scores, &labels).ok()?;
        estimates.push(AucEstimate::new(&cases).ok());
    }
    macro_auroc(&vec!["label"; positives.len()], &estimates, 0.95).ok()
}

/// The interval that allows for nothing but the covariance.
fn logit(mean: &MacroAuroc) -> Option<(f64, f64)> {
    let (value, std_err) = mean.value.zip(mean.std_err)?;
    if value >= 1.0 {
        return None;
    }
    let centre = (value / (1.0 - value)).ln();
    let half = normal_quantile(0.975) * std_err / (value * (1.0 - value));
    Some((sigmoid(centre - half), sigmoid(centre + half)))
}

/// A second model that errs on much the same cases: its noise is mixed from two samples.
fn related(a: &Cases, fresh: &Cases, auroc: f64) -> Cases {
    const SHARED: f64 = 0.7;
    let rows = a.scores().iter().zip(fresh.scores()).zip(a.labels());
    let scores: Vec<f64> = rows
        .map(|((a, b), &positive)| {
            let centre = if positive { shift(auroc) } else { 0.0 };
            let own = (1.0 - SHARED * SHARED).sqrt();
            centre + SHARED * (a - centre) + own * (b - centre)
        })
        .collect();
    a.with_scores(&scores).expect("finite scores")
}

/// Two models whose true areas are equal; a sound test rejects in 5 % of the trials.
fn paired() {
    println!("Two equally good models, two volumes a patient; {TRIALS} trials");
    println!("| correlation | rejected at 5 %, volumes taken as independent | clustered |");
    println!("|---|---|---|");
    for correlation in [0.0, 0.6, 0.9] {
        let rejected = |clustered: bool| {
            let trial = |seed: u64| {
                let a = patients(60, 240, correlation, 0.85, 2 * seed);
                let b = related(
                    &a,
                    &patients(60, 240, correlation, 0.85, 2 * seed + 1),
                    0.85,
                );
                let (a, b) = if clustered {
                    (a, b)
                } else {
                    (without_clusters(&a), without_clusters(&b))
                };
                let (a, b) = (AucEstimate::new(&a).ok()?, AucEstimate::new(&b).ok()?);
                let test = compare_auroc(&a, &b, 0.95).ok()?;
                test.ci_low.zip(test.ci_high)
            };
            100.0 * (1.0 - coverage(TRIALS, 0.0, trial).0)
        };
        let (naive, clustered) = (rejected(false), rejected(true));
        println!("| {correlation} | {naive:.1} % | {clustered:.1} % |");
    }
    println!();
}

/// The same with few positives among 300 independent cases.
fn paired_few_positives() {
    println!("Two equally good models, few positives among 300 independent cases; {TRIALS} trials");
    println!("| positives | AUROC | rejected at 5 %, normal law | Student's law |");
    println!("|---|---|---|---|");
    for n_pos in [3, 5, 9, 20] {
        for auroc in [0.75, 0.85, 0.95] {
            let p_values = |seed: u64| {
                let a = independent(n_pos, auroc, 2 * seed);
                let b = related(&a, &independent(n_pos, auroc, 2 * seed + 1), auroc);
                let (a, b) = (AucEstimate::new(&a).ok()?, AucEstimate::new(&b).ok()?);
                let test = compare_auroc(&a, &b, 0.95).ok()?;
                Some((two_sided_p(test.z?), test.p_value?))
            };
            // No test, as between two models that separate perfectly, is no rejection.
            let found: Vec<(f64, f64)> = (0..TRIALS)
                .into_par_iter()
                .map(|s| p_values(s).unwrap_or((1.0, 1.0)))
                .collect();
            let share = |of: fn(&(f64, f64)) -> f64| {
                let rejected = found.iter().filter(|p| of(p) < 0.05).count();
                100.0 * rejected as f64 / TRIALS as f64
            };
            let (normal, student) = (share(|p| p.0), share(|p| p.1));
            println!("| {n_pos} | {auroc} | {normal:.1} % | {student:.1} % |");
        }
    }
}
