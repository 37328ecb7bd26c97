use serde::{Deserialize, Serialize};

use crate::bins::{Binning, CalibrationBin};
use crate::bootstrap::{Bootstrap, BootstrapResult};
use crate::calibration::{Brier, CalibrationLine};
use crate::cases::Cases;
use crate::decision::DecisionPoint;
use crate::delong::AucEstimate;
use crate::error::Result;
use crate::evaluate::{EvaluateOptions, TaskColumn};
use crate::interval::FEW_UNITS;
use crate::operating::OperatingPoint;
use crate::partial::{PartialAuroc, RocRegion};
use crate::ranked::Ranked;

/// What [`describe_task`] computes beyond AUROC and average precision.
#[derive(Debug, Clone, Default)]
pub struct DetailOptions {
    /// Threshold of the operating point, chosen elsewhere than on these cases.
    pub threshold: Option<f64>,
    /// Stretch of the ROC curve for the partial area.
    pub region: Option<RocRegion>,
    /// Bins of the calibration curve.
    pub binning: Binning,
    /// Thresholds of the decision curve.
    pub decisions: Vec<f64>,
}

/// More numbers of one task. What is undefined or was not asked for is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TaskDetails {
    /// Lower limit of the bootstrap interval of the average precision; like that of the partial area
    /// it is `None` below [`FEW_UNITS`] units of either class, where the bootstrap is not to be trusted.
    pub auprc_ci_low: Option<f64>,
    /// Upper limit of the bootstrap interval of the average precision.
    pub auprc_ci_high: Option<f64>,
    /// Partial area.
    pub partial_auroc: Option<PartialAuroc>,
    /// Lower limit of the bootstrap interval of the standardised partial area.
    pub partial_auroc_ci_low: Option<f64>,
    /// Upper limit of the bootstrap interval of the standardised partial area.
    pub partial_auroc_ci_high: Option<f64>,
    /// Shares at the threshold.
    pub operating_point: Option<OperatingPoint>,
    /// Brier score with its parts; like all that follows it needs scores that are probabilities.
    pub brier: Option<Brier>,
    /// Mean negative log-likelihood in nats.
    pub log_loss: Option<f64>,
    /// Expected calibration error.
    pub ece: Option<f64>,
    /// Lower end of the middle resamples of `ece`, which lie above it: not a confidence interval.
    pub ece_ci_low: Option<f64>,
    /// Upper end of the middle resamples of `ece`.
    pub ece_ci_high: Option<f64>,
    /// Expected calibration error of a perfectly calibrated model on these cases, in as many draws as
    /// there are bootstrap replicates; see [`Ranked::calibrated_ece`].
    #[serde(default)]
    pub ece_calibrated: Option<f64>,
    /// Maximal calibration error.
    pub mce: Option<f64>,
    /// Calibration intercept and slope.
    pub calibration: Option<CalibrationLine>,
    /// Observed against predicted shares.
    pub calibration_curve: Vec<CalibrationBin>,
    /// Net benefits.
    pub decision_curve: Vec<DecisionPoint>,
    /// Bootstrap replicates drawn for the average precision.
    pub bootstrap_replicates: usize,
    /// Those in which it was undefined.
    pub bootstrap_invalid: usize,
}

/// Computes what a report shows beyond [`crate::evaluate_task`].
///
/// Calibration and decision curves are left out when some score is not a probability.
///
/// # Errors
/// As [`crate::evaluate_task`], and [`crate::Error::Option`] for options outside their range.
pub fn describe_task(
    column: &TaskColumn<'_>,
    options: &EvaluateOptions<'_>,
    detail: &DetailOptions,
) -> Result<TaskDetails> {
    let cases = [options.cases(column)?];
    let ranked = Ranked::new(&cases[0]);
    let level = options.level;
    // With few positives resamples repeat the same handful: the interval would be far too narrow, with
    // a single one of no width at all.
    let units = AucEstimate::from_ranked(&ranked).map(|e| e.pos_units().min(e.neg_units()));
    let of_ranks = options
        .bootstrap
        .filter(|_| units.is_ok_and(|n| n >= FEW_UNITS));
    let mut details = TaskDetails::default();
    if let Some(threshold) = detail.threshold.filter(|_| !cases[0].is_empty()) {
        let point = OperatingPoint::new(&ranked, threshold, level)?;
        details.operating_point = Some(point);
    }
    if let Some(region) = detail.region {
        details.partial_auroc = ranked.partial_auroc(region)?;
        let area = |r: &[Ranked<'_>]| Some(r[0].partial_auroc(region).ok()??.standardised);
        let found = resample(&cases, of_ranks, level, area)?;
        details.partial_auroc_ci_low = found.as_ref().and_then(|f| f.ci_low);
        details.partial_auroc_ci_high = found.and_then(|f| f.ci_high);
    }
    let precision = |r: &[Ranked<'_>]| r[0].average_precision().ok();
    if let Some(found) = resample(&cases, of_ranks, level, precision)? {
        (details.auprc_ci_low, details.auprc_ci_high) = (found.ci_low, found.ci_high);
        details.bootstrap_replicates = found.replicates;
        details.bootstrap_invalid = found.invalid;
    }
    if cases[0].check_probabilities().is_ok() && !cases[0].is_empty() {
        calibrate(&mut details, &cases, &ranked, options, detail)?;
    }
    Ok(details)
}

fn calibrate(
    details: &mut TaskDetails,
    cases: &[Cases],
    ranked: &Ranked<'_>,
    options: &EvaluateOptions<'_>,
    detail: &DetailOptions,
) -> Result<()> {
    let (binning, level) = (detail.binning, options.level);
    details.brier = ranked.brier(binning)?;
    details.log_loss = ranked.log_loss()?;
    if let Some(error) = ranked.calibration_error(binning)? {
        (details.ece, details.mce) = (Some(error.expected), Some(error.maximal));
    }
    let expected = |r: &[Ranked<'_>]| Some(r[0].calibration_error(binning).ok()??.expected);
    // Strata by label would hold the prevalence, whose error is a part of this one's.
    let bootstrap = options.bootstrap.map(|b| Bootstrap {
        stratified: false,
        ..b
    });
    if let Some(b) = &bootstrap {
        details.ece_calibrated = ranked.calibrated_ece(binning, b.replicates, b.seed)?;
    }
    if let Some(found) = resample(cases, bootstrap, level, expected)? {
        (details.ece_ci_low, details.ece_ci_high) = (found.ci_low, found.ci_high);
    }
    details.calibration = ranked.calibration_line()?;
    details.calibration_curve = ranked.calibration_curve(binning, level)?;
    details.decision_curve = ranked
        .decision_curve(&detail.decisions)?
        .unwrap_or_default();
    Ok(())
}

fn resample(
    cases: &[Cases],
    bootstrap: Option<Bootstrap>,
    level: f64,
    statistic: impl Fn(&[Ranked<'_>]) -> Option<f64> + Sync,
) -> Result<Option<BootstrapResult>> {
    bootstrap
        .map(|b| b.run(cases, level, statistic))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> DetailOptions {
        DetailOptions {
            threshold: Some(0.5),
            region: Some(RocRegion::Fpr {
                low: 0.0,
                high: 0.2,
            }),
            decisions: vec![0.1, 0.3],
            ..Default::default()
        }
    }

    fn resampling() -> EvaluateOptions<'static> {
        EvaluateOptions {
            bootstrap: Some(Bootstrap {
                replicates: 100,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn probabilities_get_everything_and_logits_what_needs_none() {
        let scores: Vec<f64> = (0..80).map(|i| f64::from(i * 37 % 80) / 80.0).collect();
        let labels: Vec<Option<bool>> = (0..80)
            .map(|i| Some(i * 37 % 80 + 9 * (i % 5) > 60))
            .collect();
        let column = |scores| TaskColumn {
            task: "t",
            scores,
            labels: &labels,
        };
        let plain = resampling();
        let d = describe_task(&column(&scores), &plain, &options()).unwrap();
        assert!(d.ece_ci_low.unwrap() <= d.ece_ci_high.unwrap());
        assert!(d.auprc_ci_low.unwrap() < d.auprc_ci_high.unwrap());
        assert!(d.partial_auroc_ci_low.unwrap() <= d.partial_auroc.unwrap().standardised);
        assert_eq!((d.decision_curve.len(), d.bootstrap_invalid), (2, 0));
        assert!(d.calibration.unwrap().slope > 1.0 && d.operating_point.is_some());
        let logits: Vec<f64> = scores.iter().map(|s| 10.0 * s - 5.0).collect();
        let d = describe_task(&column(&logits), &plain, &options()).unwrap();
        assert_eq!((d.brier, d.ece), (None, None));
        assert!(d.auprc_ci_low.is_some() && d.operating_point.is_some());
    }

    /// The seed decides, the strata do not: the prevalence must vary as it does from sample to sample.
    #[test]
    fn resamples_of_the_calibration_error_keep_no_prevalence() {
        let labels: Vec<Option<bool>> = (0..100).map(|i| Some(i < 20)).collect();
        let column = TaskColumn {
            task: "t",
            scores: &[0.1; 100],
            labels: &labels,
        };
        let d = describe_task(&column, &resampling(), &DetailOptions::default()).unwrap();
        // One bin: with the prevalence held every resample would have the same error, 0.1.
        assert!((d.ece.unwrap() - 0.1).abs() < 1e-12);
        assert!(
            d.ece_ci_low.unwrap() < 0.06 && d.ece_ci_high.unwrap() > 0.14,
            "{d:?}"
        );
        // sqrt(2 p (1 - p) / (pi n)), about.
        assert!((d.ece_calibrated.unwrap() - 0.024).abs() < 0.006, "{d:?}");
    }

    #[test]
    fn a_constant_label_leaves_what_is_undefined_empty() {
        let column = TaskColumn {
            task: "t",
            scores: &[0.2, 0.7, 0.4],
            labels: &[Some(false), Some(false), None],
        };
        let d = describe_task(&column, &resampling(), &options()).unwrap();
        let point = d.operating_point.unwrap();
        assert_eq!(
            (point.sensitivity, point.specificity.unwrap().value),
            (None, 0.5)
        );
        assert_eq!((d.auprc_ci_low, d.bootstrap_replicates), (None, 0));
        assert!(d.brier.is_some() && d.partial_auroc.is_none() && d.calibration.is_none());
    }

    #[test]
    fn a_handful_of_positives_gets_no_bootstrap_interval() {
        let scores: Vec<f64> = (0..60).map(|i| f64::from(i) / 60.0).collect();
        let labels: Vec<Option<bool>> = (0..60).map(|i| Some(i > 56)).collect();
        let column = TaskColumn {
            task: "t",
            scores: &scores,
            labels: &labels,
        };
        let d = describe_task(&column, &resampling(), &options()).unwrap();
        assert_eq!((d.auprc_ci_low, d.partial_auroc_ci_low), (None, None));
        assert!(d.partial_auroc.is_some() && d.ece_ci_low.is_some());
    }
}
