//! The result as a self-contained page with plots.

use std::path::PathBuf;

use uniferum::report::html::Page;
use uniferum::report::plots::{
    CalibrationCurve, CalibrationPoint, DecisionCurve, ForestAxis, ForestRow, PrCurve, RocCurve,
    calibration_svg, decision_svg, forest_svg, pr_svg, roc_svg,
};
use uniferum_metrics::{EvaluateOptions, Ranked};

use super::numbers::{
    CALIBRATION_HEAD, HEAD, OPERATING_HEAD, calibration_rows, footnotes, interval, main_rows,
    operating_rows,
};
use super::{Aligned, Output};

/// Curves in one plot; more cannot be told apart.
const TOGETHER: usize = 8;

pub(super) fn page(output: &Output, cases: &Aligned) -> Page {
    let mut page = Page::new("Evaluation");
    let all = &output.macro_auroc.auroc;
    page.facts(&[
        (
            format!("macro AUROC of {} tasks", all.n_tasks),
            interval(all.value, all.ci_low, all.ci_high),
        ),
        ("cases".into(), output.settings.record.n_cases.to_string()),
    ]);
    let settings = &output.settings;
    page.note(&format!(
        "Scores of {}, labels of {}.",
        names(&settings.predictions),
        names(&settings.labels)
    ));
    page.section("Discrimination");
    page.table(&HEAD, &main_rows(output));
    for note in footnotes(output) {
        page.note(&note);
    }
    page.figures(&[(
        forest(output),
        "AUROC with intervals; dashed: chance".into(),
    )]);
    curves(&mut page, output, cases);
    let operating = operating_rows(output);
    if !operating.is_empty() {
        page.section("At the threshold")
            .table(&OPERATING_HEAD, &operating);
        let from = output.tasks.iter().find_map(|t| t.threshold_from);
        page.note(match from {
            Some("validation") => "Thresholds were chosen on the validation set.",
            _ => "The threshold was given.",
        });
    }
    let calibration = calibration_rows(output);
    if !calibration.is_empty() {
        page.section("Calibration")
            .table(&CALIBRATION_HEAD, &calibration);
        calibration_plots(&mut page, output);
    }
    decision_plots(&mut page, output);
    page
}

fn forest(output: &Output) -> String {
    let row = |name: &str, value, low: Option<f64>, high: Option<f64>, summary| ForestRow {
        name: name.to_owned(),
        value,
        ci: low.zip(high),
        summary,
    };
    let tasks = output.tasks.iter().map(|t| &t.metrics);
    let mut rows: Vec<ForestRow> = tasks
        .map(|m| row(&m.task, m.auroc, m.ci_low, m.ci_high, false))
        .collect();
    let all = &output.macro_auroc.auroc;
    rows.push(row(
        "macro average",
        all.value,
        all.ci_low,
        all.ci_high,
        true,
    ));
    forest_svg(&rows, &ForestAxis::auroc())
}

fn curves(page: &mut Page, output: &Output, cases: &Aligned) {
    let options = EvaluateOptions {
        weights: cases.weights.as_deref(),
        ..Default::default()
    };
    let (mut roc, mut pr) = (Vec::new(), Vec::new());
    for (column, task) in cases.columns(0).iter().zip(&output.tasks) {
        // The same cases were judged before, so what is undefined is left out here as there.
        let Ok(cases) = options.cases(column) else {
            continue;
        };
        let ranked = Ranked::new(&cases);
        let (m, d) = (&task.metrics, &task.details);
        roc.extend(RocCurve::new(&m.task, &ranked, m.ci_low.zip(m.ci_high)));
        pr.extend(PrCurve::new(
            &m.task,
            &ranked,
            d.auprc_ci_low.zip(d.auprc_ci_high),
        ));
    }
    let figures = roc
        .chunks(TOGETHER)
        .zip(pr.chunks(TOGETHER))
        .flat_map(|(roc, pr)| {
            [
                (roc_svg(roc), "Receiver operating characteristic".to_owned()),
                (
                    pr_svg(pr),
                    "Precision and recall; dashed: the prevalence".to_owned(),
                ),
            ]
        });
    let figures: Vec<(String, String)> = figures.collect();
    page.section("Curves").figures(&figures);
}

fn calibration_plots(page: &mut Page, output: &Output) {
    let curve = |t: &super::TaskOutput| CalibrationCurve {
        name: t.metrics.task.clone(),
        points: t
            .details
            .calibration_curve
            .iter()
            .map(|b| CalibrationPoint {
                predicted: b.predicted,
                observed: b.observed,
                ci: Some((b.ci_low, b.ci_high)),
            })
            .collect(),
        ece: t.details.ece,
    };
    let judged = output.tasks.iter().filter(|t| t.details.brier.is_some());
    let curves: Vec<CalibrationCurve> = judged.map(curve).collect();
    // Intervals overlap: fewer together than in the other plots.
    let figures: Vec<(String, String)> = curves
        .chunks(TOGETHER / 2)
        .map(|c| {
            (
                calibration_svg(c),
                "Observed share against probability".to_owned(),
            )
        })
        .collect();
    page.figures(&figures);
}

fn decision_plots(page: &mut Page, output: &Output) {
    let curves = output.tasks.iter().map(|t| DecisionCurve {
        name: t.metrics.task.clone(),
        points: t.details.decision_curve.clone(),
    });
    let curves: Vec<DecisionCurve> = curves.filter(|c| !c.points.is_empty()).collect();
    if curves.is_empty() {
        return;
    }
    page.section("Decision curves");
    page.note(
        "Net benefit: true positives a case, less false positives weighed by the odds of the threshold from which \
         on one would act. A model is of use at thresholds where it lies above treat all and treat none, which is 0.",
    );
    let figure = |c: &[DecisionCurve]| {
        let caption = "Net benefit; dashed: treat all, on the lower edge where it is below";
        (decision_svg(c), caption.to_owned())
    };
    let figures: Vec<(String, String)> = curves.chunks(TOGETHER / 2).map(figure).collect();
    page.figures(&figures);
}

fn names(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}
