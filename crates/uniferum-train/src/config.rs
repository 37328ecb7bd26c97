//! The recipe.

use candle_core::Device;
use serde::{Deserialize, Serialize};
use uniferum_data::SamplerConfig;
use uniferum_fusion::Freeze;
use uniferum_metrics::losses::LossConfig;

use crate::error::{Error, Result};
use crate::lora::LoraConfig;
use crate::schedule::LearningRate;

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Scans a step, over all processes.
    pub scans_per_step: usize,
    /// Scans that go through the model at once; a step of more scans accumulates gradients.
    pub scans_per_pass: usize,
    /// Questions that share one encoding; 1 is the paper's.
    pub questions_per_scan: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: LearningRate,
    /// Steps over which the learning rate rises from 0.
    pub warmup_steps: u64,
    /// Decoupled weight decay of everything but biases, norms and the CLS and SEP vectors.
    pub weight_decay: f64,
    /// AdamW's first decay.
    pub beta1: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// Largest global norm of the gradient; larger ones are scaled down.
    pub clip_norm: f64,
    /// Decay of the exponential moving average of the weights; none is kept without it.
    ///
    /// Validation and saved models then use the averages.
    pub ema_decay: Option<f64>,
    /// Losses and their weights.
    pub loss: LossConfig,
    /// How epochs are drawn.
    pub sampler: SamplerConfig,
    /// What is not trained.
    pub freeze: Freeze,
    /// Whether batch norms keep their running statistics, also in training.
    pub freeze_statistics: bool,
    /// Low-rank adapters of a frozen transformer.
    pub lora: Option<LoraConfig>,
    /// Number format of the forward and backward pass.
    pub precision: Precision,
    /// Steps between readings of the loss where a GPU trains alone: reading each step's would let it
    /// stand still. Elsewhere each step's loss is read.
    pub read_loss_every: u64,
    /// Seed of sampling, augmentation, fresh weights and dropout.
    pub seed: u64,
    /// Steps between validations; 0 for none but the last.
    pub validate_every: u64,
    /// Validations without a better macro AUROC after which training stops.
    pub early_stop: Option<u64>,
    /// Steps between checkpoints; 0 for none but the last.
    pub checkpoint_every: u64,
    /// Checkpoints kept; the best model is kept besides.
    pub keep_checkpoints: usize,
}

/// Number format of the passes; weights and optimiser are always `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16 activations and products, on a GPU; norms, their statistics, the transformer's
    /// residual sums and the losses stay single precision.
    Bf16,
}

impl Default for TrainConfig {
    /// The paper's recipe (section 3.6), with the trainer defaults of its release.
    fn default() -> Self {
        Self {
            steps: 25_000,
            scans_per_step: 64,
            scans_per_pass: 8,
            questions_per_scan: 1,
            learning_rate: 5e-5,
            schedule: LearningRate::Linear,
            warmup_steps: 25,
            weight_decay: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            clip_norm: 1.0,
            ema_decay: None,
            loss: LossConfig::default(),
            sampler: SamplerConfig::default(),
            freeze: Freeze::None,
            freeze_statistics: false,
            lora: None,
            precision: Precision::F32,
            read_loss_every: 10,
            seed: 0,
            validate_every: 5_000,
            early_stop: None,
            checkpoint_every: 5_000,
            keep_checkpoints: 2,
        }
    }
}

impl TrainConfig {
    /// Checks that the settings can work, before the first step.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("steps", self.steps as f64),
            ("scans_per_step", self.scans_per_step as f64),
            ("scans_per_pass", self.scans_per_pass as f64),
            ("questions_per_scan", self.questions_per_scan as f64),
            ("learning_rate", self.learning_rate),
            ("clip_norm", self.clip_norm),
            ("read_loss_every", self.read_loss_every as f64),
            ("keep_checkpoints", self.keep_checkpoints as f64),
        ];
        for (field, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(field, "more than 0", value));
            }
        }
        for (field, value) in [
            ("beta1", Some(self.beta1)),
            ("beta2", Some(self.beta2)),
            ("ema_decay", self.ema_decay),
        ] {
            if value.is_some_and(|v| !(0.0..1.0).contains(&v)) {
                return Err(Error::config(
                    field,
                    "from 0 to below 1",
                    value.unwrap_or(0.0),
                ));
            }
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(Error::config(
                "weight_decay",
                "0 or more",
                self.weight_decay,
            ));
        }
        if self.warmup_steps > self.steps {
            let expected = format!("at most the {} steps", self.steps);
            return Err(Error::config("warmup_steps", expected, self.warmup_steps));
        }
        if self.early_stop == Some(0) {
            return Err(Error::config("early_stop", "1 validation or more", 0));
        }
        self.sampler.validate()?;
        self.loss.validate()?;
        self.schedule.validate()?;
        self.validate_lora()
    }

    fn validate_lora(&self) -> Result<()> {
        let Some(lora) = &self.lora else {
            return Ok(());
        };
        if self.freeze != Freeze::Bert {
            let expected = "bert beside lora: adapters stand in for weights that stay";
            return Err(Error::config("freeze", expected, "none"));
        }
        lora.validate()
    }

    /// Checks what depends on the machine: the device's formats and the number of processes.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn validate_for(&self, device: &Device, world: usize) -> Result<()> {
        if self.precision == Precision::Bf16 && !device.is_cuda() {
            let expected = "f32: bfloat16 training needs a GPU with bfloat16 arithmetic (compute \
                capability 8.0); a CPU computes in f32";
            return Err(Error::config("precision", expected, "bf16 on a CPU"));
        }
        if world > 1 && self.scans_per_pass * world > self.scans_per_step {
            let expected = format!(
                "at most scans_per_step / processes = {} / {world}, so that each process has a pass",
                self.scans_per_step
            );
            return Err(Error::config(
                "scans_per_pass",
                expected,
                self.scans_per_pass,
            ));
        }
        Ok(())
    }
}
