//! Numbers as text, and the scale that scores are on.

use std::io::Write;

use uniferum_metrics::special::{clipped_logit, sigmoid};
use uniferum_metrics::{IntervalMethod, PROBABILITY_MARGIN, Platt, Temperature};

pub(crate) use uniferum::report::evaluation::{estimate as interval, number};

use super::align::Aggregate;
use super::{Output, Record};

/// How a score becomes the probability that calibration and thresholds see.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scale {
    /// It is one already, or is taken as it stands.
    AsGiven,
    /// By the logistic function.
    Logit,
    /// By Platt's fit on the validation set.
    Platt(Platt),
    /// By a temperature fitted on the validation set.
    Temperature {
        /// The fit.
        fit: Temperature,
        /// Scores are logits, not probabilities.
        of_logits: bool,
    },
}

impl Scale {
    pub(crate) fn apply(self, scores: &[f64]) -> Vec<f64> {
        match self {
            Scale::AsGiven => scores.to_vec(),
            Scale::Logit => scores.iter().map(|&x| sigmoid(x)).collect(),
            Scale::Platt(fit) => scores.iter().map(|&x| fit.apply(x)).collect(),
            Scale::Temperature {
                fit,
                of_logits: true,
            } => scores.iter().map(|&x| fit.apply(x)).collect(),
            Scale::Temperature { fit, .. } => {
                logits(scores).iter().map(|&x| fit.apply(x)).collect()
            }
        }
    }
}

/// Logits of probabilities, 0 and 1 moved inward by what an `f64` can still tell apart.
pub(crate) fn logits(probabilities: &[f64]) -> Vec<f64> {
    let logit = |&p: &f64| clipped_logit(p, PROBABILITY_MARGIN);
    probabilities.iter().map(logit).collect()
}

/// Prints columns, the first to the left, the others to the right.
pub(crate) fn print_table(
    out: &mut impl Write,
    head: &[&str],
    rows: &[Vec<String>],
) -> std::io::Result<()> {
    let width = |i: usize| {
        let cells = rows.iter().map(|r| r[i].chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(&widths).enumerate().map(|(i, (cell, &w))| {
            if i == 0 {
                format!("{cell:w$}")
            } else {
                format!("{cell:>w$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    writeln!(out, "{}", line(&mut head.iter().copied()).trim_end())?;
    for row in rows {
        let text = line(&mut row.iter().map(String::as_str));
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

pub(crate) fn percent(level: f64) -> String {
    format!("{} %", (level * 1e4).round() / 1e2)
}

pub(super) const HEAD: [&str; 7] = [
    "task",
    "n",
    "positive",
    "negative",
    "missing",
    "AUROC",
    "average precision",
];

pub(super) fn main_rows(output: &Output) -> Vec<Vec<String>> {
    let rows = output.tasks.iter().map(|t| {
        let (m, d) = (&t.metrics, &t.details);
        vec![
            m.task.clone(),
            m.n.to_string(),
            m.n_pos.to_string(),
            m.n_neg.to_string(),
            m.n_missing.to_string(),
            interval(m.auroc, m.ci_low, m.ci_high),
            interval(m.auprc, d.auprc_ci_low, d.auprc_ci_high),
        ]
    });
    let all = &output.macro_auroc;
    let of = format!(
        "macro, {} of {} tasks",
        all.auroc.n_tasks, all.auroc.n_tasks_total
    );
    let mut last = vec![String::new(); HEAD.len()];
    last[0] = of;
    last[5] = interval(all.auroc.value, all.auroc.ci_low, all.auroc.ci_high);
    last[6] = number(all.auprc);
    rows.chain([last]).collect()
}

pub(super) const OPERATING_HEAD: [&str; 8] = [
    "task",
    "threshold",
    "sensitivity",
    "specificity",
    "PPV",
    "NPV",
    "F1",
    "Youden",
];

pub(super) fn operating_rows(output: &Output) -> Vec<Vec<String>> {
    let rows = output.tasks.iter().filter_map(|t| {
        let p = t.details.operating_point.as_ref()?;
        let share = |s: &Option<uniferum_metrics::Proportion>| {
            let s = s.as_ref();
            interval(
                s.map(|s| s.value),
                s.map(|s| s.ci_low),
                s.map(|s| s.ci_high),
            )
        };
        Some(vec![
            t.metrics.task.clone(),
            format!("{:.4}", p.threshold),
            share(&p.sensitivity),
            share(&p.specificity),
            share(&p.ppv),
            share(&p.npv),
            number(p.f1),
            number(p.youden),
        ])
    });
    rows.collect()
}

pub(super) const CALIBRATION_HEAD: [&str; 8] = [
    "task",
    "Brier",
    "Brier skill",
    "ECE",
    "if calibrated",
    "slope",
    "in the large",
    "log loss",
];

pub(super) fn calibration_rows(output: &Output) -> Vec<Vec<String>> {
    let rows = output.tasks.iter().filter_map(|t| {
        let d = &t.details;
        let brier = d.brier?;
        Some(vec![
            t.metrics.task.clone(),
            number(Some(brier.score)),
            number(brier.skill),
            interval(d.ece, d.ece_ci_low, d.ece_ci_high),
            number(d.ece_calibrated),
            number(d.calibration.map(|c| c.slope)),
            number(d.calibration.map(|c| c.in_the_large)),
            number(d.log_loss),
        ])
    });
    rows.collect()
}

/// That studies are judged, if they are.
pub(crate) fn studies(record: &Record) -> Option<String> {
    let score = match record.study_aggregate? {
        Aggregate::Mean => "mean score",
        Aggregate::Max => "largest score",
    };
    let column = record.study.as_ref()?;
    Some(format!(
        "Judged are studies (column '{column}'), each by the {score} of its volumes."
    ))
}

/// What the intervals are, in words.
pub(super) fn footnotes(output: &Output) -> Vec<String> {
    let s = &output.settings;
    let mut notes = vec![match &s.record.clustered_by {
        Some(column) => format!(
            "{} intervals, clustered by patient (column '{column}', Obuchowski).",
            percent(s.level)
        ),
        None => format!(
            "{} intervals; all cases are taken as independent (DeLong).",
            percent(s.level)
        ),
    }];
    notes.extend(studies(&s.record));
    if let Some(b) = &s.bootstrap {
        notes.push(format!(
            "Average precision and ECE: {} bootstrap replicates, seed {}; no interval of average \
             precision below ten positives or negatives.",
            b.replicates, b.seed
        ));
        if output.tasks.iter().any(|t| t.details.ece.is_some()) {
            notes.push(
                "The range of an ECE is that of resamples, which lie above it, no confidence \
                 interval; 'if calibrated' is what a perfectly calibrated model would show on these \
                 cases."
                    .to_owned(),
            );
        }
    }
    let all = &output.macro_auroc.auroc;
    if !all.undefined.is_empty() {
        notes.push(format!(
            "Without AUROC, because one class is absent: {}.",
            all.undefined.join(", ")
        ));
    }
    if !all.without_variance.is_empty() {
        notes.push(format!(
            "A single positive or negative, so no standard error: {}.",
            all.without_variance.join(", ")
        ));
    }
    if all.ci_method == Some(IntervalMethod::Mover) {
        notes.push(format!(
            "Too few positives or negatives, or too few out of place, for the normal law: {}. The \
             interval of the macro average is widened for them.",
            all.few_units.join(", ")
        ));
    }
    notes
}

/// Prints the result for people.
pub(super) fn print(out: &mut impl Write, output: &Output) -> std::io::Result<()> {
    print_table(out, &HEAD, &main_rows(output))?;
    let operating = operating_rows(output);
    if !operating.is_empty() {
        writeln!(out)?;
        print_table(out, &OPERATING_HEAD, &operating)?;
    }
    let calibration = calibration_rows(output);
    if !calibration.is_empty() {
        writeln!(out)?;
        print_table(out, &CALIBRATION_HEAD, &calibration)?;
    }
    let partial = output.tasks.iter().filter_map(|t| {
        let d = &t.details;
        let area = d.partial_auroc?.standardised;
        let text = interval(Some(area), d.partial_auroc_ci_low, d.partial_auroc_ci_high);
        Some(vec![t.metrics.task.clone(), text])
    });
    let partial: Vec<Vec<String>> = partial.collect();
    if !partial.is_empty() {
        writeln!(out)?;
        print_table(out, &["task", "partial AUROC, standardised"], &partial)?;
    }
    writeln!(out)?;
    for note in footnotes(output) {
        writeln!(out, "{note}")?;
    }
    Ok(())
}
