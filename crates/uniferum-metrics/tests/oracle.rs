//! Textbook definitions, term by term and in O(m n), against the fast code.

use proptest::prelude::*;
use uniferum_metrics::{
    AucEstimate, Binning, Cases, Ranked, RocRegion, auroc, compare_auroc, covariance_matrix,
    equality_test,
};

fn kernel(pos: f64, neg: f64) -> f64 {
    if pos > neg {
        1.0
    } else if pos == neg {
        0.5
    } else {
        0.0
    }
}

struct Components {
    area: f64,
    v10: Vec<(usize, f64)>,
    v01: Vec<(usize, f64)>,
}

/// DeLong's structural components by their definition.
fn components(scores: &[f64], labels: &[bool]) -> Components {
    let of = |class: bool| (0..scores.len()).filter(move |&i| labels[i] == class);
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let v10: Vec<_> = of(true)
        .map(|i| {
            (
                i,
                mean(of(false).map(|j| kernel(scores[i], scores[j])).collect()),
            )
        })
        .collect();
    let v01: Vec<_> = of(false)
        .map(|j| {
            (
                j,
                mean(of(true).map(|i| kernel(scores[i], scores[j])).collect()),
            )
        })
        .collect();
    let area = mean(v10.iter().map(|v| v.1).collect());
    Components { area, v10, v01 }
}

fn delong(a: &Components, b: &Components) -> f64 {
    let part = |x: &[(usize, f64)], y: &[(usize, f64)]| {
        let n = x.len() as f64;
        x.iter()
            .zip(y)
            .map(|(x, y)| (x.1 - a.area) * (y.1 - b.area))
            .sum::<f64>()
            / (n - 1.0)
            / n
    };
    part(&a.v10, &b.v10) + part(&a.v01, &b.v01)
}

/// Obuchowski 1997, equations 5 to 8.
fn obuchowski(a: &Components, b: &Components, clusters: &[u32]) -> f64 {
    let n_clusters = clusters.iter().max().unwrap() + 1;
    let (m, n) = (a.v10.len() as f64, a.v01.len() as f64);
    let sum = |v: &[(usize, f64)], c: u32, area: f64| {
        v.iter()
            .filter(|(i, _)| clusters[*i] == c)
            .map(|(_, v)| v - area)
            .sum::<f64>()
    };
    let holds = |v: &[(usize, f64)], c: u32| v.iter().any(|(i, _)| clusters[*i] == c);
    let (mut s10, mut s01, mut s11) = (0.0, 0.0, 0.0);
    let (mut i10, mut i01, mut i) = (0.0, 0.0, 0.0);
    for c in 0..n_clusters {
        let (ap, an) = (sum(&a.v10, c, a.area), sum(&a.v01, c, a.area));
        let (bp, bn) = (sum(&b.v10, c, b.area), sum(&b.v01, c, b.area));
        s10 += ap * bp;
        s01 += an * bn;
        s11 += 0.5 * (ap * bn + an * bp);
        let (has_pos, has_neg) = (holds(&a.v10, c), holds(&a.v01, c));
        i10 += f64::from(has_pos);
        i01 += f64::from(has_neg);
        i += f64::from(has_pos || has_neg);
    }
    s10 *= i10 / (i10 - 1.0) / m;
    s01 *= i01 / (i01 - 1.0) / n;
    s11 *= i / (i - 1.0);
    s10 / m + s01 / n + 2.0 * s11 / (m * n)
}

prop_compose! {
    /// Two models on the same cases, coarse scores so that ties abound, three cases a patient.
    fn two_models()(n in 12usize..60)(
        a in prop::collection::vec(0i32..12, n),
        b in prop::collection::vec(0i32..200, n),
        mut labels in prop::collection::vec(any::<bool>(), n),
        clusters in prop::collection::vec(0u32..(n as u32 / 3), n),
    ) -> (Vec<f64>, Vec<f64>, Vec<bool>, Vec<u32>) {
        for (i, label) in labels.iter_mut().enumerate().take(6) {
            *label = i % 2 == 0;
        }
        let scores = |v: Vec<i32>| v.into_iter().map(|x| f64::from(x) / 8.0).collect();
        (scores(a), scores(b), labels, clusters)
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * (1.0 + a.abs())
}

proptest! {
    #[test]
    fn delong_equals_its_definition((a, b, labels, clusters) in two_models()) {
        let (ca, cb) = (components(&a, &labels), components(&b, &labels));
        let estimate = |s: &[f64]| AucEstimate::new(&Cases::complete(s, &labels).unwrap()).unwrap();
        let (ea, eb) = (estimate(&a), estimate(&b));
        prop_assert!(close(ea.auroc(), ca.area));
        prop_assert!(close(ea.variance().unwrap(), delong(&ca, &ca)));
        prop_assert!(close(ea.covariance(&eb).unwrap().unwrap(), delong(&ca, &cb)));

        let clustered = |s: &[f64]| {
            let cases = Cases::complete(s, &labels).unwrap().with_clusters(&clusters).unwrap();
            AucEstimate::new(&cases).unwrap()
        };
        let (ea, eb) = (clustered(&a), clustered(&b));
        if ea.pos_units() > 1 && ea.neg_units() > 1 {
            let expected = obuchowski(&ca, &ca, &clusters).max(0.0);
            prop_assert!(close(ea.variance().unwrap(), expected));
            let expected = obuchowski(&ca, &cb, &clusters);
            prop_assert!(close(ea.covariance(&eb).unwrap().unwrap(), expected));
        }
    }

    #[test]
    fn clusters_of_one_give_delong((a, _, labels, _) in two_models()) {
        let cases = Cases::complete(&a, &labels).unwrap();
        let own: Vec<u32> = (0..a.len() as u32).rev().collect();
        let plain = AucEstimate::new(&cases).unwrap();
        let clustered = AucEstimate::new(&cases.with_clusters(&own).unwrap()).unwrap();
        prop_assert!(close(plain.variance().unwrap(), clustered.variance().unwrap()));
    }

    #[test]
    fn rank_statistics_keep_their_symmetries((a, b, labels, _) in two_models()) {
        let area = auroc(&a, &labels).unwrap().unwrap();
        // Monotone transforms change nothing.
        let moved: Vec<f64> = a.iter().map(|x| (3.0 * x).exp() - 7.0).collect();
        prop_assert_eq!(auroc(&moved, &labels).unwrap().unwrap(), area);
        // Negated scores and swapped labels mirror.
        let negated: Vec<f64> = a.iter().map(|x| -x).collect();
        let swapped: Vec<bool> = labels.iter().map(|l| !l).collect();
        prop_assert!(close(auroc(&negated, &labels).unwrap().unwrap(), 1.0 - area));
        prop_assert!(close(auroc(&a, &swapped).unwrap().unwrap(), 1.0 - area));
        // The order of the cases does not matter.
        let mut order: Vec<usize> = (0..a.len()).collect();
        order.sort_by(|&i, &j| b[i].total_cmp(&b[j]));
        let (scores, shuffled): (Vec<f64>, Vec<bool>) =
            order.iter().map(|&i| (a[i], labels[i])).unzip();
        prop_assert_eq!(auroc(&scores, &shuffled).unwrap().unwrap(), area);
        // Each case twice, or with weight two, is the same sample.
        let (twice, labels2) = ([a.clone(), a.clone()].concat(), [&labels[..], &labels].concat());
        prop_assert!(close(auroc(&twice, &labels2).unwrap().unwrap(), area));
        let cases = Cases::complete(&a, &labels).unwrap();
        let ap = Ranked::new(&cases).average_precision().unwrap();
        let weighted = cases.with_weights(&vec![2.0; a.len()]).unwrap();
        prop_assert!(close(Ranked::new(&weighted).auroc().unwrap(), area));
        prop_assert!(close(Ranked::new(&weighted).average_precision().unwrap(), ap));
    }

    #[test]
    fn average_precision_and_counts_equal_their_definitions((a, _, labels, _) in two_models()) {
        let cases = Cases::complete(&a, &labels).unwrap();
        let ranked = Ranked::new(&cases);
        let counts = |t: f64, class: bool| {
            (0..a.len()).filter(|&i| a[i] >= t && labels[i] == class).count() as f64
        };
        let precision = |t: f64| counts(t, true) / (counts(t, true) + counts(t, false));
        let positives: Vec<usize> = (0..a.len()).filter(|&i| labels[i]).collect();
        let mean = positives.iter().map(|&i| precision(a[i])).sum::<f64>() / positives.len() as f64;
        prop_assert!(close(ranked.average_precision().unwrap(), mean));
        for t in [-1.0, 0.4, 0.5, 1.0, 9.0] {
            let c = ranked.confusion(t);
            prop_assert_eq!((c.tp, c.fp), (counts(t, true), counts(t, false)));
            prop_assert_eq!(c.tp + c.fn_, positives.len() as f64);
        }
    }

    #[test]
    fn partial_areas_add_up((a, _, labels, _) in two_models(), cut in 0.05f64..0.95) {
        let cases = Cases::complete(&a, &labels).unwrap();
        let ranked = Ranked::new(&cases);
        let area = |r| ranked.partial_auroc(r).unwrap().unwrap().area;
        let fpr = |low, high| area(RocRegion::Fpr { low, high });
        let sensitivity = |low, high| area(RocRegion::Sensitivity { low, high });
        let whole = ranked.auroc().unwrap();
        prop_assert!(close(fpr(0.0, cut) + fpr(cut, 1.0), whole));
        prop_assert!(close(sensitivity(0.0, cut) + sensitivity(cut, 1.0), whole));
    }

    #[test]
    fn variances_and_tests_keep_their_symmetries((a, b, labels, clusters) in two_models()) {
        let build = |s: &[f64], l: &[bool], c: &[u32]| {
            let cases = Cases::complete(s, l).unwrap().with_clusters(c).unwrap();
            AucEstimate::new(&cases).unwrap()
        };
        let (ea, eb) = (build(&a, &labels, &clusters), build(&b, &labels, &clusters));
        prop_assume!(ea.variance().is_some());
        let variance = ea.variance().unwrap();
        let moved: Vec<f64> = a.iter().map(|x| (3.0 * x).exp() - 7.0).collect();
        prop_assert_eq!(build(&moved, &labels, &clusters).variance().unwrap(), variance);
        let negated: Vec<f64> = a.iter().map(|x| -x).collect();
        prop_assert!(close(build(&negated, &labels, &clusters).variance().unwrap(), variance));
        let swapped: Vec<bool> = labels.iter().map(|l| !l).collect();
        prop_assert!(close(build(&a, &swapped, &clusters).variance().unwrap(), variance));
        // The order of cases and the numbers of the clusters do not matter.
        let back = |v: &[f64]| v.iter().rev().copied().collect::<Vec<f64>>();
        let reversed: Vec<bool> = labels.iter().rev().copied().collect();
        let renamed: Vec<u32> = clusters.iter().rev().map(|c| 100 - c).collect();
        let other = build(&back(&a), &reversed, &renamed);
        prop_assert!(close(other.variance().unwrap(), variance));

        let (ab, ba) = (compare_auroc(&ea, &eb, 0.9).unwrap(), compare_auroc(&eb, &ea, 0.9).unwrap());
        prop_assert_eq!(ab.state, ba.state);
        if let (Some(z), Some(y)) = (ab.z, ba.z) {
            prop_assert!(close(z, -y));
            prop_assert!(close(ab.ci_low.unwrap(), -ba.ci_high.unwrap()));
            let joint = equality_test(&[ea.clone(), eb.clone()]).unwrap().unwrap();
            prop_assert!((joint.statistic - z * z).abs() <= 1e-9 * (1.0 + z * z));
        }
        let matrix = covariance_matrix(&[ea, eb]).unwrap();
        let c = |i: usize, j: usize| matrix[i][j].unwrap();
        prop_assert_eq!(c(0, 1), c(1, 0));
    }

    #[test]
    fn parts_of_the_brier_score_add_up((a, _, labels, _) in two_models(), k in 1usize..12) {
        let p: Vec<f64> = a.iter().map(|x| x / 1.5).collect();
        let cases = Cases::complete(&p, &labels).unwrap();
        let ranked = Ranked::new(&cases);
        for binning in [Binning::EqualWidth(k), Binning::EqualMass(k)] {
            let b = ranked.brier(binning).unwrap().unwrap();
            let sum = b.reliability - b.resolution + b.uncertainty + b.within_variance
                - b.within_covariance;
            prop_assert!(close(sum, b.score));
        }
    }
}
