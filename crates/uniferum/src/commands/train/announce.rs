//! What a run learns from, and what of it looks odd.

use anyhow::ensure;
use uniferum_data::hub::Hub;
use uniferum_data::{Loader, Split};
use uniferum_tasks::Task;
use uniferum_train::{Init, LearningRate, RunConfig, has_auroc};

use crate::global::Global;

/// What the run learns from, and what of it looks odd.
pub(super) fn announce(config: &RunConfig, loader: &Loader, global: &Global) -> anyhow::Result<()> {
    let dataset = &loader.dataset;
    let count = |split| dataset.manifest.of(split).len();
    let (summary, steps) = loader.summary();
    let all = config.train.steps;
    let epochs = all as f64 / steps.max(1) as f64;
    global.hint(format!(
        "{} training and {} validation scans; an epoch has {steps} steps, the run {all} ({epochs:.1} \
         epochs). An epoch asks",
        count(Split::Train),
        count(Split::Val),
    ));
    for line in summary {
        global.hint(format!("  {line}"));
    }
    let all = dataset.tasks.len();
    warn_of(
        "no training scan answers",
        &config.unanswered(dataset),
        all,
        global,
    );
    let one_sided = config.one_sided(dataset);
    warn_of(
        "the training scans have one class alone for",
        &one_sided,
        all,
        global,
    );
    ensure!(steps > 0, "there is nothing to train on");
    warn_of_masks(config, &dataset.tasks, global);
    warn_of_plateau(config, global);
    let values = values_of_last_norm(config);
    if values < FEW_VALUES {
        global.warn(format!(
            "the last batch norms see {values} values a channel in each pass, too few for steady statistics: \
             gradients will be rough; larger arrays or more scans_per_pass help"
        ));
    }
    let validation = dataset.manifest.of(Split::Val);
    let lacking = match validation.is_empty() {
        true => Some("no scan has the split val"),
        false if !has_auroc(dataset, &validation) => {
            Some("no label task has positives and negatives among the validation scans")
        }
        false => None,
    };
    if let Some(lacking) = lacking {
        global.warn(format!(
            "{lacking}: no best model is chosen, the last one counts"
        ));
    }
    Ok(())
}

fn warn_of(what: &str, tasks: &[&str], all: usize, global: &Global) {
    if tasks.is_empty() {
        return;
    }
    let some = tasks.iter().take(5).copied().collect::<Vec<_>>();
    let more = if tasks.len() > some.len() {
        ", …"
    } else {
        ""
    };
    let (count, some) = (tasks.len(), some.join(", "));
    global.warn(format!("{what} {count} of {all} tasks: {some}{more}"));
}

/// A mask's numbers mean what its maker says: tasks that were not named may take them for another's.
fn warn_of_masks(config: &RunConfig, tasks: &[Task], global: &Global) {
    let organs = || {
        let tasks = tasks.iter().filter(|t| t.kind.is_segmentation());
        tasks.filter(|t| !t.is_nodule())
    };
    let own = organs().find(|task| task.group != TOTALSEGMENTATOR);
    let theirs = organs().any(|task| task.group == TOTALSEGMENTATOR);
    if let (true, true, Some(own)) = (config.tasks.is_empty(), theirs, own) {
        global.warn(format!(
            "the numbers of all masks are read as TotalSegmentator's by {TOTALSEGMENTATOR}.* and as your own by \
             {}: name the tasks that these masks answer (`tasks` in the configuration)",
            own.id
        ));
    }
}

/// The group of the tasks whose numbers are TotalSegmentator's.
const TOTALSEGMENTATOR: &str = "anatomy";

/// A plateau of more validations than there are is a constant rate.
fn warn_of_plateau(config: &RunConfig, global: &Global) {
    let train = &config.train;
    let validations = train
        .steps
        .checked_div(train.validate_every)
        .unwrap_or(0)
        .max(1);
    if let LearningRate::Plateau { patience, .. } = train.schedule
        && validations <= patience + 1
    {
        global.warn(format!(
            "the learning rate never falls: it would after {} validations without a better macro AUROC, and the \
             run has {validations}; lower validate_every or schedule.patience",
            patience + 1
        ));
    }
}

/// Batch statistics of fewer values say little, and their gradients are huge where two values are near.
const FEW_VALUES: usize = 8;

/// Values by which the encoder's last batch norms normalise a channel: the voxels that are left of the scans
/// of a pass.
fn values_of_last_norm(config: &RunConfig) -> usize {
    if config.train.freeze_statistics {
        return usize::MAX;
    }
    let train = &config.train;
    let voxels: usize = config
        .input
        .transform
        .shape
        .iter()
        .map(|n| n.div_ceil(32))
        .product();
    voxels * train.scans_per_pass.min(train.scans_per_step)
}

/// The weights that a run would begin by downloading.
pub(super) fn tell_absent(init: &Init, global: &Global) {
    let hub = Hub::from_env();
    for source in init.absent(&hub) {
        let cache = hub.cache.display();
        let how = if hub.offline {
            "HF_HUB_OFFLINE forbids to download them".to_owned()
        } else {
            format!("they would be downloaded from {}", hub.endpoint)
        };
        global.hint(format!("weights of {source}: not in {cache}, {how}"));
    }
}
