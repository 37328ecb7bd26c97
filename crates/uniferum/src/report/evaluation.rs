//! An evaluation as sections of a page: tables, forest plots, ROC curves, masks.

use uniferum_metrics::{Cases, Ranked};
use uniferum_train::{EvaluationReport, GroupReport, MaskMetrics, Prediction, TaskReport};

use super::html::Page;
use super::plots::{ForestAxis, ForestRow, RocCurve, forest_svg, roc_svg};

/// A model's statistics of a group of tasks, with a name by which several are told apart.
#[derive(Debug, Clone, Copy)]
pub struct Judged<'a> {
    /// The model; not shown where it is alone.
    pub model: &'a str,
    /// Its numbers.
    pub report: &'a GroupReport,
}

/// Adds everything that an evaluation of one model measured to a page.
pub fn add_evaluation(page: &mut Page, report: &EvaluationReport) {
    page.section("Labels");
    page.note(
        "AUROC is the chance that a scan with the finding gets a higher score than one without; \
         0.5 is guessing. AUPR is average precision, whose chance level is the prevalence. Intervals \
         hold 95 % and count each patient once.",
    );
    let alone = [Judged {
        model: "",
        report: &report.labels,
    }];
    add_group(page, &alone, &roc_curves(report));
    add_masks(page, &report.masks);
}

/// Adds a table of tasks and their forest plots, which it returns, to a page; curves beside them.
pub fn add_group(page: &mut Page, models: &[Judged<'_>], curves: &[RocCurve]) -> [String; 2] {
    let (head, rows) = label_table(models);
    page.table(&head, &rows);
    let forests = [Measure::Auroc, Measure::Auprc].map(|measure| forest(models, measure));
    let captions = ["AUROC", "Average precision"].map(|name| format!("{name} with intervals"));
    let mut figures: Vec<(String, String)> = forests.iter().cloned().zip(captions).collect();
    if !curves.is_empty() {
        figures.push((roc_svg(curves), "ROC curves".to_owned()));
    }
    page.figures(&figures);
    forests
}

/// Adds a section about masks, if there are any.
pub fn add_masks(page: &mut Page, masks: &[MaskMetrics]) {
    if masks.is_empty() {
        return;
    }
    page.section("Masks");
    page.note(
        "Dice at probability 0.5, mean over scans; AUROC and AUPR over the cells of the coarse mask, 8 \
         voxels of the model's array a side.",
    );
    let head = ["task", "scans", "foreground cells", "Dice", "AUROC", "AUPR"];
    page.table(&head, &masks.iter().map(mask_row).collect::<Vec<_>>());
}

/// A number with three digits, or a dash.
pub fn number(value: Option<f64>) -> String {
    // No number is written -0.000.
    let shown = |v: f64| format!("{:.3}", if v.abs() < 5e-4 { 0.0 } else { v });
    value.map_or("-".to_owned(), shown)
}

/// `0.912 (0.880 to 0.940)`, or the number alone where there is no interval.
pub fn estimate(value: Option<f64>, low: Option<f64>, high: Option<f64>) -> String {
    match low.zip(high) {
        Some((low, high)) => {
            let (low, high) = (number(Some(low)), number(Some(high)));
            format!("{} ({low} to {high})", number(value))
        }
        None => number(value),
    }
}

/// The mean AUROC of a group as [`estimate`] writes it.
pub fn mean_auroc(report: &GroupReport) -> String {
    let mean = &report.macro_auroc;
    estimate(mean.value, mean.ci_low, mean.ci_high)
}

/// The mean average precision of a group as [`estimate`] writes it.
pub fn mean_auprc(report: &GroupReport) -> String {
    let (low, high) = (report.macro_auprc_ci_low, report.macro_auprc_ci_high);
    estimate(report.macro_auprc, low, high)
}

/// A task's name without its group.
pub fn short_name(task: &str) -> &str {
    task.split_once('.').map_or(task, |(_, short)| short)
}

/// Head and rows of a table of tasks, each model's followed by their mean.
fn label_table(models: &[Judged<'_>]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let several = models.len() > 1;
    let mut head = vec![
        "task",
        "kind",
        "positive",
        "negative",
        "prevalence",
        "AUROC",
        "AUPR",
    ];
    if several {
        head.insert(0, "model");
    }
    let rows = models.iter().flat_map(|judged| {
        let tasks = judged.report.tasks.iter().map(label_row);
        let mean = mean_row(judged.report);
        tasks.chain([mean]).map(move |mut row: Vec<String>| {
            if several {
                row.insert(0, judged.model.to_owned());
            }
            row
        })
    });
    (head, rows.collect())
}

fn label_row(task: &TaskReport) -> Vec<String> {
    let m = &task.metrics;
    vec![
        m.task.clone(),
        task.kind.as_str().to_owned(),
        m.n_pos.to_string(),
        m.n_neg.to_string(),
        number(m.prevalence),
        estimate(m.auroc, m.ci_low, m.ci_high),
        estimate(m.auprc, task.auprc_ci_low, task.auprc_ci_high),
    ]
}

fn mean_row(report: &GroupReport) -> Vec<String> {
    let mean = &report.macro_auroc;
    let mut row = vec![String::new(); 7];
    row[0] = format!("mean of {} of {} tasks", mean.n_tasks, mean.n_tasks_total);
    row[5] = mean_auroc(report);
    row[6] = mean_auprc(report);
    row
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

/// What a forest plot shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Area under the ROC curve.
    Auroc,
    /// Average precision.
    Auprc,
}

impl Measure {
    fn axis(self) -> ForestAxis {
        match self {
            Self::Auroc => ForestAxis::auroc(),
            Self::Auprc => ForestAxis {
                label: "Average precision".into(),
                reference: None,
                ..ForestAxis::auroc()
            },
        }
    }

    fn of_task(self, task: &TaskReport) -> (Option<f64>, Option<(f64, f64)>) {
        let m = &task.metrics;
        match self {
            Self::Auroc => (m.auroc, m.ci_low.zip(m.ci_high)),
            Self::Auprc => (m.auprc, task.auprc_ci_low.zip(task.auprc_ci_high)),
        }
    }

    fn of_group(self, group: &GroupReport) -> (Option<f64>, Option<(f64, f64)>) {
        let mean = &group.macro_auroc;
        match self {
            Self::Auroc => (mean.value, mean.ci_low.zip(mean.ci_high)),
            Self::Auprc => {
                let limits = group.macro_auprc_ci_low.zip(group.macro_auprc_ci_high);
                (group.macro_auprc, limits)
            }
        }
    }
}

/// A forest plot of all tasks, those of several models side by side, and below them the means.
pub fn forest(models: &[Judged<'_>], measure: Measure) -> String {
    let named = |name: &str, model: &str| match models.len() {
        0 | 1 => name.to_owned(),
        _ => format!("{name}: {model}"),
    };
    let mut names: Vec<&str> = Vec::new();
    for task in models.iter().flat_map(|m| &m.report.tasks) {
        if !names.contains(&task.metrics.task.as_str()) {
            names.push(&task.metrics.task);
        }
    }
    let mut rows = Vec::new();
    for name in names {
        for judged in models {
            if let Some(task) = judged.report.task(name) {
                let (value, ci) = measure.of_task(task);
                rows.push(ForestRow {
                    name: named(short_name(name), judged.model),
                    value,
                    ci,
                    summary: false,
                });
            }
        }
    }
    rows.extend(models.iter().map(|judged| {
        let (value, ci) = measure.of_group(judged.report);
        ForestRow {
            name: named("mean", judged.model),
            value,
            ci,
            summary: true,
        }
    }));
    forest_svg(&rows, &measure.axis())
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
    report.labels.tasks.iter().filter_map(curve).collect()
}
