//! Statistical plots as SVG markup for [`html::Page::figures`](super::html::Page::figures).
//!
//! Lines and letters take the colour of the surrounding text, so that a plot is legible in a light and
//! in a dark scheme; the colours of the curves are of middle lightness for the same reason.
//!
//! ```
//! use uniferum::report::plots::{RocCurve, roc_svg};
//! let curve = RocCurve {
//!     name: "nodule".into(),
//!     fpr: vec![0.0, 0.0, 0.5, 1.0],
//!     tpr: vec![0.0, 0.5, 1.0, 1.0],
//!     auroc: Some(0.875),
//!     ci: Some((0.61, 0.97)),
//! };
//! let svg = roc_svg(&[curve]);
//! assert!(svg.starts_with("<svg") && svg.contains("nodule 0.875 (0.610 to 0.970)"));
//! ```

mod canvas;
mod curves;
mod decision;
mod forest;
mod series;

pub use curves::{
    CalibrationCurve, CalibrationPoint, PrCurve, RocCurve, calibration_svg, pr_svg, roc_svg,
};
pub use decision::{DecisionCurve, decision_svg};
pub use forest::{ForestAxis, ForestRow, forest_svg};
pub use series::{Series, series_svg};

#[cfg(test)]
mod tests {
    use uniferum_metrics::{Cases, Ranked};

    use super::super::html::Page;
    use super::*;

    /// Writes a page to look at: `UNIFERUM_PLOTS=/tmp/plots.html cargo test -p uniferum --lib gallery`.
    #[test]
    fn gallery() {
        let curves = (0..10).map(|k| {
            let n = 400 + 40 * k;
            let scores: Vec<f64> = (0..n)
                .map(|i| f64::from(i * 7919 % 1009) / 1009.0)
                .collect();
            let labels = scores.iter().enumerate();
            let labels: Vec<bool> = labels
                .map(|(i, s)| s * f64::from(k + 1) / 6.0 > ((i * 31 + 7) % 101) as f64 / 101.0)
                .collect();
            Cases::complete(&scores, &labels).unwrap()
        });
        let cases: Vec<Cases> = curves.collect();
        let roc = |k: usize| RocCurve::new(format!("finding {k}"), &Ranked::new(&cases[k]), None);
        let pr = |k: usize| PrCurve::new(format!("finding {k}"), &Ranked::new(&cases[k]), None);
        let thresholds: Vec<f64> = (1..20).map(|i| f64::from(i) / 20.0).collect();
        let decision = |k: usize| DecisionCurve {
            name: format!("finding {k}"),
            points: Ranked::new(&cases[k])
                .decision_curve(&thresholds)
                .unwrap()
                .unwrap(),
        };
        let point = |x: f64| CalibrationPoint {
            predicted: x,
            observed: x * x,
            ci: Some((x * x * 0.9, (x * x * 1.1).min(1.0))),
        };
        let calibration = CalibrationCurve {
            name: "finding 1".into(),
            points: (1..10).map(|i| point(f64::from(i) / 10.0)).collect(),
            ece: Some(0.123),
        };
        let row = |k: usize| ForestRow {
            name: format!("finding {k}"),
            value: Some(0.8 + 0.01 * k as f64),
            ci: Some((0.7 + 0.01 * k as f64, 0.9)),
            summary: k == 5,
        };
        let rows: Vec<ForestRow> = (0..6).map(row).collect();
        let mut page = Page::new("Gallery");
        page.figures(&[
            (roc_svg(&[roc(1).unwrap(), roc(4).unwrap()]), "ROC".into()),
            (
                roc_svg(&(0..10).map(|k| roc(k).unwrap()).collect::<Vec<_>>()),
                "Ten".into(),
            ),
            (pr_svg(&[pr(1).unwrap(), pr(4).unwrap()]), "PR".into()),
            (calibration_svg(&[calibration]), "Calibration".into()),
            (forest_svg(&rows, &ForestAxis::auroc()), "Forest".into()),
            (
                decision_svg(&[decision(1), decision(4)]),
                "Decisions".into(),
            ),
        ]);
        let html = page.render();
        assert_eq!(html.matches("<svg").count(), 6);
        assert!(!html.contains("NaN") && !html.contains("http"));
        if let Some(path) = std::env::var_os("UNIFERUM_PLOTS") {
            std::fs::write(path, html).unwrap();
        }
    }
}
