//! Numbers of scikit-learn and scipy; `tests/data/generate_goldens.py` writes them.

use serde_json::Value;
use uniferum_metrics::{
    Binning, Cases, OperatingPoint, Overlap, Platt, Ranked, RocRegion, Temperature,
    benjamini_hochberg, special,
};

fn golden() -> Value {
    serde_json::from_str(include_str!("data/goldens.json")).unwrap()
}

fn number(golden: &Value, key: &str) -> f64 {
    golden[key].as_f64().unwrap_or_else(|| panic!("{key}"))
}

fn numbers(golden: &Value, key: &str) -> Vec<f64> {
    let values = golden[key].as_array().unwrap_or_else(|| panic!("{key}"));
    values.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn flags(golden: &Value, key: &str) -> Vec<bool> {
    numbers(golden, key).iter().map(|v| *v == 1.0).collect()
}

fn cases(golden: &Value, scores: &str) -> Cases {
    Cases::complete(&numbers(golden, scores), &flags(golden, "labels")).unwrap()
}

#[track_caller]
fn close(got: f64, expected: f64, tolerance: f64) {
    let error = (got - expected).abs();
    assert!(
        error <= tolerance * (1.0 + expected.abs()),
        "got {got}, the peer has {expected}; regenerate with tests/data/generate_goldens.py"
    );
}

#[test]
fn areas() {
    let g = golden();
    let cases = cases(&g, "logits");
    let ranked = Ranked::new(&cases);
    close(ranked.auroc().unwrap(), number(&g, "auroc"), 1e-14);
    close(
        ranked.auroc().unwrap(),
        number(&g, "auroc_mann_whitney"),
        1e-14,
    );
    close(
        ranked.average_precision().unwrap(),
        number(&g, "auprc"),
        1e-13,
    );
    let region = RocRegion::Fpr {
        low: 0.0,
        high: 0.2,
    };
    let partial = ranked.partial_auroc(region).unwrap().unwrap();
    close(
        partial.standardised,
        number(&g, "partial_auroc_fpr_0.2"),
        1e-13,
    );
    let weighted = cases.clone().with_weights(&numbers(&g, "weights")).unwrap();
    let ranked = Ranked::new(&weighted);
    close(ranked.auroc().unwrap(), number(&g, "auroc_weighted"), 1e-13);
    close(
        ranked.average_precision().unwrap(),
        number(&g, "auprc_weighted"),
        1e-13,
    );
}

#[test]
fn curves() {
    let g = golden();
    let cases = cases(&g, "probabilities");
    let ranked = Ranked::new(&cases);
    let roc = ranked.roc_curve().unwrap();
    let (fpr, tpr) = (numbers(&g, "roc_fpr"), numbers(&g, "roc_tpr"));
    assert_eq!(roc.len(), fpr.len());
    for ((point, fpr), tpr) in roc.iter().zip(fpr).zip(tpr) {
        close(point.fpr, fpr, 1e-15);
        close(point.tpr, tpr, 1e-15);
    }
    let curve = ranked.pr_curve().unwrap();
    let (precision, recall) = (numbers(&g, "pr_precision"), numbers(&g, "pr_recall"));
    assert_eq!(curve.len(), precision.len());
    for ((point, precision), recall) in curve.iter().zip(precision).zip(recall) {
        close(point.precision, precision, 1e-15);
        close(point.recall, recall, 1e-15);
    }
}

#[test]
fn operating_point() {
    let g = golden();
    let cases = cases(&g, "probabilities");
    let point = OperatingPoint::new(&Ranked::new(&cases), number(&g, "threshold"), 0.95).unwrap();
    let counts = serde_json::to_value(point.confusion).unwrap();
    for key in ["tp", "fp", "fn", "tn"] {
        assert_eq!(counts[key].as_f64(), g["confusion"][key].as_f64(), "{key}");
    }
    close(point.f1.unwrap(), number(&g, "f1"), 1e-15);
}

#[test]
fn calibration() {
    let g = golden();
    let cases = cases(&g, "probabilities");
    let ranked = Ranked::new(&cases);
    let ten = Binning::EqualWidth(10);
    let brier = ranked.brier(ten).unwrap().unwrap();
    close(brier.score, number(&g, "brier"), 1e-14);
    close(
        ranked.log_loss().unwrap().unwrap(),
        number(&g, "log_loss"),
        1e-13,
    );
    let curve = ranked.calibration_curve(ten, 0.95).unwrap();
    let observed = numbers(&g, "calibration_observed");
    let predicted = numbers(&g, "calibration_predicted");
    assert_eq!(curve.len(), observed.len());
    for ((bin, observed), predicted) in curve.iter().zip(observed).zip(predicted) {
        close(bin.observed, observed, 1e-14);
        close(bin.predicted, predicted, 1e-14);
    }
    let line = ranked.calibration_line().unwrap().unwrap();
    close(line.slope, number(&g, "calibration_slope"), 1e-5);
    close(line.intercept, number(&g, "calibration_intercept"), 1e-5);
    let weighted = cases.clone().with_weights(&numbers(&g, "weights")).unwrap();
    let brier = Ranked::new(&weighted).brier(ten).unwrap().unwrap();
    close(brier.score, number(&g, "brier_weighted"), 1e-13);
}

#[test]
fn recalibration() {
    let g = golden();
    let cases = cases(&g, "logits");
    let ranked = Ranked::new(&cases);
    let temperature = Temperature::fit(&ranked).unwrap();
    // The peer's minimiser stops at about the square root of the precision.
    close(temperature.temperature, number(&g, "temperature"), 1e-6);
    let platt = Platt::fit(&ranked).unwrap();
    close(platt.slope, number(&g, "platt_slope"), 1e-4);
    close(platt.intercept, number(&g, "platt_intercept"), 1e-4);
}

#[test]
fn corrections_and_distributions() {
    let g = golden();
    let p: Vec<Option<f64>> = numbers(&g, "p_values").into_iter().map(Some).collect();
    for (got, expected) in benjamini_hochberg(&p).iter().zip(numbers(&g, "p_bh")) {
        close(got.unwrap(), expected, 1e-15);
    }
    for pair in g["normal_quantiles"].as_array().unwrap() {
        let at = |i: usize| pair[i].as_f64().unwrap();
        close(special::normal_quantile(at(0)), at(1), 1e-13);
    }
    for row in g["chi_squared_tails"].as_array().unwrap() {
        let at = |i: usize| row[i].as_f64().unwrap();
        close(special::chi_squared_sf(at(0), at(1)), at(2), 1e-12);
    }
    for row in g["wilson"].as_array().unwrap() {
        let at = |i: usize| row[i].as_f64().unwrap();
        let (hits, n) = (at(0) as usize, at(1) as usize);
        // Sensitivity of `hits` found among `n` positives.
        let scores: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < hits))).collect();
        let cases = Cases::complete(&scores, &vec![true; n]).unwrap();
        let point = OperatingPoint::new(&Ranked::new(&cases), 0.5, 0.95).unwrap();
        let share = point.sensitivity.unwrap();
        close(share.ci_low, at(2), 1e-12);
        close(share.ci_high, at(3), 1e-12);
    }
}

#[test]
fn overlap() {
    let g = golden();
    let overlap = Overlap::new(&flags(&g, "mask_a"), &flags(&g, "mask_b")).unwrap();
    close(overlap.dice().unwrap(), number(&g, "dice"), 1e-14);
    close(overlap.iou().unwrap(), number(&g, "iou"), 1e-14);
}
