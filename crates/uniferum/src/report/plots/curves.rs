//! ROC, precision-recall and calibration curves.

use uniferum_metrics::{Ranked, Undefined};

use super::canvas::{self, Pen};

/// Side of the square that holds the curves, axes included, in CSS pixels.
const SQUARE: f64 = 400.0;
/// No picture shows smaller steps; a curve of ten million points becomes one of a thousand.
const STEP: f64 = 1.0 / 1500.0;

/// A receiver operating characteristic.
#[derive(Debug, Clone, PartialEq)]
pub struct RocCurve {
    /// Name in the legend.
    pub name: String,
    /// False-positive rates, ascending.
    pub fpr: Vec<f64>,
    /// True-positive rates, as many.
    pub tpr: Vec<f64>,
    /// Area for the legend.
    pub auroc: Option<f64>,
    /// Confidence interval for the legend.
    pub ci: Option<(f64, f64)>,
}

impl RocCurve {
    /// The empirical curve of sorted cases.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    pub fn new(
        name: impl Into<String>,
        ranked: &Ranked<'_>,
        ci: Option<(f64, f64)>,
    ) -> Result<Self, Undefined> {
        let points = ranked.roc_curve()?;
        Ok(RocCurve {
            name: name.into(),
            fpr: points.iter().map(|p| p.fpr).collect(),
            tpr: points.iter().map(|p| p.tpr).collect(),
            auroc: Some(ranked.auroc()?),
            ci,
        })
    }
}

/// A precision-recall curve.
#[derive(Debug, Clone, PartialEq)]
pub struct PrCurve {
    /// Name in the legend.
    pub name: String,
    /// Recalls, ascending.
    pub recall: Vec<f64>,
    /// Precisions, as many; each holds from the recall before up to its own.
    pub precision: Vec<f64>,
    /// Average precision for the legend.
    pub auprc: Option<f64>,
    /// Confidence interval for the legend.
    pub ci: Option<(f64, f64)>,
    /// Share of positives: the chance level, drawn as a dashed line.
    pub prevalence: Option<f64>,
}

impl PrCurve {
    /// The empirical curve of sorted cases.
    ///
    /// # Errors
    /// [`Undefined`] unless both classes are present.
    pub fn new(
        name: impl Into<String>,
        ranked: &Ranked<'_>,
        ci: Option<(f64, f64)>,
    ) -> Result<Self, Undefined> {
        let points = ranked.pr_curve()?;
        Ok(PrCurve {
            name: name.into(),
            recall: points.iter().map(|p| p.recall).collect(),
            precision: points.iter().map(|p| p.precision).collect(),
            auprc: Some(ranked.average_precision()?),
            ci,
            prevalence: ranked.cases().prevalence(),
        })
    }
}

/// A group of cases of like probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrationPoint {
    /// Mean probability that was predicted.
    pub predicted: f64,
    /// Share of positives that was observed.
    pub observed: f64,
    /// Confidence interval of `observed`.
    pub ci: Option<(f64, f64)>,
}

/// A calibration curve.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationCurve {
    /// Name in the legend.
    pub name: String,
    /// Points by ascending prediction.
    pub points: Vec<CalibrationPoint>,
    /// Expected calibration error for the legend.
    pub ece: Option<f64>,
}

/// ROC curves in one square with the chance diagonal; AUROC and interval stand in the legend.
pub fn roc_svg(curves: &[RocCurve]) -> String {
    let chance = (vec![(0.0, 0.0), (1.0, 1.0)], Pen::reference());
    let mut paths = vec![chance];
    let mut names = Vec::new();
    for (i, curve) in curves.iter().enumerate() {
        let points = curve.fpr.iter().copied().zip(curve.tpr.iter().copied());
        paths.push((thinned(points), Pen::of(i)));
        names.push((entry(&curve.name, curve.auroc, curve.ci), Pen::of(i)));
    }
    names.push(("chance 0.5".to_owned(), Pen::reference()));
    let axes = (
        "False-positive rate (1 - specificity)",
        "True-positive rate (sensitivity)",
    );
    square("ROC curves", axes, &paths, &[], &names)
}

/// Precision-recall curves in one square, each with its prevalence as a dashed line; average precision
/// stands in the legend.
pub fn pr_svg(curves: &[PrCurve]) -> String {
    let (mut paths, mut names) = (Vec::new(), Vec::new());
    for (i, curve) in curves.iter().enumerate() {
        if let Some(level) = curve.prevalence {
            paths.push((vec![(0.0, level), (1.0, level)], Pen::of(i).faint()));
        }
        // Average precision is the area under steps, so steps are what is drawn.
        let points = curve.recall.iter().copied().zip(curve.precision.iter());
        let mut before = 0.0;
        let steps = points.flat_map(|(recall, &precision)| {
            let start = std::mem::replace(&mut before, recall);
            [(start, precision), (recall, precision)]
        });
        paths.push((thinned(steps), Pen::of(i)));
        names.push((entry(&curve.name, curve.auprc, curve.ci), Pen::of(i)));
    }
    if curves.iter().any(|c| c.prevalence.is_some()) {
        names.push(("chance: the prevalence".to_owned(), Pen::reference()));
    }
    let axes = ("Recall (sensitivity)", "Precision (PPV)");
    square("Precision-recall curves", axes, &paths, &[], &names)
}

/// Observed against predicted shares with intervals; on the diagonal they agree.
pub fn calibration_svg(curves: &[CalibrationCurve]) -> String {
    let ideal = (vec![(0.0, 0.0), (1.0, 1.0)], Pen::reference());
    let (mut paths, mut names, mut dots) = (vec![ideal], Vec::new(), Vec::new());
    for (i, curve) in curves.iter().enumerate() {
        let pen = Pen::of(i);
        for point in &curve.points {
            dots.push(((point.predicted, point.observed), pen));
            if let Some((low, high)) = point.ci {
                let bar = vec![(point.predicted, low), (point.predicted, high)];
                paths.push((bar, pen.thin()));
            }
        }
        let line = curve.points.iter().map(|p| (p.predicted, p.observed));
        paths.push((line.collect(), pen));
        let ece = curve
            .ece
            .map_or(String::new(), |e| format!(" (ECE {e:.3})"));
        names.push((format!("{}{ece}", curve.name), pen));
    }
    names.push(("perfect calibration".to_owned(), Pen::reference()));
    let axes = ("Predicted probability", "Observed share of positives");
    square("Calibration curves", axes, &paths, &dots, &names)
}

fn square(
    title: &str,
    axes: (&str, &str),
    paths: &[(Vec<(f64, f64)>, Pen)],
    dots: &[((f64, f64), Pen)],
    names: &[(String, Pen)],
) -> String {
    let (legend_width, legend_height) = canvas::legend_size(names);
    let (width, height) = (SQUARE + 20.0 + legend_width, SQUARE.max(legend_height));
    canvas::svg(title, width, height, |sheet| {
        let (left, right) = sheet.split_horizontally(canvas::px(SQUARE + 20.0));
        let (plot, _) = left.split_vertically(canvas::px(SQUARE));
        canvas::unit_square(&plot, axes, paths, dots)?;
        canvas::legend(&right, names)
    })
}

/// `name 0.912 (0.880 to 0.940)`.
fn entry(name: &str, value: Option<f64>, ci: Option<(f64, f64)>) -> String {
    match (value, ci) {
        (None, _) => name.to_owned(),
        (Some(value), None) => format!("{name} {value:.3}"),
        (Some(value), Some((low, high))) => format!("{name} {value:.3} ({low:.3} to {high:.3})"),
    }
}

/// Leaves out points that lie less than [`STEP`] from the last one kept, never the last of all.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut kept: Vec<(f64, f64)> = Vec::new();
    let mut skipped = None;
    for point in points {
        match kept.last() {
            Some(last) if (point.0 - last.0).abs().max((point.1 - last.1).abs()) < STEP => {
                skipped = Some(point);
            }
            _ => {
                kept.push(point);
                skipped = None;
            }
        }
    }
    kept.extend(skipped);
    kept
}

#[cfg(test)]
mod tests {
    use uniferum_metrics::Cases;

    use super::*;

    #[test]
    fn a_curve_of_many_points_stays_small() {
        let n = 200_000;
        let scores: Vec<f64> = (0..n).map(|i| f64::from((i * 7919) % n)).collect();
        let labels: Vec<bool> = (0..n).map(|i| (i * 7919) % n > (i * 31) % n).collect();
        let cases = Cases::complete(&scores, &labels).unwrap();
        let ranked = Ranked::new(&cases);
        let roc = roc_svg(&[RocCurve::new("many", &ranked, None).unwrap()]);
        let pr = pr_svg(&[PrCurve::new("many", &ranked, None).unwrap()]);
        assert!(roc.len() < 60_000 && pr.len() < 60_000, "{}", roc.len());
    }

    #[test]
    fn thinning_keeps_the_shape() {
        let fine: Vec<(f64, f64)> = (0..=10_000)
            .map(|i| (f64::from(i) / 1e4, (f64::from(i) / 1e4).sqrt()))
            .collect();
        let kept = thinned(fine.iter().copied());
        assert!(kept.len() < 3000);
        assert_eq!((kept[0], kept[kept.len() - 1]), (fine[0], fine[10_000]));
        for pair in kept.windows(2) {
            assert!(pair[1].0 - pair[0].0 < 2.0 * STEP);
        }
    }

    #[test]
    fn axes_chance_and_legend_are_there_and_ink_follows_the_text() {
        let curve = |name: &str| RocCurve {
            name: name.into(),
            fpr: vec![0.0, 0.0, 1.0],
            tpr: vec![0.0, 0.7, 1.0],
            auroc: Some(0.85),
            ci: Some((0.8, 0.9)),
        };
        let svg = roc_svg(&[curve("a<b"), curve("c")]);
        for text in [
            "False-positive rate",
            "sensitivity",
            "chance 0.5",
            "a&lt;b 0.850 (0.800 to 0.900)",
            "currentColor",
        ] {
            assert!(svg.contains(text), "{text} is missing");
        }
        assert!(!svg.contains("#000000") && !svg.contains("http"));
        assert_eq!(svg.matches("<svg").count(), 1);
        assert!(svg.ends_with("</svg>"));
    }

    #[test]
    fn nothing_to_show_is_an_empty_square() {
        for svg in [roc_svg(&[]), pr_svg(&[]), calibration_svg(&[])] {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>"));
        }
    }
}
