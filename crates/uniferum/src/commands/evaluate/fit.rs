//! What is fitted on a validation set: thresholds and calibrations.

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use uniferum_metrics::{
    Cases, EvaluateOptions, Platt, Ranked, TaskColumn, Temperature, ThresholdRule,
};

use super::numbers::{Scale, logits};
use super::{Aligned, Args, Table};
use crate::global::Global;

/// A second pair of tables, on which thresholds and calibration are fitted.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Fitted on a validation set, never on the judged cases")]
pub(super) struct ValidationArgs {
    /// Scores of the validation cases
    #[arg(long, value_name = "FILE", requires = "validation_labels")]
    validation_predictions: Option<PathBuf>,

    /// Labels of the validation cases
    #[arg(long, value_name = "FILE", requires = "validation_predictions")]
    validation_labels: Option<PathBuf>,

    /// What the threshold of each task maximises there
    #[arg(long, value_enum, default_value_t = Rule::Youden, value_name = "RULE")]
    threshold_rule: Rule,

    /// How probabilities are calibrated there
    #[arg(
        long,
        value_enum,
        value_name = "METHOD",
        requires = "validation_predictions"
    )]
    calibrate: Option<Calibrate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Rule {
    /// Sensitivity + specificity - 1
    Youden,
    /// F1
    F1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Calibrate {
    /// Divide logits by one number
    Temperature,
    /// Logistic regression on the score
    Platt,
}

/// What the validation set says about each task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fitted {
    pub(super) scale: Scale,
    pub(super) threshold: Option<f64>,
    pub(super) threshold_from: Option<&'static str>,
}

/// What is fitted on judged cases says nothing about others; names alone may be alike by chance.
fn warn_of_judged(validation: &[String], judged: &[String], global: &Global) {
    let judged: HashSet<&String> = judged.iter().collect();
    let both = validation.iter().filter(|case| judged.contains(case));
    let (both, all) = (both.count(), validation.len());
    if both > 0 {
        global.warn(format!(
            "{both} of {all} validation cases have the names of judged ones: what is fitted on judged cases \
             flatters them"
        ));
    }
}

impl Args {
    /// Thresholds and calibrations of all tasks, from the validation set where there is one.
    pub(super) fn fit(&self, cases: &Aligned, global: &Global) -> anyhow::Result<Vec<Fitted>> {
        let given = Fitted {
            scale: if self.statistics.logits {
                Scale::Logit
            } else {
                Scale::AsGiven
            },
            threshold: self.statistics.threshold,
            threshold_from: self.statistics.threshold.map(|_| "given"),
        };
        let tables = &self.validation;
        let Some((predictions, labels)) = tables
            .validation_predictions
            .as_ref()
            .zip(tables.validation_labels.as_ref())
        else {
            return Ok(vec![given; cases.tasks.len()]);
        };
        let predictions = [Table::read(predictions)?];
        let validation = self.columns.align(&predictions, &Table::read(labels)?)?;
        warn_of_judged(&validation.cases, &cases.cases, global);
        let mut fitted = Vec::new();
        for task in &cases.tasks {
            let at = validation.tasks.iter().position(|t| t == task);
            let at = at.with_context(|| format!("the validation set lacks task '{task}'"))?;
            let fit = self.fit_task(&validation, at, given.scale);
            let fit = fit.with_context(|| format!("task '{task}'"))?;
            if fit.threshold.is_none() {
                let lacking = match tables.calibrate {
                    Some(_) => "no threshold, not calibrated",
                    None => "no threshold",
                };
                global.warn(format!(
                    "task '{task}' has a single class in the validation set: {lacking}"
                ));
            }
            fitted.push(fit);
        }
        Ok(fitted)
    }

    fn fit_task(&self, validation: &Aligned, at: usize, scale: Scale) -> anyhow::Result<Fitted> {
        let options = EvaluateOptions {
            weights: validation.weights.as_deref(),
            ..Default::default()
        };
        let column = TaskColumn {
            task: &validation.tasks[at],
            scores: &validation.scores[0][at],
            labels: &validation.labels[at],
        };
        let cases = options.cases(&column)?;
        // Of a single class nothing can be fitted; the scores are left as they are.
        let both = Ranked::new(&cases).auroc().is_ok();
        let scale = match self.validation.calibrate {
            Some(method) if both => scale.fit(method, &cases)?,
            _ => scale,
        };
        let scaled = scale.apply(cases.scores());
        let cases = cases.with_scores(&scaled)?;
        let rule = match self.validation.threshold_rule {
            Rule::Youden => ThresholdRule::Youden,
            Rule::F1 => ThresholdRule::F1,
        };
        let chosen = Ranked::new(&cases).best_threshold(rule).ok();
        Ok(Fitted {
            scale,
            threshold: chosen.map(|c| c.threshold),
            threshold_from: chosen.map(|_| "validation"),
        })
    }
}

impl Scale {
    /// Fits a calibration on labelled validation cases.
    fn fit(self, method: Calibrate, cases: &Cases) -> anyhow::Result<Scale> {
        let cases = match (method, self) {
            (Calibrate::Platt, _) | (_, Scale::Logit) => cases.clone(),
            _ => {
                ensure!(
                    cases.check_probabilities().is_ok(),
                    "--calibrate temperature needs probabilities, or logits with --logits"
                );
                cases.with_scores(&logits(cases.scores()))?
            }
        };
        let ranked = Ranked::new(&cases);
        Ok(match method {
            Calibrate::Platt => Scale::Platt(Platt::fit(&ranked)?),
            Calibrate::Temperature => Scale::Temperature {
                fit: Temperature::fit(&ranked)?,
                of_logits: matches!(self, Scale::Logit),
            },
        })
    }
}
