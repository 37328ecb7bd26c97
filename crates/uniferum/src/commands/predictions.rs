//! Answers as a table that `uniferum evaluate` and `uniferum compare` read.

use std::path::Path;

use anyhow::Context;
use uniferum_train::Prediction;

/// Writes a line for every question about every scan: label (empty where missing), logit, probability.
pub(crate) fn write_predictions(path: &Path, predictions: &[Prediction]) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    let mut table = csv::Writer::from_path(path).with_context(place)?;
    table.write_record([
        "scan",
        "patient",
        "task",
        "kind",
        "label",
        "logit",
        "probability",
    ])?;
    for p in predictions {
        let label = p.label.map_or("", |l| if l { "1" } else { "0" });
        let (logit, probability) = (p.logit.to_string(), p.probability.to_string());
        table.write_record([
            p.scan.as_str(),
            &p.patient,
            &p.task,
            p.kind.as_str(),
            label,
            &logit,
            &probability,
        ])?;
    }
    table.flush().with_context(place)
}
