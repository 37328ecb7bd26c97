//! Numbers that others have published for data that can be had.

use uniferum_metrics::{
    AucEstimate, Cases, IntervalMethod, Ranked, RocRegion, ThresholdRule, auroc_interval,
    compare_auroc, covariance_matrix, equality_test, special,
};

/// Albumin, 10 - Kerr-Goyal score, total protein; and the outcome (1: no benefit of surgery).
fn ovarian() -> (Vec<[f64; 3]>, Vec<bool>) {
    include_str!("data/ovarian_1988.csv")
        .lines()
        .skip(1)
        .map(|line| {
            let v: Vec<f64> = line.split(',').map(|v| v.parse().unwrap()).collect();
            ([v[0], 10.0 - v[2], v[1]], v[3] == 1.0)
        })
        .unzip()
}

fn estimates() -> Vec<AucEstimate> {
    let (rows, labels) = ovarian();
    (0..3)
        .map(|k| {
            let scores: Vec<f64> = rows.iter().map(|r| r[k]).collect();
            AucEstimate::new(&Cases::complete(&scores, &labels).unwrap()).unwrap()
        })
        .collect()
}

fn rounds_to(value: f64, printed: f64, digits: i32) -> bool {
    (value - printed).abs() <= 0.5 * 10f64.powi(-digits)
}

/// DeLong et al. 1988, in the printing of the SAS/STAT manual (PROC LOGISTIC, example on ROC).
#[test]
fn ovarian_cancer_areas_and_errors() {
    let printed = [(0.7366, 0.0927), (0.7258, 0.1028), (0.6478, 0.1000)];
    for (estimate, (area, error)) in estimates().iter().zip(printed) {
        assert!(rounds_to(estimate.auroc(), area, 4), "{}", estimate.auroc());
        assert!(rounds_to(estimate.variance().unwrap().sqrt(), error, 4));
    }
}

#[test]
fn ovarian_cancer_differences() {
    let estimates = estimates();
    let cov = covariance_matrix(&estimates).unwrap();
    let difference = |a: usize, b: usize| {
        let c = |i: usize, j: usize| cov[i][j].unwrap();
        let variance = c(a, a) + c(b, b) - 2.0 * c(a, b);
        (estimates[a].auroc() - estimates[b].auroc(), variance.sqrt())
    };
    let (d, se) = difference(0, 1);
    assert!(
        rounds_to(d, 0.0108, 4) && rounds_to(se, 0.0953, 4),
        "{d} {se}"
    );
    let (d, se) = difference(2, 1);
    assert!(
        rounds_to(d, -0.0780, 4) && rounds_to(se, 0.1046, 4),
        "{d} {se}"
    );
}

/// The joint test of all three areas, same printing.
#[test]
fn ovarian_cancer_joint_test() {
    let test = equality_test(&estimates()).unwrap().unwrap();
    assert_eq!(test.df, 2);
    assert!(rounds_to(test.statistic, 2.5340, 4), "{}", test.statistic);
    assert!(rounds_to(test.p_value, 0.2817, 4), "{}", test.p_value);
}

const WFNS: usize = 0;
const S100B: usize = 1;
const NDKA: usize = 2;

/// WFNS grade, S100b, NDKA; and the outcome (1: poor). Turck et al. 2010.
fn asah() -> Vec<Cases> {
    let rows: Vec<Vec<f64>> = include_str!("data/asah_2010.csv")
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|v| v.parse().unwrap()).collect())
        .collect();
    let labels: Vec<bool> = rows.iter().map(|r| r[0] == 1.0).collect();
    (1..4)
        .map(|k| {
            let scores: Vec<f64> = rows.iter().map(|r| r[k]).collect();
            Cases::complete(&scores, &labels).unwrap()
        })
        .collect()
}

fn agrees(got: f64, expected: f64) -> bool {
    (got - expected).abs() < 1e-12
}

/// Numbers that the tests of the R package pROC pin for these data.
#[test]
fn haemorrhage_areas_variances_and_covariances() {
    let cases = asah();
    let estimates: Vec<AucEstimate> = cases.iter().map(|c| AucEstimate::new(c).unwrap()).collect();
    let auroc = |k: usize| estimates[k].auroc();
    assert!(agrees(auroc(WFNS), 0.823678861788618));
    assert!(agrees(auroc(NDKA), 0.611957994579946));
    let cov = covariance_matrix(&estimates).unwrap();
    let expected = [
        (WFNS, WFNS, 0.00146991470882363),
        (NDKA, NDKA, 0.0031908105493913),
        (S100B, S100B, 0.00266868245717244),
        (WFNS, NDKA, -0.000532967856762438),
        (NDKA, S100B, -0.000756164938056579),
        (S100B, WFNS, 0.00119615567376754),
    ];
    for (a, b, value) in expected {
        assert!(agrees(cov[a][b].unwrap(), value), "{a} {b}");
    }
    let interval = auroc_interval(&estimates[NDKA], 0.95, IntervalMethod::Wald);
    let interval = interval.unwrap().unwrap();
    assert!(agrees(interval.low, 0.501244999271703));
    assert!(agrees(interval.high, 0.722670989888189));
}

/// pROC takes the normal law: its p-values and limits follow from `z` and the standard error, and
/// Student's law must be a little more careful.
#[test]
fn haemorrhage_paired_tests() {
    let cases = asah();
    let estimate = |k: usize| AucEstimate::new(&cases[k]).unwrap();
    let expected = [
        (
            WFNS,
            S100B,
            2.20898359144091,
            0.0271757822291882,
            0.0104061769564846,
            0.174214419249478,
        ),
        (
            WFNS,
            NDKA,
            2.79777591868904,
            0.00514557970691098,
            0.0634011709339876,
            0.3600405634833566,
        ),
        (
            NDKA,
            S100B,
            -1.39077002573558,
            0.164295175223054,
            -0.2876917446341914,
            0.0488706064228094,
        ),
    ];
    for (a, b, z, p, low, high) in expected {
        let test = compare_auroc(&estimate(a), &estimate(b), 0.95).unwrap();
        assert!(agrees(test.z.unwrap(), z), "{test:?}");
        assert!(agrees(special::two_sided_p(z), p));
        let (d, se) = (test.difference.unwrap(), test.std_err.unwrap());
        let half = special::normal_quantile(0.975) * se;
        assert!(agrees(d - half, low) && agrees(d + half, high), "{test:?}");
        let student = test.p_value.unwrap();
        assert!(p < student && student < 1.1 * p + 0.002, "{test:?}");
        assert!(test.ci_low.unwrap() < low && high < test.ci_high.unwrap());
    }
}

#[test]
fn haemorrhage_partial_areas() {
    let cases = asah();
    // pROC speaks of specificities; false-positive rates are their complements.
    let specificity = |high: f64, low: f64| RocRegion::Fpr {
        low: 1.0 - high,
        high: 1.0 - low,
    };
    let sensitivity = |high: f64, low: f64| RocRegion::Sensitivity { low, high };
    let area = |k: usize, region| {
        let ranked = Ranked::new(&cases[k]);
        ranked.partial_auroc(region).unwrap().unwrap()
    };
    let expected = [
        (WFNS, specificity(1.0, 0.9), 0.0334417344173442),
        (WFNS, specificity(0.9, 0.8), 0.0598373983739837),
        (WFNS, specificity(0.5, 0.0), 0.488134475939354),
        (NDKA, specificity(1.0, 0.9), 0.0107046070460705),
        (NDKA, specificity(0.9, 0.8), 0.0277777777777778),
        (WFNS, sensitivity(1.0, 0.9), 0.0400999322493225),
        (WFNS, sensitivity(0.9, 0.8), 0.0609953703703703),
        (NDKA, sensitivity(0.5, 0.0), 0.428523035230352),
        (WFNS, specificity(1.0, 0.0), 0.823678861788618),
        (NDKA, sensitivity(1.0, 0.0), 0.611957994579946),
    ];
    for (k, region, value) in expected {
        assert!(agrees(area(k, region).area, value), "{k} {region:?}");
    }
    let standardised = [
        (WFNS, specificity(1.0, 0.9), 0.649693339038653),
        (NDKA, specificity(0.9, 0.8), 0.575163398692811),
        (WFNS, sensitivity(1.0, 0.9), 0.68473648552275),
    ];
    for (k, region, value) in standardised {
        assert!(
            agrees(area(k, region).standardised, value),
            "{k} {region:?}"
        );
    }
}

/// pROC's best threshold of S100b is 0.205.
#[test]
fn haemorrhage_best_threshold() {
    let cases = asah();
    let best = Ranked::new(&cases[S100B]).best_threshold(ThresholdRule::Youden);
    assert!(agrees(best.unwrap().threshold, 0.205));
}
