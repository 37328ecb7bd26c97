//! The loop.

mod keep;
mod step;
mod taken;
mod validation;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::Device;
use uniferum_data::{Cut, Dataset, InputSettings, Loader, StreamOptions};
use uniferum_fusion::{Prompts, Uniferum, UniferumConfig};
use uniferum_tasks::Task;

use crate::checkpoint::RunState;
use crate::config::TrainConfig;
use crate::digest;
use crate::distributed::{Alone, Communicator};
use crate::ema::Averages;
use crate::error::{Error, Result};
use crate::evaluate::has_auroc;
use crate::learner::{Fusion, Learner};
use crate::log::Logs;
use crate::memory::{gpu_mib, resident_mib};
use crate::optimizer::Optimizer;
use crate::schedule::LearningRate;
use taken::Taken;
use validation::Validation;

pub use taken::Progress;

/// A model in training: [`Fusion`], which is Uniferum with its tokenizer, unless said otherwise.
pub struct Trainer<L: Learner = Fusion> {
    learner: L,
    optimizer: Optimizer,
    averages: Option<Averages>,
    config: TrainConfig,
    device: Device,
    state: RunState,
    validation: Option<Validation>,
    input: Option<InputSettings>,
    questions: Vec<Task>,
    stop: Arc<AtomicBool>,
    interrupted: bool,
    stream: StreamOptions,
    /// Validation scans that were reported as left out.
    reported: BTreeSet<String>,
    group: Box<dyn Communicator>,
    folder: Option<PathBuf>,
    logs: Option<Logs>,
}

impl Trainer<Fusion> {
    /// A model with fresh weights, which are a function of the recipe's seed.
    ///
    /// # Errors
    /// [`Error::Config`] for a recipe that cannot work, [`Error::Model`] for a model that cannot.
    pub fn new(
        model_config: &UniferumConfig,
        prompts: Prompts,
        config: TrainConfig,
        device: &Device,
    ) -> Result<Self> {
        config.validate()?;
        let learner = Fusion::new(model_config, prompts, &config, device)?;
        Self::with(learner, config, device)
    }

    /// The model as it is now.
    pub fn model(&self) -> &Uniferum {
        &self.learner.model
    }

    /// The tokenizer.
    pub fn prompts(&self) -> &Prompts {
        &self.learner.prompts
    }
}

impl<L: Learner> Trainer<L> {
    /// A trainer of any model.
    ///
    /// # Errors
    /// [`Error::Config`] for a recipe that cannot work.
    pub fn with(learner: L, config: TrainConfig, device: &Device) -> Result<Self> {
        config.validate()?;
        config.validate_for(device, 1)?;
        let optimizer = Optimizer::new(learner.trained(), &config)?;
        let averages = match config.ema_decay {
            Some(decay) => Some(Averages::new(decay, &optimizer, learner.variables())?),
            None => None,
        };
        Ok(Self {
            learner,
            optimizer,
            averages,
            config,
            device: device.clone(),
            state: RunState::default(),
            validation: None,
            input: None,
            questions: Vec::new(),
            stop: Arc::default(),
            interrupted: false,
            stream: StreamOptions::default(),
            reported: BTreeSet::new(),
            group: Box::new(Alone),
            folder: None,
            logs: None,
        })
    }

    /// Shares each step with other processes; before [`resume_in`](Self::resume_in).
    ///
    /// # Errors
    /// [`Error::Config`] for a recipe that does not fit their number.
    pub fn join(&mut self, group: Box<dyn Communicator>) -> Result<()> {
        self.config.validate_for(&self.device, group.world())?;
        self.group = group;
        Ok(())
    }

    /// Scans by which the best weights are chosen, the plateau falls and training stops early; before
    /// [`resume_in`](Self::resume_in).
    ///
    /// # Errors
    /// [`Error::Config`] where there are none.
    pub fn validate_on(&mut self, dataset: Arc<Dataset>, scans: Vec<usize>) -> Result<()> {
        if scans.is_empty() {
            return Err(Error::config("validation scans", "at least one", "none"));
        }
        let all = dataset.manifest.scans.len();
        if let Some(place) = scans.iter().find(|place| **place >= all) {
            let expected = format!("places among the {all} of the dataset");
            return Err(Error::config("validation scans", expected, place));
        }
        self.validation = Some(Validation { dataset, scans });
        Ok(())
    }

    /// How scans were prepared; written beside each model that is saved. Before
    /// [`resume_in`](Self::resume_in).
    pub fn set_input(&mut self, input: InputSettings) {
        self.input = Some(input);
    }

    /// The questions that the model learns, or has learnt before; written beside each model that is saved.
    pub fn set_questions(&mut self, questions: Vec<Task>) {
        self.questions = questions;
    }

    /// How scans are read ahead, and what happens to those that cannot be read, in validation too.
    pub fn set_stream(&mut self, options: StreamOptions) {
        self.stream = options;
    }

    /// A flag, as of a signal, that ends [`run`](Self::run) behind the step that is being taken, with a
    /// checkpoint; one of any process ends all.
    pub fn set_stop(&mut self, flag: Arc<AtomicBool>) {
        self.stop = flag;
    }

    /// Whether the last [`run`](Self::run) was ended by the [flag](Self::set_stop).
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// The model with what training needs of it.
    pub fn learner(&self) -> &L {
        &self.learner
    }

    /// Where the run is.
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.optimizer.parameters()
    }

    /// Trains to the last step, or until validation says that it is enough; `progress` sees each step.
    ///
    /// On a GPU that trains alone losses are read every `read_loss_every` steps and before each
    /// validation and checkpoint: the steps in between come together, with their mean pace, and a
    /// loss that is not finite is found then. A gradient that is not finite changes no weight.
    ///
    /// # Errors
    /// [`Error::Config`] before the first step where loader and recipe do not fit together;
    /// [`Error::NotFinite`] naming the questions; [`Error::Data`] naming the scan. Checkpoints written
    /// before stay; where a scan cannot be read, the steps taken are saved first, and a run that goes on
    /// begins with the step or the validation that lacked it.
    pub fn run(&mut self, loader: &Loader, progress: impl FnMut(&Progress)) -> Result<()> {
        let trained = self.train(loader, progress);
        // Also of a run that failed the model is the one with its adapters.
        let refreshed = self.learner.refresh();
        trained.and(refreshed)
    }

    fn train(&mut self, loader: &Loader, mut progress: impl FnMut(&Progress)) -> Result<()> {
        self.check(loader)?;
        let cut = Cut {
            scans_per_pass: self.config.scans_per_pass,
            rank: self.group.rank(),
            world: self.group.world(),
        };
        if self.state.validation_due {
            self.validate()?;
            self.checkpoint()?;
        }
        let mut pace = Pace::from(self.state.step);
        let options = self.stream.clone();
        let mut passes = loader.passes_with(self.state.step, self.config.steps, cut, options)?;
        let mut unread = Vec::new();
        self.interrupted = false;
        while self.state.step < self.config.steps && !self.state.stopped && !self.interrupted {
            match self.step(&mut passes) {
                Ok(taken) => unread.push(taken),
                Err(error) if error.is_of_data() && self.state.step > pace.first => {
                    let read = self.read(unread, &pace)?;
                    let saved = self.checkpoint();
                    self.wait_for_all()?;
                    read.iter().for_each(progress);
                    return Err(match saved {
                        Ok(()) => error,
                        Err(lost) => Error::Unsaved {
                            first: Box::new(error),
                            then: Box::new(lost),
                        },
                    });
                }
                Err(error) => return Err(error),
            }
            let last = self.state.step == self.config.steps;
            let validates = last || is_due(self.config.validate_every, self.state.step);
            let due = is_due(self.config.checkpoint_every, self.state.step);
            let saves = last || due || self.interrupted;
            if self.reads_rarely()
                && (unread.len() as u64) < self.config.read_loss_every
                && !(validates || saves)
            {
                continue;
            }
            let read = self.read(std::mem::take(&mut unread), &pace)?;
            if validates && let Err(error) = self.validate() {
                self.state.validation_due = true;
                self.checkpoint()?;
                return Err(error);
            }
            if saves || self.state.stopped {
                self.checkpoint()?;
            }
            if self.interrupted {
                self.wait_for_all()?;
            }
            read.iter().for_each(&mut progress);
            pace.since = Instant::now();
        }
        Ok(())
    }

    /// Until the first process has written its checkpoint: a launcher ends it when another leaves.
    fn wait_for_all(&self) -> Result<()> {
        self.group.sum_f64(&mut [0.0])
    }

    /// Ends this process after an error, and with it those that wait for it.
    pub fn abort(&self) -> ! {
        self.group.abort()
    }

    /// Refuses processes that were given different data or settings: their gradients would be summed all the
    /// same.
    fn agree_on_run(&self, digest: &str) -> Result<()> {
        let (rank, world) = (self.group.rank(), self.group.world());
        // 48 bits are exact in a sum of double precision.
        let short = |text: &str| u64::from_str_radix(&text[..12], 16).unwrap_or_default() as f64;
        let mut numbers = vec![0.0; 2 * world];
        numbers[2 * rank] = short(digest);
        numbers[2 * rank + 1] = short(&digest::of_settings(&self.settings()));
        self.group.sum_f64(&mut numbers)?;
        let of = |rank: usize| &numbers[2 * rank..2 * rank + 2];
        let Some(other) = (1..world).find(|&r| of(r) != of(0)) else {
            return Ok(());
        };
        let what = match of(other)[0] == of(0)[0] {
            true => "settings",
            false => "scans, labels, tasks, sampling or seeds",
        };
        Err(Error::Distributed(format!(
            "processes 0 and {other} were given different {what}; expected the same command line and tables"
        )))
    }

    /// Waits for steps that were taken, and logs them.
    fn read(&mut self, taken: Vec<Taken>, pace: &Pace) -> Result<Vec<Progress>> {
        let read: Result<Vec<Progress>> = taken.into_iter().map(Taken::read).collect();
        let mut read = read?;
        let seconds = pace.since.elapsed().as_secs_f64() / read.len().max(1) as f64;
        let mean = pace.start.elapsed().as_secs_f64() / (self.state.step - pace.first) as f64;
        for done in &mut read {
            done.seconds = seconds;
            done.samples_per_second = done.scans as f64 / seconds.max(1e-9);
            done.eta_seconds = mean * (self.config.steps - done.step) as f64;
            done.memory_mib = resident_mib().map(|(now, _)| now);
            done.gpu_memory_mib = gpu_mib(&self.device);
            if let Some(logs) = &mut self.logs {
                logs.step(done)?;
            }
        }
        Ok(read)
    }

    /// Refuses what cannot work before anything is computed, as [`run`](Self::run) does first.
    ///
    /// # Errors
    /// [`Error::Config`] where loader and recipe do not fit together; [`Error::File`] for a loader of other
    /// scans, labels, tasks or sampling than the run was begun with.
    pub fn check(&mut self, loader: &Loader) -> Result<()> {
        self.check_recipe(loader)?;
        self.check_validation()?;
        let (summary, steps) = loader.summary();
        if steps == 0 {
            let expected = "at least one question for a training scan";
            return Err(Error::config("tasks", expected, summary.join("; ")));
        }
        let digest = digest::of(loader);
        self.agree_on_run(&digest)?;
        if let Some(before) = &self.state.data
            && *before != digest
        {
            let what = "scans, labels, tasks, sampling and augmentation";
            return Err(match &self.folder {
                Some(folder) => Error::file(
                    folder,
                    format!(
                        "the run was started with other {what}; expected those, or another folder"
                    ),
                ),
                None => Error::config(what, "those that the run was started with", "others"),
            });
        }
        self.state.data = Some(digest);
        Ok(())
    }

    /// Refuses a loader of another recipe.
    fn check_recipe(&self, loader: &Loader) -> Result<()> {
        let expected = self.config.scans_per_step;
        if loader.scans_per_step != expected {
            let got = format!("{} of the loader", loader.scans_per_step);
            return Err(Error::config("scans_per_step", expected, got));
        }
        let (ours, theirs) = (self.config.questions_per_scan, loader.questions_per_scan);
        if ours != theirs {
            let got = format!("{theirs} of the loader");
            return Err(Error::config("questions_per_scan", ours, got));
        }
        if loader.sampler != self.config.sampler {
            let (expected, got) = (&self.config.sampler, &loader.sampler);
            let got = format!("{got:?} of the loader");
            return Err(Error::config("sampler", format!("{expected:?}"), got));
        }
        Ok(())
    }

    /// Refuses what waits for an AUROC that no validation will give.
    fn check_validation(&self) -> Result<()> {
        let judged = self.validation.as_ref();
        if judged.is_some_and(|v| has_auroc(&v.dataset, &v.scans)) {
            return Ok(());
        }
        let needs = "validation scans (a split val) with positives and negatives of a label task, which the \
             run has not";
        if self.config.early_stop.is_some() {
            return Err(Error::config("early_stop", needs, "none"));
        }
        if matches!(self.config.schedule, LearningRate::Plateau { .. }) {
            return Err(Error::config("schedule", needs, "plateau"));
        }
        Ok(())
    }

    /// Runs `work` with the averaged weights where there are averages.
    fn averaged<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.averages {
            Some(averages) => averages.instead(work),
            None => work(),
        }
    }
}

/// How long steps take.
struct Pace {
    /// Steps that were done before.
    first: u64,
    start: Instant,
    /// When steps were read last.
    since: Instant,
}

impl Pace {
    fn from(first: u64) -> Self {
        let now = Instant::now();
        Self {
            first,
            start: now,
            since: now,
        }
    }
}

fn is_due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

impl<L: Learner> std::fmt::Debug for Trainer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("state", &self.state)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
