use serde::{Deserialize, Serialize};

use crate::delong::{AucEstimate, covariance_matrix};
use crate::error::Result;
use crate::special::chi_squared_sf;

/// A chi-squared test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChiSquared {
    /// The statistic.
    pub statistic: f64,
    /// Degrees of freedom: the rank of the covariance of the differences.
    pub df: usize,
    /// Probability of a larger statistic if all areas are equal.
    pub p_value: f64,
}

/// Tests whether several AUROCs over the same rows are all equal.
///
/// `None` when a variance is undefined, no difference varies (all models identical), or one is not zero and
/// does not vary, as of a perfect and a constant score: no chi-squared says anything of that.
///
/// # Errors
/// As [`AucEstimate::covariance`].
///
/// # Reference
/// DeLong, DeLong & Clarke-Pearson 1988, equation 5.
pub fn equality_test(estimates: &[AucEstimate]) -> Result<Option<ChiSquared>> {
    let Some((first, others)) = estimates.split_first() else {
        return Ok(None);
    };
    let covariance: Option<Vec<Vec<f64>>> = covariance_matrix(estimates)?
        .into_iter()
        .map(|row| row.into_iter().collect())
        .collect();
    let Some(c) = covariance else {
        return Ok(None);
    };
    let k = others.len();
    let contrast = |i: usize, j: usize| c[i + 1][j + 1] - c[i + 1][0] - c[0][j + 1] + c[0][0];
    let matrix: Vec<Vec<f64>> = (0..k)
        .map(|i| (0..k).map(|j| contrast(i, j)).collect())
        .collect();
    let scale: Vec<f64> = (0..k).map(|i| c[i + 1][i + 1] + c[0][0]).collect();
    let differences: Vec<f64> = others.iter().map(|e| e.auroc() - first.auroc()).collect();
    // Of areas that do not vary each must be the same, whichever model comes first.
    let fixed = estimates.iter().zip(0..).filter(|(_, i)| c[*i][*i] == 0.0);
    let mut fixed = fixed.map(|(e, _)| e.auroc());
    if let Some(one) = fixed.next()
        && fixed.any(|other| (other - one).abs() > 1e-12)
    {
        return Ok(None);
    }
    let (statistic, df) = quadratic_form(matrix, differences, &scale);
    Ok((df > 0).then(|| ChiSquared {
        statistic,
        df,
        p_value: chi_squared_sf(statistic, df as f64),
    }))
}

/// `d' M^-1 d` over the part of a positive semidefinite `M` that is not degenerate, and its rank.
fn quadratic_form(mut m: Vec<Vec<f64>>, mut d: Vec<f64>, scale: &[f64]) -> (f64, usize) {
    let (mut statistic, mut rank) = (0.0, 0);
    let mut left: Vec<usize> = (0..d.len()).collect();
    // Gaussian elimination, the largest remaining variance first.
    while let Some(at) = (0..left.len()).max_by(|&a, &b| {
        let share = |i: usize| match scale[left[i]] {
            scale if scale > 0.0 => m[left[i]][left[i]] / scale,
            // Of two areas that do not vary.
            _ => 0.0,
        };
        share(a).total_cmp(&share(b))
    }) {
        let p = left.swap_remove(at);
        let pivot = m[p][p];
        if pivot.is_nan() || pivot <= 1e-10 * scale[p] {
            break;
        }
        statistic += d[p] * d[p] / pivot;
        rank += 1;
        for &i in &left {
            let factor = m[i][p] / pivot;
            d[i] -= factor * d[p];
            for &j in &left {
                m[i][j] -= factor * m[p][j];
            }
        }
    }
    (statistic, rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::compare_auroc;
    use crate::compare::tests::{A, B, LABELS, estimate};

    #[test]
    fn areas_that_do_not_vary_leave_the_others_tested() {
        let perfect: Vec<f64> = (0..8).map(f64::from).collect();
        let mirrored: Vec<f64> = perfect.iter().map(|v| 2.0 * v).collect();
        let of = |scores: &[&[f64]]| {
            let all: Vec<AucEstimate> = scores.iter().map(|s| estimate(s, &LABELS)).collect();
            equality_test(&all).unwrap()
        };
        // Two perfect models do not differ; that the third does is tested as if there were one.
        let three = of(&[&perfect, &mirrored, &A]).unwrap();
        let two = of(&[&perfect, &A]).unwrap();
        assert_eq!((three.df, three.statistic), (two.df, two.statistic));
        // A constant score is half a point away from them, and nothing says how surely.
        for order in [
            [&perfect[..], &[1.0; 8], &A],
            [&A, &perfect, &[1.0; 8]],
            [&[1.0; 8], &A, &perfect],
        ] {
            assert_eq!(of(&order), None);
        }
        assert_eq!(of(&[&perfect, &mirrored]), None);
    }

    #[test]
    fn equality_of_two_is_the_square_of_z() {
        let (a, b) = (estimate(&A, &LABELS), estimate(&B, &LABELS));
        let z = compare_auroc(&a, &b, 0.95).unwrap().z.unwrap();
        // A third model that repeats the first adds no degree of freedom.
        let test = equality_test(&[a.clone(), b, a.clone()]).unwrap().unwrap();
        assert_eq!(test.df, 1);
        assert!((test.statistic - z * z).abs() < 1e-10);
        assert_eq!(equality_test(&[a.clone(), a]).unwrap(), None);
    }
}
