//! The recipe.

use serde::{Deserialize, Serialize};
use uniferum_data::SamplerConfig;
use uniferum_fusion::Freeze;
use uniferum_metrics::losses::LossConfig;

use crate::error::{Error, Result};

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Scans a step.
    pub scans_per_step: usize,
    /// Questions that share one encoding; 1 is the paper's.
    pub questions_per_scan: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
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
    /// Losses and their weights.
    pub loss: LossConfig,
    /// How epochs are drawn.
    pub sampler: SamplerConfig,
    /// What is not trained.
    pub freeze: Freeze,
    /// Seed of sampling, augmentation and dropout.
    pub seed: u64,
    /// Steps between checkpoints; 0 for none but the last.
    pub checkpoint_every: u64,
    /// Checkpoints kept.
    pub keep_checkpoints: usize,
}

impl Default for TrainConfig {
    /// The paper's recipe (section 3.6), with the trainer defaults of its release.
    fn default() -> Self {
        Self {
            steps: 25_000,
            scans_per_step: 64,
            questions_per_scan: 1,
            learning_rate: 5e-5,
            warmup_steps: 25,
            weight_decay: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            clip_norm: 1.0,
            loss: LossConfig::default(),
            sampler: SamplerConfig::default(),
            freeze: Freeze::None,
            seed: 0,
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
            ("questions_per_scan", self.questions_per_scan as f64),
            ("learning_rate", self.learning_rate),
            ("clip_norm", self.clip_norm),
            ("keep_checkpoints", self.keep_checkpoints as f64),
        ];
        for (field, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::config(field, "more than 0", value));
            }
        }
        for (field, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::config(field, "from 0 to below 1", value));
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
        Ok(())
    }
}
