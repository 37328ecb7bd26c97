//! Numbers that others have published for data that can be had.

use uniferum_metrics::{AucEstimate, Cases, covariance_matrix};

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
