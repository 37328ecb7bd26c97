//! An evaluation as sections of a page: table, forest plot, ROC curves, masks.

use uniferum_metrics::{Cases, Ranked};
use uniferum_train::{EvaluationReport, MaskMetrics, Prediction, TaskReport};

use super::html::Page;
use super::plots::{ForestAxis, ForestRow, RocCurve, forest_svg, roc_svg};

/// Adds everything that an evaluation measured to a page.
pub fn add_evaluation(page: &mut Page, report: &EvaluationReport) {
    page.section("Labels");
    page.note(
        "AUROC is the chance that a scan with the finding gets a higher score than one without; \
         0.5 is guessing. Intervals hold 95 % and count each patient once.",
    );
    page.table(
        &[
            "task",
            "kind",
            "positive",
            "negative",
            "AUROC",
            "95 % interval",
            "AUPRC",
            "prevalence",
        ],
        &report.tasks.iter().map(label_row).collect::<Vec<_>>(),
    );
    let forest = forest_svg(&forest_rows(report), &ForestAxis::auroc());
    let mut figures = vec![(forest, "AUROC with 95 % interval".to_owned())];
    let curves = roc_curves(report);
    if !curves.is_empty() {
        figures.push((roc_svg(&curves), "ROC curves".to_owned()));
    }
    page.figures(&figures);
    if !report.masks.is_empty() {
        page.section("Masks");
        page.note(
            "Dice at probability 0.5, mean over scans; AUROC and AUPRC over the cells of the coarse \
             mask, 8 voxels of the model's array a side.",
        );
        page.table(
            &[
                "task",
                "scans",
                "foreground cells",
                "Dice",
                "AUROC",
                "AUPRC",
            ],
            &report.masks.iter().map(mask_row).collect::<Vec<_>>(),
        );
    }
}

/// A number with three digits, or a dash.
pub fn number(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |v| format!("{v:.3}"))
}

/// `0.880 to 0.940`, or a dash.
pub fn interval(low: Option<f64>, high: Option<f64>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!("{low:.3} to {high:.3}"),
        _ => "–".to_owned(),
    }
}

fn label_row(task: &TaskReport) -> Vec<String> {
    let m = &task.metrics;
    vec![
        m.task.clone(),
        task.kind.as_str().to_owned(),
        m.n_pos.to_string(),
        m.n_neg.to_string(),
        number(m.auroc),
        interval(m.ci_low, m.ci_high),
        number(m.auprc),
        number(m.prevalence),
    ]
}

fn mask_row(mask: &MaskMetrics) -> Vec<String> {
    vec![
        mask.task.clone(),
        mask.scans.to_string(),
        mask.n_pos.to_string(),
        number(mask.dice),
        number(mask.auroc),
        number(mask.auprc),
    ]
}

fn forest_rows(report: &EvaluationReport) -> Vec<ForestRow> {
    let tasks = report.tasks.iter().map(|t| ForestRow {
        name: t.metrics.task.clone(),
        value: t.metrics.auroc,
        ci: t.metrics.ci_low.zip(t.metrics.ci_high),
        summary: false,
    });
    let mean = &report.macro_auroc;
    let summary = ForestRow {
        name: format!(
            "macro average of {} of {} tasks",
            mean.n_tasks, mean.n_tasks_total
        ),
        value: mean.value,
        ci: mean.ci_low.zip(mean.ci_high),
        summary: true,
    };
    tasks.chain([summary]).collect()
}

/// The curves of the tasks that have positives and negatives.
fn roc_curves(report: &EvaluationReport) -> Vec<RocCurve> {
    let curve = |task: &TaskReport| {
        let of = |p: &&Prediction| p.task == task.metrics.task;
        let rows: Vec<&Prediction> = report.predictions.iter().filter(of).collect();
        let scores: Vec<f64> = rows.iter().map(|p| p.logit).collect();
        let labels: Vec<Option<bool>> = rows.iter().map(|p| p.label).collect();
        let cases = Cases::new(&scores, &labels).ok()?;
        let ci = task.metrics.ci_low.zip(task.metrics.ci_high);
        RocCurve::new(&task.metrics.task, &Ranked::new(&cases), ci).ok()
    };
    report.tasks.iter().filter_map(curve).collect()
}
