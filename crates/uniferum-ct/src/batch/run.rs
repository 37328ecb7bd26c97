//! The run over a plan: what is left to do, workers, ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;

use super::job::{Job, PrepareSettings, Shard};
use super::ledger::{Ledger, LedgerRow, read_ledgers};
use super::one::{is_current, is_done, prepare_one};
use super::work::work;
use crate::error::{Error, Result};
use crate::io::atomic::{key_of_temporary, temporary_key};

/// How a plan is worked through; nothing here changes a voxel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// Scans in work at the same time: each needs about 10 bytes for every voxel of the scan.
    pub workers: usize,
    /// Try scans again that failed before.
    pub retry_failed: bool,
    /// Do not read finished files to check their hashes, only look at their sizes.
    pub trust_sizes: bool,
    /// The part of the plan that is this run's.
    pub shard: Shard,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            workers: 1,
            retry_failed: false,
            trust_sizes: false,
            shard: Shard::default(),
        }
    }
}

/// What happens during a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The number of scans in this shard; what was done before is looked at next.
    Started(usize),
    /// Finished work was looked at: so many scans are left to do.
    Checked {
        /// Scans that are done and unchanged.
        done: usize,
        /// Scans that failed before and are not tried again.
        failed_before: usize,
        /// Scans to prepare now.
        todo: usize,
    },
    /// A scan was prepared, or could not be.
    Finished(&'a LedgerRow),
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Summary {
    /// Scans prepared in this run.
    pub prepared: usize,
    /// Scans that were prepared before.
    pub skipped: usize,
    /// Scans that could not be prepared in this run.
    pub failed: usize,
    /// Scans that could not be prepared before and were not tried again.
    pub failed_before: usize,
    /// From beginning to end, s.
    pub seconds: f64,
}

/// Works through a plan.
///
/// Every output appears whole or not at all; then its row is written to the shard's ledger. A scan whose
/// row says that it was prepared under the same settings, from inputs of the same size and age, and
/// whose outputs still have the row's hash, is left alone. A scan that failed under the same settings
/// is left alone too unless `retry_failed`.
///
/// # Errors
/// [`Error::Field`] where a result would replace a file that the plan reads; [`Error::Io`] where the output
/// folder or the ledger cannot be written, or where another run has the same shard. A scan that fails is no
/// error: it is a row.
///
/// ```
/// use ndarray::Array3;
/// use uniferum_ct::batch::{PrepareSettings, RunOptions, Sources, gather, plan, prepare};
/// use uniferum_ct::{Affine, StandardiseConfig, Volume, write_nifti};
///
/// # let dir = tempfile::tempdir()?;
/// # let (scans, out) = (dir.path().join("in"), dir.path().join("out"));
/// # std::fs::create_dir(&scans)?;
/// let body = Array3::from_shape_fn((20, 20, 10), |(x, _, _)| if x < 15 { 40i16 } else { -1000 });
/// let affine = Affine::from_spacing([8.0; 3], [1.0; 3], [0.0; 3]);
/// write_nifti(scans.join("a.nii.gz"), &Volume::new(body, affine))?;
///
/// let settings = PrepareSettings {
///     standardise: StandardiseConfig { size: Some([64, 64, 48]), ..Default::default() },
///     ..Default::default()
/// };
/// let inputs = gather(&Sources { inputs: vec![scans], ..Default::default() })?;
/// let jobs = plan(inputs.inputs, &settings, false)?;
/// let summary = prepare(&jobs, &settings, &out, &RunOptions::default(), &mut |_| {})?;
/// assert_eq!((summary.prepared, summary.failed), (1, 0));
/// assert!(out.join("scans/a.uct").is_file() && out.join("ledger.csv").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prepare(
    jobs: &[Job],
    settings: &PrepareSettings,
    folder: &Path,
    options: &RunOptions,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<Summary> {
    let start = Instant::now();
    std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))?;
    check_apart(jobs, folder)?;
    let mut ledger = Ledger::open(folder, options.shard)?;
    let shard = jobs
        .iter()
        .enumerate()
        .filter(|(i, _)| options.shard.has(*i));
    let jobs: Vec<&Job> = shard.map(|(_, job)| job).collect();
    on_event(Event::Started(jobs.len()));
    let rows = read_ledgers(folder)?;
    remove_leftovers(&jobs, folder);
    let states: Vec<State> = jobs
        .par_iter()
        .map(|job| State::of(job, &rows, settings, folder, options))
        .collect();
    let count = |state| states.iter().filter(|s| **s == state).count();
    let mut summary = Summary {
        skipped: count(State::Done),
        failed_before: count(State::Failed),
        ..Summary::default()
    };
    let todo: Vec<&Job> = jobs
        .into_iter()
        .zip(&states)
        .filter(|(_, state)| **state == State::Todo)
        .map(|(job, _)| job)
        .collect();
    on_event(Event::Checked {
        done: summary.skipped,
        failed_before: summary.failed_before,
        todo: todo.len(),
    });
    let run = |job: &&Job| prepare_one(job, settings, folder);
    work(&todo, options.workers, run, &mut |row| {
        ledger.append(&row)?;
        if row.failed() {
            summary.failed += 1;
        } else {
            summary.prepared += 1;
        }
        on_event(Event::Finished(&row));
        Ok(())
    })?;
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

/// Refuses a plan whose results would take the place of what it reads; [`prepare`] does so too.
///
/// # Errors
/// [`Error::Field`] with the file.
pub fn check_apart(jobs: &[Job], folder: &Path) -> Result<()> {
    // In a folder that is not there yet lies nothing that could be replaced.
    let Ok(out) = folder.canonicalize() else {
        return Ok(());
    };
    let outputs = jobs
        .iter()
        .flat_map(|job| [Some(&job.scan), job.mask.as_ref(), job.nodules.as_ref()]);
    // Many scans lie in one folder, which may be a link.
    let mut folders: BTreeMap<PathBuf, Option<PathBuf>> = BTreeMap::new();
    let mut real = |path: &Path| {
        let (parent, name) = (path.parent()?, path.file_name()?);
        let here = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        let folder = folders.entry(parent.to_owned());
        let folder = folder.or_insert_with(|| here.canonicalize().ok());
        Some(folder.as_ref()?.join(name))
    };
    let outputs = outputs.flatten().filter_map(|path| real(&out.join(path)));
    let outputs: BTreeSet<PathBuf> = outputs.collect();
    let inputs = jobs.iter().map(|job| &job.input);
    let inputs = inputs.flat_map(|i| [Some(&i.scan), i.mask.as_ref(), i.nodules.as_ref()]);
    for input in inputs.flatten() {
        let link = input.is_symlink().then(|| input.canonicalize().ok());
        let places = [real(input), link.flatten()];
        if places.iter().flatten().any(|place| outputs.contains(place)) {
            let expected = "results in another folder than what they are made from";
            let got = format!("{} for both", folder.display());
            return Err(Error::field(input, "output", expected, got));
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Todo,
    Done,
    Failed,
}

impl State {
    fn of(
        job: &Job,
        rows: &BTreeMap<String, LedgerRow>,
        settings: &PrepareSettings,
        folder: &Path,
        options: &RunOptions,
    ) -> Self {
        let Some(row) = rows.get(job.scan.to_string_lossy().as_ref()) else {
            return State::Todo;
        };
        if is_done(row, job, settings, folder, options.trust_sizes) {
            State::Done
        } else if row.failed() && is_current(row, job, settings) && !options.retry_failed {
            State::Failed
        } else {
            State::Todo
        }
    }
}

/// Removes the temporary files that a killed run left beside outputs of these jobs.
fn remove_leftovers(jobs: &[&Job], folder: &Path) {
    let outputs = jobs
        .iter()
        .flat_map(|job| [Some(&job.scan), job.mask.as_ref(), job.nodules.as_ref()]);
    let outputs: Vec<_> = outputs.flatten().map(|path| folder.join(path)).collect();
    let folders: BTreeSet<_> = outputs.iter().filter_map(|path| path.parent()).collect();
    let keys: BTreeSet<_> = outputs
        .iter()
        .map(|path| path.with_file_name(temporary_key(path)))
        .collect();
    for folder in folders {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let key = key_of_temporary(&name);
            if key.is_some_and(|key| keys.contains(&folder.join(key))) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}
