//! The subcommands, one file each: `Args` (what clap reads) and `run`.

pub(crate) mod bench;
mod claim;
pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod evaluate;
pub(crate) mod experiment;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod label_reports;
pub(crate) mod lock;
pub(crate) mod manifest;
mod phantoms;
pub(crate) mod predict;
mod predictions;
pub(crate) mod prepare;
mod shard;
pub(crate) mod tasks;
mod tasks_file;
pub(crate) mod train;

/// The classes of TotalSegmentator v2, whose files in a folder of scans are masks.
fn mask_classes() -> uniferum_ct::batch::MaskClasses {
    let classes = uniferum_tasks::totalsegmentator::classes().into_iter();
    classes.map(|(name, id)| (name.to_owned(), id)).collect()
}

/// Says which folders below the inputs hold no scans, though they look so.
fn tell_left_out(folders: &[String], global: &crate::global::Global) {
    const SHOWN: usize = 5;
    for folder in folders.iter().take(SHOWN) {
        global.hint(format!("left out: {folder}"));
    }
    if folders.len() > SHOWN {
        let more = folders.len() - SHOWN;
        global.hint(format!("left out: {more} folders more"));
    }
}

/// Refuses what training goes on with where a model for use is expected.
fn check_usable(checkpoint: &std::path::Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !uniferum_train::is_run_state(checkpoint),
        "{}: a training run goes on from it, and its weights are not for use; expected model.safetensors of \
         the run, or best/model.safetensors",
        checkpoint.display()
    );
    Ok(())
}
