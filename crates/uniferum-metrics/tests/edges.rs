//! What real tables bring: ties, constant columns, one positive, scores one bit apart, huge samples.

use uniferum_metrics::{
    AucEstimate, Bootstrap, Cases, Error, IntervalMethod, Ranked, Undefined, auroc, auroc_interval,
    cluster_ids, labels_from_f64,
};

fn estimate(scores: &[f64], labels: &[bool]) -> AucEstimate {
    AucEstimate::new(&Cases::complete(scores, labels).unwrap()).unwrap()
}

fn interval(estimate: &AucEstimate) -> (f64, f64, IntervalMethod) {
    let found = auroc_interval(estimate, 0.95, IntervalMethod::Auto);
    let found = found.unwrap().unwrap();
    (found.low, found.high, found.method)
}

#[test]
fn all_ties_are_chance_without_variance() {
    let labels: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
    let e = estimate(&[0.3; 40], &labels);
    assert_eq!((e.auroc(), e.variance()), (0.5, Some(0.0)));
    let (low, high, method) = interval(&e);
    assert_eq!(method, IntervalMethod::Exact);
    assert!(low > 0.1 && low < 0.5 && high > 0.5 && high < 0.9);
}

#[test]
fn perfect_separation_has_an_interval() {
    let scores: Vec<f64> = (0..40).map(f64::from).collect();
    let labels: Vec<bool> = (0..40).map(|i| i >= 20).collect();
    let e = estimate(&scores, &labels);
    assert_eq!((e.auroc(), e.variance()), (1.0, Some(0.0)));
    let (low, high, _) = interval(&e);
    assert!(low > 0.8 && low < 0.85 && high == 1.0, "{low}");
}

/// Weights such as 0.1 do not add up exactly; the interval must not become 1.000 to 1.000.
#[test]
fn weighted_perfect_separation_has_the_same_interval() {
    let scores: Vec<f64> = (0..40).map(f64::from).collect();
    let labels: Vec<bool> = (0..40).map(|i| i >= 20).collect();
    let plain = interval(&estimate(&scores, &labels));
    for unit in [0.1, 0.3, 1.0 / 3.0, 0.7, 1e-3] {
        let weights: Vec<f64> = (1..41).map(|i| unit * f64::from(i)).collect();
        for (labels, area) in [
            (labels.clone(), 1.0),
            (labels.iter().map(|l| !l).collect(), 0.0),
        ] {
            let cases = Cases::complete(&scores, &labels).unwrap();
            let clusters: Vec<u32> = (0..40).collect();
            let cases = cases.with_weights(&weights).unwrap();
            for cases in [cases.clone(), cases.with_clusters(&clusters).unwrap()] {
                let e = AucEstimate::new(&cases).unwrap();
                assert_eq!((e.auroc(), e.variance()), (area, Some(0.0)), "{unit}");
                let (low, high, method) = interval(&e);
                assert_eq!(method, IntervalMethod::Exact);
                let width = plain.1 - plain.0;
                assert!((high - low - width).abs() < 1e-12, "{low} {high}");
            }
        }
    }
}

/// One pair of 400 out of order: far from what a normal law could tell.
#[test]
fn few_misplaced_cases_get_the_score_interval() {
    let scores: Vec<f64> = (0..40).map(f64::from).collect();
    let nearly: Vec<bool> = (0..40).map(|i| i > 20 || i == 19).collect();
    let (low, high, method) = interval(&estimate(&scores, &nearly));
    assert_eq!(method, IntervalMethod::Score);
    assert!(low < 0.95 && high < 1.0 && high > 0.9975, "{low} {high}");
    let mixed: Vec<bool> = (0..40).map(|i| i % 2 == 0).collect();
    let (_, _, method) = interval(&estimate(&scores, &mixed));
    assert_eq!(method, IntervalMethod::Logit);
}

#[test]
fn one_or_two_positives() {
    let scores: Vec<f64> = (0..50).map(f64::from).collect();
    let labels =
        |positives: &[usize]| -> Vec<bool> { (0..50).map(|i| positives.contains(&i)).collect() };
    let one = estimate(&scores, &labels(&[40]));
    assert_eq!(one.variance(), None);
    let two = estimate(&scores, &labels(&[30, 45]));
    assert!(two.variance().unwrap() > 0.0);
    for e in [one, two] {
        let (low, high, method) = interval(&e);
        assert_eq!(method, IntervalMethod::Score);
        assert!(low < e.auroc() && e.auroc() < high && high - low > 0.2);
    }
}

#[test]
fn clustered_and_unclustered_columns_do_not_mix() {
    let labels = [false, true, false, true];
    let plain = Cases::complete(&[0.1, 0.4, 0.2, 0.3], &labels).unwrap();
    let clustered = plain.clone().with_clusters(&[0, 1, 2, 3]).unwrap();
    let estimate = |c: &Cases| AucEstimate::new(c).unwrap();
    let error = estimate(&plain).covariance(&estimate(&clustered));
    assert_eq!(
        error.unwrap_err().to_string(),
        "the second estimate: expected cases without clusters, got cases with clusters"
    );
    let resampled = Bootstrap::default().run(&[clustered, plain], 0.95, |_| None);
    assert_eq!(
        resampled.unwrap_err().to_string(),
        "a column to resample: expected cases with clusters, got cases without clusters"
    );
}

/// The largest number of a cluster must not cost 4e9 sums.
#[test]
fn numbers_of_clusters_may_be_large() {
    let labels = [Some(false), Some(true), None, Some(true), Some(false)];
    let cases = Cases::new(&[0.1, 0.4, 0.2, 0.3, 0.35], &labels).unwrap();
    let small = cases.clone().with_clusters(&[0, 1, 2, 3, 0]).unwrap();
    let large = cases.with_clusters(&[u32::MAX, 7, 5, u32::MAX - 1, u32::MAX]);
    let large = large.unwrap();
    assert_eq!(large.n_clusters(), Some(3));
    let variance = |c: &Cases| AucEstimate::new(c).unwrap().variance();
    assert_eq!(variance(&small), variance(&large));
    let found = Bootstrap::default().run(&[large], 0.95, |r| r[0].auroc().ok());
    assert!(found.unwrap().value.is_some());
}

#[test]
fn an_absent_class_is_a_state() {
    let (scores, labels) = ([0.1, 0.2], [false, false]);
    assert_eq!(auroc(&scores, &labels), Ok(None));
    let negatives = Cases::complete(&scores, &labels).unwrap();
    let none = Ranked::new(&negatives).auroc();
    assert_eq!(none, Err(Undefined { n_pos: 0, n_neg: 2 }));
    let empty = Cases::new(&[], &[]).unwrap();
    let ranked = Ranked::new(&empty);
    assert!(ranked.auroc().is_err() && ranked.roc_curve().is_err());
    assert!(ranked.average_precision().is_err() && AucEstimate::new(&empty).is_err());
}

#[test]
fn scores_that_are_not_finite_name_their_case() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let error = Cases::complete(&[0.5, value], &[true, false]).unwrap_err();
        assert!(matches!(error, Error::NonFiniteScore { index: 1, .. }));
        // Also where the label is missing: the model is at fault all the same.
        assert!(Cases::new(&[0.5, value], &[Some(true), None]).is_err());
    }
    let error = labels_from_f64(&[0.0, f64::NAN, 2.0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "label of case 2 is 2: expected 0, 1 or NaN (missing)"
    );
}

#[test]
fn one_bit_tells_scores_apart() {
    let next = f64::from_bits(0.7f64.to_bits() + 1);
    assert_eq!(auroc(&[0.7, next], &[false, true]).unwrap(), Some(1.0));
    assert_eq!(auroc(&[next, 0.7], &[false, true]).unwrap(), Some(0.0));
    assert_eq!(auroc(&[0.7, 0.7], &[false, true]).unwrap(), Some(0.5));
    assert_eq!(auroc(&[-0.0, 0.0], &[false, true]).unwrap(), Some(0.5));
    let tiny = f64::from_bits(1);
    assert_eq!(auroc(&[-tiny, tiny], &[false, true]).unwrap(), Some(1.0));
}

/// 80 000 positives by 80 000 negatives are 6.4e9 pairs, beyond 2^32.
#[test]
fn pair_counts_beyond_32_bits() {
    let n = 160_000u64;
    let scores: Vec<f64> = (0..n).map(|i| (i * 7_919 % n) as f64).collect();
    // Within each block of four ranks the positives are the first and the last: AUROC one half.
    let labels: Vec<bool> = scores
        .iter()
        .map(|s| matches!(*s as u64 % 4, 0 | 3))
        .collect();
    assert_eq!(labels.iter().filter(|l| **l).count() as u64, n / 2);
    assert_eq!(auroc(&scores, &labels).unwrap(), Some(0.5));
    let e = estimate(&scores, &labels);
    // With continuous scores and no signal the variance is (m + n + 1) / (12 m n).
    let expected = (n + 1) as f64 / (12.0 * (n / 2) as f64 * (n / 2) as f64);
    assert!((e.variance().unwrap() / expected - 1.0).abs() < 1e-4);
}

/// Squares and products of sums must stay numbers.
#[test]
fn weights_outside_their_bounds_are_refused_by_case() {
    let cases = Cases::complete(&[0.1, 0.4, 0.2, 0.3], &[false, true, true, false]).unwrap();
    let with = |weight: f64| cases.clone().with_weights(&[1.0, 1.0, weight, 1.0]);
    for weight in [0.0, 1e-60, 1e60] {
        let weighted = with(weight).unwrap();
        let estimate = AucEstimate::new(&weighted).unwrap();
        assert!((0.0..=1.0).contains(&estimate.auroc()), "{weight}");
        let variance = estimate.variance();
        assert!(
            variance.is_none_or(f64::is_finite),
            "{weight}: {variance:?}"
        );
    }
    for weight in [0.99e-60, 1.01e60, f64::INFINITY, f64::NAN, -1e-60] {
        let error = with(weight).unwrap_err();
        assert!(matches!(error, Error::InvalidWeight { index: 2, .. }));
        let expected = "weights must be 0, or between 1e-60 and 1e60";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn weights_and_clusters_reach_the_variance() {
    let scores: Vec<f64> = (0..60).map(|i| f64::from(i * 37 % 60)).collect();
    let labels: Vec<bool> = (0..60).map(|i| i * 37 % 60 + i % 7 * 5 > 40).collect();
    let cases = Cases::complete(&scores, &labels).unwrap();
    let plain = AucEstimate::new(&cases).unwrap();
    let ones = cases.clone().with_weights(&[1.0; 60]).unwrap();
    let weighted = AucEstimate::new(&ones).unwrap();
    assert!((weighted.variance().unwrap() - plain.variance().unwrap()).abs() < 1e-15);
    // A case of weight 0 is no case.
    let mut weights = vec![1.0; 60];
    weights[..20].fill(0.0);
    let dropped = AucEstimate::new(&cases.clone().with_weights(&weights).unwrap()).unwrap();
    let rest = estimate(&scores[20..], &labels[20..]);
    assert!((dropped.auroc() - rest.auroc()).abs() < 1e-15);
    assert!((dropped.variance().unwrap() - rest.variance().unwrap()).abs() < 1e-15);
    let bad = cases.clone().with_weights(&[-1.0; 60]).unwrap_err();
    assert!(matches!(bad, Error::InvalidWeight { index: 0, .. }));
    // Every volume twice, told apart as volumes or known to be of one patient.
    let twice = |v: &[f64]| [v, v].concat();
    let patients: Vec<u32> = (0..120).map(|i| i % 60).collect();
    let doubled = Cases::complete(&twice(&scores), &[&labels[..], &labels].concat()).unwrap();
    let naive = AucEstimate::new(&doubled).unwrap().variance().unwrap();
    let clustered = doubled.with_clusters(&patients).unwrap();
    let clustered = AucEstimate::new(&clustered).unwrap().variance().unwrap();
    assert!((clustered / plain.variance().unwrap() - 1.0).abs() < 1e-12);
    assert!((naive / clustered - 0.5).abs() < 0.02);
    assert_eq!(cluster_ids(&["b", "a", "b"]), [0, 1, 0]);
}
