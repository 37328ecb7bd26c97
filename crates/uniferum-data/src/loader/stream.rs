//! Batches of a training run by step number, made ahead on threads of their own.

use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use uniferum_ct::transform::{Augment, AugmentDraw};

use super::{Cut, Dataset, LoaderStatistics, Passes};
use crate::collate::Batch;
use crate::error::{Error, Result};
use crate::sampler::{Epoch, Question, SamplerConfig};

/// What happens when a scan cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// The stream ends with an error that names the scan.
    #[default]
    Stop,
    /// The scan is left out of its batch, counted, and reported the first time. A step of which no scan
    /// can be read still ends the stream, or training where the step has several passes.
    SkipAndReport,
}

/// Something that whoever waits for batches should know now.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// The next batch is waited for, because of this scan.
    Waiting {
        /// The scan that takes longest, if one is being read.
        scan: Option<String>,
        /// Seconds that it has taken so far.
        seconds: f64,
    },
    /// A scan was left out for the first time, of a batch or of a validation.
    Skipped {
        /// The scan's file.
        scan: String,
        /// Why, with the scan's name.
        reason: String,
    },
}

impl std::fmt::Display for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Notice::Waiting { scan, seconds } => {
                let scan = scan.as_deref().unwrap_or("a free thread");
                write!(
                    f,
                    "waiting for data: {scan} has taken {seconds:.0} s so far"
                )
            }
            Notice::Skipped { reason, .. } => write!(f, "left out: {reason}"),
        }
    }
}

/// Whoever hears notices; it is called from several threads.
pub type Listener = Arc<dyn Fn(&Notice) + Send + Sync>;

/// How a stream is made.
#[derive(Clone)]
pub struct StreamOptions {
    /// Threads that read and prepare scans; 0 for one a core.
    pub threads: usize,
    /// Batches that may be ready or in the making. With `scans` scans of a model array of `n` bytes a
    /// step, at most `ahead * scans * n` bytes are held, beside the dataset's cache: in the host's
    /// memory, or on a GPU, which makes these arrays itself from the scans that are read.
    pub ahead: usize,
    /// What happens when a scan cannot be read.
    pub on_error: OnError,
    /// How long a batch may keep its receiver waiting before a notice is given, and again.
    pub patience: Duration,
    /// Who hears of skipped scans and long waits; standard error where nobody is named.
    pub notice: Option<Listener>,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            threads: 0,
            ahead: 2,
            on_error: OnError::Stop,
            patience: Duration::from_secs(30),
            notice: None,
        }
    }
}

impl std::fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamOptions")
            .field("threads", &self.threads)
            .field("ahead", &self.ahead)
            .field("on_error", &self.on_error)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

impl StreamOptions {
    pub(super) fn validate(&self) -> Result<()> {
        if self.ahead == 0 {
            return Err(Error::config("ahead", "at least one batch", 0));
        }
        if self.patience.is_zero() {
            return Err(Error::config("patience", "more than no time", "0 s"));
        }
        Ok(())
    }

    /// Gives a notice to whoever hears notices.
    pub fn tell(&self, notice: &Notice) {
        match &self.notice {
            Some(listener) => listener(notice),
            None => eprintln!("warning: {notice}"),
        }
    }
}

/// Batches of a training run by step number, made ahead on threads of their own.
#[derive(Debug, Clone)]
pub struct Loader {
    /// The scans and tasks.
    pub dataset: Arc<Dataset>,
    /// The scans to draw from.
    pub scans: Vec<usize>,
    /// How epochs are drawn.
    pub sampler: SamplerConfig,
    /// Augmentation, if any.
    pub augment: Option<Augment>,
    /// Scans a step.
    pub scans_per_step: usize,
    /// Questions that share one encoding.
    pub questions_per_scan: usize,
    /// The seed of everything.
    pub seed: u64,
    /// Where tensors go.
    pub device: Device,
}

impl Loader {
    /// The questions of an epoch, packed.
    pub(super) fn epoch(&self, epoch: u64) -> (Epoch, Vec<Vec<Vec<Question>>>) {
        let d = &self.dataset;
        let drawn = Epoch::draw(
            &d.manifest,
            &self.scans,
            &d.tasks,
            &self.sampler,
            self.seed,
            epoch,
        );
        let packed = drawn.batches(
            self.scans_per_step,
            self.questions_per_scan,
            self.seed,
            epoch,
        );
        (drawn, packed)
    }

    /// What the first epoch asks, a line a task, and how many steps it takes.
    pub fn summary(&self) -> (Vec<String>, usize) {
        let (epoch, packed) = self.epoch(0);
        (epoch.summary, packed.len())
    }

    /// Batches of the steps `start..end`, two of them ahead; a pure function of the settings and the step.
    ///
    /// They end after an error, which is the last item; settings that cannot work are the only one.
    /// [`Loader::stream_with`] has settings and tells what it did.
    pub fn stream(&self, start: u64, end: u64) -> impl Iterator<Item = Result<Batch>> + use<> {
        let (batches, refused) = match self.stream_with(start, end, StreamOptions::default()) {
            Ok(batches) => (Some(batches), None),
            Err(error) => (None, Some(Err(error))),
        };
        refused.into_iter().chain(batches.into_iter().flatten())
    }

    /// Batches of the steps `start..end`, prepared by several threads and handed out in order.
    ///
    /// What a batch holds depends on the settings and the step, never on threads or time. Reading stops
    /// while `options.ahead` batches are waiting. [`Loader::passes_with`] cuts steps for several processes.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work, or where there is nothing to ask.
    pub fn stream_with(&self, start: u64, end: u64, options: StreamOptions) -> Result<Batches> {
        let passes = self.passes_with(start, end, Cut::WHOLE, options)?;
        Ok(Batches { passes })
    }

    /// The augmentations of a whole step's groups: by their places in it, as one scan may be asked the
    /// same several times an epoch.
    pub(super) fn draws(&self, groups: usize, step: u64) -> Option<Vec<AugmentDraw>> {
        let augment = self.augment.as_ref()?;
        let draw = |place| AugmentDraw::from_seed(augment, self.seed, place, step);
        Some((0..groups as u64).map(draw).collect())
    }
}

/// Batches in the order of their steps; an iterator that ends after the last step or after an error.
///
/// Dropping it stops the threads after the scans that they are reading.
#[derive(Debug)]
pub struct Batches {
    passes: Passes,
}

impl Batches {
    /// What was read, waited for and left out up to now.
    pub fn statistics(&self) -> LoaderStatistics {
        self.passes.statistics()
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        // A step that is not cut has a batch.
        self.passes.next()?.map(|pass| pass.batch).transpose()
    }
}
