//! Validation, which chooses the best weights.

use std::sync::Arc;

use uniferum_data::{Dataset, Notice, SkippedScan};

use super::Trainer;
use crate::checkpoint::{self, Best};
use crate::error::{Error, Result};
use crate::evaluate::{EvaluationReport, ask_scans};
use crate::judge::Intervals;
use crate::learner::{Learner, WEIGHTS};

/// The scans that choose the best weights.
#[derive(Debug, Clone)]
pub(super) struct Validation {
    pub(super) dataset: Arc<Dataset>,
    pub(super) scans: Vec<usize>,
}

impl<L: Learner> Trainer<L> {
    /// Asks the validation scans; the first process does it for all.
    pub(super) fn validate(&mut self) -> Result<()> {
        let Some(validation) = self.validation.clone() else {
            return Ok(());
        };
        let mut value = [0.0];
        if self.group.rank() == 0 {
            let Validation { dataset, scans } = &validation;
            let report = self.evaluate(dataset, scans, &Intervals::default(), || {})?;
            self.report_skipped(&report.skipped);
            if let Some(logs) = &mut self.logs {
                logs.validation(self.state.step, &report)?;
            }
            value[0] = report.labels.macro_auroc.value.unwrap_or(f64::NAN);
            if self.is_better(value[0]) {
                self.save_best(&report)?;
            }
        }
        self.group.sum_f64(&mut value)?;
        self.note(value[0]);
        Ok(())
    }

    /// Names validation scans that were left out, each once.
    fn report_skipped(&mut self, skipped: &[SkippedScan]) {
        for SkippedScan { scan, reason, .. } in skipped {
            if self.reported.insert(scan.clone()) {
                let (scan, reason) = (scan.clone(), reason.clone());
                self.stream.tell(&Notice::Skipped { scan, reason });
            }
        }
    }

    /// Asks every task of the dataset, with averages and adapters in place.
    ///
    /// Scans that cannot be read end it or are left out, as [`set_stream`](Self::set_stream) says.
    ///
    /// # Errors
    /// Those of data, model and statistics.
    pub fn evaluate(
        &self,
        dataset: &Dataset,
        scans: &[usize],
        intervals: &Intervals,
        progress: impl FnMut(),
    ) -> Result<EvaluationReport> {
        self.averaged(|| {
            let ask = self.learner.examiner(&dataset.tasks)?;
            let on_error = self.stream.on_error;
            let answers = ask_scans(&ask, dataset, scans, &self.device, on_error, progress)?;
            answers.judge(&dataset.tasks, intervals)
        })
    }

    fn is_better(&self, value: f64) -> bool {
        let best = self.state.best;
        !value.is_nan() && best.is_none_or(|best| value > best.macro_auroc)
    }

    fn note(&mut self, value: f64) {
        self.state.validation_due = false;
        // Where no AUROC is defined, nothing has failed to get better.
        if value.is_nan() {
            return;
        }
        if self.is_better(value) {
            self.state.stale = 0;
            self.state.best = Some(Best {
                step: self.state.step,
                macro_auroc: value,
            });
        } else {
            self.state.stale += 1;
        }
        self.state.plateau.observe(&self.config.schedule, value);
        let patience = self.config.early_stop;
        self.state.stopped = patience.is_some_and(|n| self.state.stale >= n);
    }

    fn save_best(&self, report: &EvaluationReport) -> Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        checkpoint::write_whole(&folder.join("best"), |part| {
            self.save_model(&part.join(WEIGHTS))?;
            let path = part.join("validation.json");
            let text = serde_json::to_vec_pretty(report).map_err(|e| Error::file(&path, e))?;
            std::fs::write(&path, text).map_err(|e| Error::file(&path, e))?;
            let entries = std::fs::read_dir(part).map_err(|e| Error::file(part, e))?;
            Ok(entries.flatten().map(|e| e.path()).collect())
        })
    }
}
