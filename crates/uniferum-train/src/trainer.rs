//! The loop.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use uniferum_data::{
    Batch, Cut, Dataset, InputSettings, Loader, Notice, Pass, SkippedScan, StreamOptions,
};
use uniferum_fusion::{Prompts, Uniferum, UniferumConfig};
use uniferum_tasks::{Task, trained};

use crate::checkpoint::{self, Best, Parts, RunState, Settings};
use crate::config::{Precision, TrainConfig};
use crate::digest;
use crate::distributed::{Alone, Communicator};
use crate::ema::Averages;
use crate::error::{Error, Result};
use crate::evaluate::{EvaluationReport, ask_scans, has_auroc};
use crate::judge::Intervals;
use crate::learner::{Fusion, Learner, WEIGHTS};
use crate::log::Logs;
use crate::memory::{gpu_mib, resident_mib};
use crate::optimizer::{Gradients, Optimizer, UnreadNorm};
use crate::schedule::{LearningRate, Schedule};
use crate::statistics::RunningStatistics;

/// What a step did; a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// The step, counted from 1.
    pub step: u64,
    /// Its loss.
    pub loss: f32,
    /// Mean loss of its label questions.
    pub label_loss: Option<f32>,
    /// Mean loss of its mask questions, with the mask weight.
    pub mask_loss: Option<f32>,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Scans of the step, over all processes.
    pub scans: usize,
    /// Questions of the step, over all processes.
    pub questions: usize,
    /// Seconds of the step, waiting for data included; the mean of the steps that were read together.
    pub seconds: f64,
    /// Scans a second, over all processes.
    pub samples_per_second: f64,
    /// Seconds that the rest of the run takes at the pace so far.
    pub eta_seconds: f64,
    /// Resident memory of this process, MiB, where the system tells.
    pub memory_mib: Option<f64>,
    /// Memory in use on the GPU, MiB, other processes' included; nothing on a CPU.
    pub gpu_memory_mib: Option<f64>,
}

/// The scans that choose the best weights.
#[derive(Debug, Clone)]
struct Validation {
    dataset: Arc<Dataset>,
    scans: Vec<usize>,
}

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
            Some(decay) => Some(Averages::new(decay, &optimizer)?),
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

    /// Writes checkpoints and logs to a folder; goes on from its newest checkpoint if there is one.
    ///
    /// Returns the number of steps that were found done.
    ///
    /// # Errors
    /// [`Error::File`] where the folder cannot be used or its checkpoint belongs to another configuration:
    /// another recipe, network, input or validation. Settings that change no weight may differ
    /// (`keep_checkpoints`, `checkpoint_every`, `read_loss_every`). [`Error::Distributed`] where processes
    /// find different checkpoints.
    pub fn resume_in(&mut self, folder: &Path) -> Result<u64> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        let settings = self.settings();
        if let Some(path) = checkpoint::latest_checkpoint(folder) {
            self.state = checkpoint::load(
                &path,
                &mut self.learner,
                &mut self.optimizer,
                self.averages.as_mut(),
                &settings,
            )?;
        } else if let Some(decay) = self.config.ema_decay {
            // Weights may have been initialised since the averages were made.
            self.averages = Some(Averages::new(decay, &self.optimizer)?);
        }
        self.agree_on_step(folder)?;
        if self.group.rank() == 0 {
            self.logs = Some(Logs::open(folder, self.state.step)?);
        }
        self.folder = Some(folder.to_owned());
        Ok(self.state.step)
    }

    /// Only the first process writes checkpoints: one that does not see them would start anew in silence.
    fn agree_on_step(&self, folder: &Path) -> Result<()> {
        let mut steps = vec![0.0; self.group.world()];
        steps[self.group.rank()] = self.state.step as f64;
        self.group.sum_f64(&mut steps)?;
        if steps.iter().all(|step| *step == steps[0]) {
            return Ok(());
        }
        Err(Error::Distributed(format!(
            "the processes would go on after different numbers of steps, {steps:?}: is {} shared by all of \
             them?",
            folder.display()
        )))
    }

    /// What a run that goes on must have in common with this one.
    fn settings(&self) -> Settings {
        let validation = self.validation.as_ref();
        let validation = validation.map(|v| digest::of_validation(&v.dataset, &v.scans));
        Settings {
            train: serde_json::json!(self.config),
            model: self.learner.settings(),
            input: serde_json::json!(self.input),
            validation: validation.unwrap_or("none".to_owned()).into(),
        }
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
    /// before stay; where a validation fails, the weights that were to be validated are saved first, and a
    /// run that goes on begins with that validation.
    pub fn run(&mut self, loader: &Loader, mut progress: impl FnMut(&Progress)) -> Result<()> {
        self.check(loader)?;
        let cut = Cut {
            scans_per_pass: self.config.scans_per_pass,
            rank: self.group.rank(),
            world: self.group.world(),
        };
        if self.state.validation_due {
            self.validate()?;
        }
        let (first, start) = (self.state.step, Instant::now());
        let mut passes = loader.passes_with(first, self.config.steps, cut, self.stream.clone())?;
        let (mut clock, mut unread) = (Instant::now(), Vec::new());
        self.interrupted = false;
        while self.state.step < self.config.steps && !self.state.stopped && !self.interrupted {
            unread.push(self.step(&mut passes)?);
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
            let taken = std::mem::take(&mut unread);
            let read: Result<Vec<Progress>> = taken.into_iter().map(Taken::read).collect();
            let mut read = read?;
            let seconds = clock.elapsed().as_secs_f64() / read.len() as f64;
            let pace = start.elapsed().as_secs_f64() / (self.state.step - first) as f64;
            for done in &mut read {
                done.seconds = seconds;
                done.samples_per_second = done.scans as f64 / seconds.max(1e-9);
                done.eta_seconds = pace * (self.config.steps - done.step) as f64;
                done.memory_mib = resident_mib().map(|(now, _)| now);
                done.gpu_memory_mib = gpu_mib(&self.device);
                if let Some(logs) = &mut self.logs {
                    logs.step(done)?;
                }
            }
            if validates && let Err(error) = self.validate() {
                // A scan that cannot be read must not cost the steps since the last checkpoint.
                self.state.validation_due = true;
                self.checkpoint()?;
                return Err(error);
            }
            if saves || self.state.stopped {
                self.checkpoint()?;
            }
            read.iter().for_each(&mut progress);
            clock = Instant::now();
        }
        self.learner.refresh()
    }

    /// Refuses what cannot work before anything is computed, as [`run`](Self::run) does first.
    ///
    /// # Errors
    /// [`Error::Config`] where loader and recipe do not fit together; [`Error::File`] for a loader of other
    /// scans, labels, tasks or sampling than the run was begun with.
    pub fn check(&mut self, loader: &Loader) -> Result<()> {
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
        let judged = self.validation.as_ref();
        if !judged.is_some_and(|v| has_auroc(&v.dataset, &v.scans)) {
            let needs = "validation scans (a split val) with positives and negatives of a label task, which \
                the run has not";
            if self.config.early_stop.is_some() {
                return Err(Error::config("early_stop", needs, "none"));
            }
            if matches!(self.config.schedule, LearningRate::Plateau { .. }) {
                return Err(Error::config("schedule", needs, "plateau"));
            }
        }
        let (summary, steps) = loader.summary();
        if steps == 0 {
            let expected = "at least one question for a training scan";
            return Err(Error::config("tasks", expected, summary.join("; ")));
        }
        let digest = digest::of(loader);
        if let Some(before) = &self.state.data
            && *before != digest
        {
            let what = "the run was started with other scans, labels, tasks, sampling or augmentation; \
                expected those, or another folder";
            return Err(match &self.folder {
                Some(folder) => Error::file(folder, what),
                None => Error::config("loader", "that of the steps before", what),
            });
        }
        self.state.data = Some(digest);
        Ok(())
    }

    /// One optimiser step on one batch, up to the recipe's last.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn train_on(&mut self, batch: &Batch) -> Result<Progress> {
        if self.state.step >= self.config.steps {
            let expected = format!("more than the {} that are taken", self.state.step);
            return Err(Error::config("steps", expected, self.config.steps));
        }
        let pass = Pass {
            step: self.state.step,
            index: 0,
            passes: 1,
            questions: batch.prompts.len(),
            batch: Some(batch.clone()),
            last: true,
        };
        self.step(&mut std::iter::once(Ok(pass)))?.read()
    }

    /// Whether the host need not see a step's loss before the next step: no other process waits for
    /// it, and a GPU would stand still meanwhile.
    fn reads_rarely(&self) -> bool {
        self.device.is_cuda() && self.group.world() == 1
    }

    fn step(
        &mut self,
        passes: &mut dyn Iterator<Item = uniferum_data::Result<Pass>>,
    ) -> Result<Taken> {
        let step = self.state.step;
        let mut gradients = Gradients::default();
        let mut sums = Sums::default();
        let mut statistics = None;
        loop {
            let none = || Error::NoBatches { step: step + 1 };
            let mut pass = passes.next().ok_or_else(none)??;
            // Also of a single pass, where there are processes that have none.
            let shared = pass.passes > 1 || self.group.world() > 1;
            if shared && statistics.is_none() && !self.config.freeze_statistics {
                statistics = Some(RunningStatistics::new(self.learner.variables())?);
            }
            if let Some(statistics) = &statistics {
                statistics.rewind()?;
            }
            if pass.passes > 1 {
                sums.planned = Some(pass.questions);
            }
            if let Some(mut batch) = pass.batch.take() {
                if self.config.precision == Precision::Bf16 {
                    batch.images = batch.images.to_dtype(DType::BF16)?;
                }
                self.pass(&pass, &batch, &mut sums, &mut gradients)?;
                if let Some(statistics) = &mut statistics {
                    statistics.take()?;
                }
            }
            if pass.last {
                break;
            }
        }
        sums.stop = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        sums.reduce(&*self.group)?;
        self.interrupted = sums.stop > 0.0;
        if sums.asked == 0.0 {
            return Err(Error::NoScans { step: step + 1 });
        }
        if sums.bad > 0.0 {
            return Err(Error::NotFinite {
                step: step + 1,
                samples: sums.named("of another process"),
            });
        }
        if self.group.world() > 1 {
            gradients.reduce(&self.optimizer, &*self.group)?;
        }
        gradients.scale(sums.correction())?;
        if let Some(statistics) = statistics {
            statistics.settle(&*self.group)?;
        }
        self.update(&gradients, sums)
    }

    /// Forward and backward of one pass over its batch.
    fn pass(
        &self,
        pass: &Pass,
        batch: &Batch,
        sums: &mut Sums,
        gradients: &mut Gradients,
    ) -> Result<()> {
        // A resumed run drops what it would have dropped.
        let seed = self.config.seed.wrapping_mul(1 << 32);
        let seed = seed.wrapping_add(self.state.step);
        let seed = seed.wrapping_add((pass.index as u64) << 40);
        let loss = self.learner.loss(batch, &self.config.loss, seed)?;
        sums.hold(batch, loss.per_sample)?;
        if !self.reads_rarely() && !sums.take()? {
            return Ok(());
        }
        let grads = if pass.passes == 1 {
            loss.total.backward()?
        } else {
            let share = batch.prompts.len() as f64 / pass.questions.max(1) as f64;
            (loss.total * share)?.backward()?
        };
        gradients.add(&self.optimizer, &grads)
    }

    fn update(&mut self, gradients: &Gradients, sums: Sums) -> Result<Taken> {
        let schedule = Schedule {
            peak: self.config.learning_rate,
            warmup: self.config.warmup_steps,
            steps: self.config.steps,
        };
        let plateau = &self.state.plateau;
        let learning_rate = schedule.rate(&self.config.schedule, plateau, self.state.step);
        let mut taken = Taken {
            step: self.state.step + 1,
            learning_rate,
            norm: Norm::Known(0.0),
            sums,
        };
        if let Some(norm) = self.optimizer.apply_unread(gradients, learning_rate)? {
            taken.norm = Norm::Unread(norm);
        }
        if !self.reads_rarely() {
            taken.read_norm()?;
        }
        self.state.step += 1;
        if let Some(averages) = &self.averages {
            averages.update(&self.optimizer, self.state.step)?;
        }
        Ok(taken)
    }

    /// Runs `work` with the averaged weights where there are averages.
    fn averaged<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.averages {
            Some(averages) => averages.instead(&self.optimizer, work),
            None => work(),
        }
    }

    /// Asks the validation scans; the first process does it for all.
    fn validate(&mut self) -> Result<()> {
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

    /// Writes a checkpoint now, if the run has a folder and this is its first process.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn checkpoint(&self) -> Result<()> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.group.rank() == 0) else {
            return Ok(());
        };
        let parts = Parts {
            learner: &self.learner,
            optimizer: &self.optimizer,
            averages: self.averages.as_ref(),
            state: &self.state,
            settings: self.settings(),
            questions: &self.questions,
            keep: self.config.keep_checkpoints,
        };
        checkpoint::save(folder, &parts)?;
        Ok(())
    }

    /// Writes the model alone, with what its use needs beside it: configuration, tokenizer and, where
    /// they are known, the input's settings and the questions.
    ///
    /// Averages take the place of the weights where the recipe keeps them, and adapters are merged.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::File`].
    pub fn save_model(&self, path: &Path) -> Result<()> {
        self.averaged(|| self.learner.save(path))?;
        let Some(folder) = path.parent() else {
            return Ok(());
        };
        if let Some(input) = &self.input {
            input.save(folder)?;
        }
        if !self.questions.is_empty() {
            trained::save(folder, &self.questions)?;
        }
        Ok(())
    }

    /// Writes the adapters alone, as averages where the recipe keeps them; false where there are none.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn export_adapter(&self, folder: &Path) -> Result<bool> {
        self.averaged(|| self.learner.export_adapter(folder))
    }
}

fn is_due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// A step that has been taken, whose numbers may still be on the device.
#[derive(Debug)]
struct Taken {
    step: u64,
    learning_rate: f64,
    norm: Norm,
    sums: Sums,
}

#[derive(Debug)]
enum Norm {
    Known(f64),
    Unread(UnreadNorm),
}

impl Taken {
    /// Waits for the step where that was not done before.
    fn read(mut self) -> Result<Progress> {
        if !self.sums.take()? {
            return Err(Error::NotFinite {
                step: self.step,
                samples: self.sums.named("of this process"),
            });
        }
        let gradient_norm = self.read_norm()?;
        let sums = self.sums;
        let mean = |sum: f64, n: f64| (n > 0.0).then_some((sum / n) as f32);
        let questions = sums.labels + sums.masks;
        Ok(Progress {
            step: self.step,
            loss: ((sums.label_loss + sums.mask_loss) / questions.max(1.0)) as f32,
            label_loss: mean(sums.label_loss, sums.labels),
            mask_loss: mean(sums.mask_loss, sums.masks),
            gradient_norm,
            learning_rate: self.learning_rate,
            scans: sums.scans as usize,
            questions: questions as usize,
            seconds: 0.0,
            samples_per_second: 0.0,
            eta_seconds: 0.0,
            memory_mib: None,
            gpu_memory_mib: None,
        })
    }

    /// The norm, if it is finite; waits for it.
    fn read_norm(&mut self) -> Result<f64> {
        let norm = match &self.norm {
            Norm::Known(norm) => *norm,
            Norm::Unread(norm) => norm.read()?,
        };
        self.norm = Norm::Known(norm);
        if norm.is_finite() {
            return Ok(norm);
        }
        Err(Error::GradientNotFinite {
            step: self.step,
            samples: self.sums.names.clone(),
        })
    }
}

/// Losses of a step, summed over passes and processes.
#[derive(Debug, Default)]
struct Sums {
    /// Passes whose losses have not been read.
    held: Vec<Held>,
    label_loss: f64,
    labels: f64,
    mask_loss: f64,
    masks: f64,
    scans: f64,
    /// Questions, whether their losses have been read or not.
    asked: f64,
    bad: f64,
    /// Processes that were asked to stop.
    stop: f64,
    /// Questions that the shares of a step's passes were made for.
    planned: Option<usize>,
    names: Vec<String>,
    bad_names: Vec<String>,
}

/// The losses of one pass.
#[derive(Debug)]
struct Held {
    losses: Tensor,
    kinds: Tensor,
    names: Vec<String>,
}

impl Sums {
    /// Keeps the losses of a pass where they are.
    fn hold(&mut self, batch: &Batch, losses: Tensor) -> Result<()> {
        self.scans += batch.images.dim(0)? as f64;
        self.asked += batch.prompts.len() as f64;
        self.held.push(Held {
            losses,
            kinds: batch.is_segmentation.clone(),
            names: batch.names.clone(),
        });
        Ok(())
    }

    /// Reads and adds the losses that were kept; false where one of all is not finite.
    fn take(&mut self) -> Result<bool> {
        for held in self.held.drain(..) {
            let losses = held.losses.to_vec1::<f32>()?;
            let kinds = held.kinds.to_vec1::<f32>()?;
            for ((loss, kind), name) in losses.iter().zip(kinds).zip(held.names) {
                let (sum, count) = if kind > 0.5 {
                    (&mut self.mask_loss, &mut self.masks)
                } else {
                    (&mut self.label_loss, &mut self.labels)
                };
                *sum += f64::from(*loss);
                *count += 1.0;
                if !loss.is_finite() {
                    self.bad += 1.0;
                    self.bad_names.push(name.clone());
                }
                self.names.push(name);
            }
        }
        Ok(self.bad == 0.0)
    }

    fn reduce(&mut self, group: &dyn Communicator) -> Result<()> {
        let own = [
            &mut self.label_loss,
            &mut self.labels,
            &mut self.mask_loss,
            &mut self.masks,
            &mut self.scans,
            &mut self.asked,
            &mut self.bad,
            &mut self.stop,
        ];
        let mut values: Vec<f64> = own.iter().map(|v| **v).collect();
        group.sum_f64(&mut values)?;
        for (own, sum) in own.into_iter().zip(values) {
            *own = sum;
        }
        Ok(())
    }

    /// What the summed gradients of several passes lack to be the mean over the questions that were
    /// asked: scans that could not be read were planned, but not asked about.
    fn correction(&self) -> f64 {
        self.planned
            .map_or(1.0, |planned| planned as f64 / self.asked.max(1.0))
    }

    /// The questions that went wrong here, or a word for those elsewhere.
    fn named(self, elsewhere: &str) -> Vec<String> {
        if self.bad_names.is_empty() {
            return vec![format!("{} questions {elsewhere}", self.bad)];
        }
        self.bad_names
    }
}

impl<L: Learner> std::fmt::Debug for Trainer<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("state", &self.state)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
