//! The loop.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Tensor};
use candle_nn::{VarBuilder, VarMap};
use serde::Serialize;
use uniferum_data::{Batch, Loader};
use uniferum_fusion::{Prompts, Uniferum, UniferumConfig, trainable_vars};
use uniferum_metrics::losses::{MultitaskLoss, Targets, multitask_loss};

use crate::checkpoint;
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;

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
    /// Scans of the step.
    pub scans: usize,
    /// Questions of the step.
    pub questions: usize,
    /// Seconds of the step, waiting for data included.
    pub seconds: f64,
}

/// A model in training.
pub struct Trainer {
    model: Uniferum,
    model_config: UniferumConfig,
    vars: VarMap,
    prompts: Prompts,
    optimizer: Optimizer,
    config: TrainConfig,
    step: u64,
    folder: Option<PathBuf>,
}

impl Trainer {
    /// A model with fresh weights.
    ///
    /// # Errors
    /// [`Error::Config`] for a recipe that cannot work, [`Error::Model`] for a model that cannot.
    pub fn new(
        model_config: &UniferumConfig,
        prompts: Prompts,
        config: TrainConfig,
        device: &candle_core::Device,
    ) -> Result<Self> {
        config.validate()?;
        prompts.check(&model_config.bert)?;
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, device);
        let mut model = Uniferum::new(model_config, vb)?;
        model.set_freeze(config.freeze);
        let optimizer = Optimizer::new(trainable_vars(&vars, config.freeze), &config)?;
        Ok(Self {
            model,
            model_config: model_config.clone(),
            vars,
            prompts,
            optimizer,
            config,
            step: 0,
            folder: None,
        })
    }

    /// Writes checkpoints and `log.jsonl` to a folder; goes on from its newest checkpoint if there is one.
    ///
    /// Returns the number of steps that were found done.
    ///
    /// # Errors
    /// [`Error::File`] where the folder cannot be used or its checkpoint belongs to another configuration.
    pub fn resume_in(&mut self, folder: &Path) -> Result<u64> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        if let Some(path) = checkpoint::latest_checkpoint(folder) {
            self.step = checkpoint::load(
                &path,
                &self.vars,
                &self.model_config,
                &mut self.optimizer,
                &self.config,
            )?;
        }
        self.folder = Some(folder.to_owned());
        Ok(self.step)
    }

    /// The model as it is now.
    pub fn model(&self) -> &Uniferum {
        &self.model
    }

    /// The tokenizer.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.optimizer.parameters()
    }

    /// Trains to the last step; `progress` sees each step.
    ///
    /// # Errors
    /// [`Error::NotFinite`] naming the questions; [`Error::Data`] naming the scan. Checkpoints written
    /// before stay.
    pub fn run(&mut self, loader: &Loader, mut progress: impl FnMut(&Progress)) -> Result<()> {
        let batches = loader.stream(self.step, self.config.steps);
        while self.step < self.config.steps {
            let start = Instant::now();
            let Ok(batch) = batches.recv() else { break };
            let mut done = self.train_on(&batch?)?;
            done.seconds = start.elapsed().as_secs_f64();
            self.log(&done)?;
            let every = self.config.checkpoint_every;
            let last = self.step == self.config.steps;
            if last || (every > 0 && self.step.is_multiple_of(every)) {
                self.checkpoint()?;
            }
            progress(&done);
        }
        Ok(())
    }

    /// One optimiser step.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn train_on(&mut self, batch: &Batch) -> Result<Progress> {
        let schedule = Schedule {
            peak: self.config.learning_rate,
            warmup: self.config.warmup_steps,
            steps: self.config.steps,
        };
        let learning_rate = schedule.at(self.step);
        // A resumed run drops what it would have dropped.
        self.model.set_dropout_seed(
            self.config
                .seed
                .wrapping_mul(1 << 32)
                .wrapping_add(self.step),
        );
        let loss = self.loss(batch)?;
        let (label_loss, mask_loss) = self.parts(batch, &loss)?;
        let total = loss.total.to_scalar::<f32>()?;
        let grads = loss.total.backward()?;
        let gradient_norm = self.optimizer.step(&grads, learning_rate)?;
        self.step += 1;
        Ok(Progress {
            step: self.step,
            loss: total,
            label_loss,
            mask_loss,
            gradient_norm,
            learning_rate,
            scans: batch.images.dim(0)?,
            questions: batch.prompts.len(),
            seconds: 0.0,
        })
    }

    fn loss(&self, batch: &Batch) -> Result<MultitaskLoss> {
        let text = self.prompts.encode(&batch.prompts, batch.images.device())?;
        let tokens = self
            .model
            .vision()
            .forward_t(&batch.images, true)
            .map_err(uniferum_fusion::Error::from)?;
        // One encoding answers all questions about its scan.
        let tokens = tokens.index_select(&batch.image_of, 0)?;
        let output = self.model.ask_t(&tokens, &text.ids, &text.mask)?;
        let targets = Targets {
            labels: &batch.labels,
            masks: &batch.masks,
            is_segmentation: &batch.is_segmentation,
        };
        Ok(multitask_loss(
            &output.cls,
            &output.seg,
            &targets,
            &self.config.loss,
        )?)
    }

    /// Mean losses by kind; an error that names the questions whose loss is not finite.
    fn parts(&self, batch: &Batch, loss: &MultitaskLoss) -> Result<(Option<f32>, Option<f32>)> {
        let losses = loss.per_sample.to_vec1::<f32>()?;
        let kinds = batch.is_segmentation.to_vec1::<f32>()?;
        let bad = |(loss, name): (&f32, &String)| (!loss.is_finite()).then(|| name.clone());
        let samples: Vec<String> = losses.iter().zip(&batch.names).filter_map(bad).collect();
        if !samples.is_empty() {
            return Err(Error::NotFinite {
                step: self.step + 1,
                samples,
            });
        }
        let mean = |kind: f32| {
            let of: Vec<f32> = losses
                .iter()
                .zip(&kinds)
                .filter(|(_, k)| **k == kind)
                .map(|(l, _)| *l)
                .collect();
            (!of.is_empty()).then(|| of.iter().sum::<f32>() / of.len() as f32)
        };
        Ok((mean(0.0), mean(1.0)))
    }

    /// Writes a checkpoint now, if the run has a folder.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn checkpoint(&self) -> Result<()> {
        if let Some(folder) = &self.folder {
            checkpoint::save(
                folder,
                self.step,
                &self.vars,
                &self.model_config,
                &self.optimizer,
                &self.config,
            )?;
        }
        Ok(())
    }

    /// Writes the model alone, with its configuration beside it.
    ///
    /// # Errors
    /// [`Error::Model`].
    pub fn save_model(&self, path: &Path) -> Result<()> {
        Ok(uniferum_fusion::checkpoint::save(
            path,
            &self.vars,
            &self.model_config,
        )?)
    }

    fn log(&self, done: &Progress) -> Result<()> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let path = folder.join("log.jsonl");
        let line = serde_json::to_string(done).map_err(|e| Error::file(&path, e))?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{line}"))
            .map_err(|e| Error::file(&path, e))
    }
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("step", &self.step)
            .field("config", &self.config)
            .finish()
    }
}

/// Sigmoid of a logit.
pub(crate) fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// All elements of a tensor.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
