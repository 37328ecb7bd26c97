//! How large the experiment is.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use uniferum_ct::transform::ModelTransform;
use uniferum_data::{InputSettings, SamplerConfig};
use uniferum_encoder::{EncoderConfig, Variant};
use uniferum_fusion::{BertConfig, UniferumConfig};
use uniferum_train::{BaselineConfig, Init, LearningRate, ModelChoice, RunConfig, TrainConfig};

use super::Size;
use super::collections::Collections;
use super::rows::Row;

/// Everything that the results depend on. Kept beside them: other settings need another folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// Phantoms of each collection: training, validation, test.
    pub(super) scans: [usize; 3],
    /// Voxels of phantoms and of the model's arrays.
    pub(super) shape: [usize; 3],
    /// The model; its baseline has the same encoder.
    pub(super) model: UniferumConfig,
    /// Recipe of rows with several collections or with collection A.
    pub(super) train: TrainConfig,
    /// Steps of rows of B or C alone.
    pub(super) steps_alone: u64,
    /// Seed of phantoms and training.
    pub(super) seed: u64,
}

impl Plan {
    pub(super) fn new(size: Size, steps: Option<u64>, seed: u64) -> Self {
        let mut plan = match size {
            Size::Tiny => Self::sized([16, 6, 8], [32; 3], thin(0.25, 0.3, 64), [6, 4], seed),
            Size::Small => Self::sized(
                [120, 30, 60],
                [64; 3],
                thin(0.5, 0.5, 192),
                [240, 160],
                seed,
            ),
            Size::Full => Self {
                scans: [4000, 250, 1000],
                shape: [256, 160, 128],
                model: UniferumConfig::default(),
                train: TrainConfig {
                    seed,
                    ..TrainConfig::default()
                },
                steps_alone: 10_000,
                seed,
            },
        };
        if let Some(steps) = steps {
            plan.train.steps = steps;
            plan.steps_alone = steps;
            plan.train.warmup_steps = plan.train.warmup_steps.min(steps);
        }
        plan
    }

    fn sized(
        scans: [usize; 3],
        shape: [usize; 3],
        model: UniferumConfig,
        [steps, steps_alone]: [u64; 2],
        seed: u64,
    ) -> Self {
        let train = TrainConfig {
            steps,
            scans_per_step: 8,
            questions_per_scan: 6,
            learning_rate: 1e-3,
            warmup_steps: (steps / 10).min(20),
            sampler: SamplerConfig {
                organ_share: 0.3,
                nodule_repeats: 1,
                ..SamplerConfig::default()
            },
            seed,
            validate_every: (steps / 4).max(1),
            checkpoint_every: (steps / 8).max(1),
            ..TrainConfig::default()
        };
        Self {
            scans,
            shape,
            model,
            train,
            steps_alone,
            seed,
        }
    }

    /// Voxel spacing with which the shape covers the paper's field of view.
    pub(super) fn spacing_mm(&self) -> [f64; 3] {
        let field = [384.0, 320.0, 256.0];
        std::array::from_fn(|a| field[a] / self.shape[a] as f64)
    }

    /// Notes the plan in the folder, or checks that it is the one whose results are there.
    pub(super) fn claim(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("plan.json");
        if path.is_file() {
            let text = std::fs::read_to_string(&path)?;
            let found: Plan = serde_json::from_str(&text)
                .with_context(|| format!("{}: not a plan of this version", path.display()))?;
            ensure!(
                found == *self,
                "{} holds an experiment with other settings; choose another folder",
                folder.display()
            );
            return Ok(());
        }
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("{}", path.display()))
    }

    /// The run of a row, as a configuration that `uniferum train` would read.
    pub(super) fn run_config(&self, row: &Row, collections: &Collections) -> RunConfig {
        let alone = !row.collections.contains(&"A");
        let steps = if alone {
            self.steps_alone
        } else {
            self.train.steps
        };
        let mut train = TrainConfig {
            steps,
            ..self.train.clone()
        };
        train.validate_every = train.validate_every.min(steps);
        let model = if row.baseline {
            train.schedule = LearningRate::plateau();
            ModelChoice::Baseline(BaselineConfig {
                encoder: self.model.encoder.clone(),
                ..BaselineConfig::default()
            })
        } else {
            ModelChoice::Uniferum(self.model.clone())
        };
        RunConfig {
            tasks: collections.task_ids(row),
            init: Init::none(),
            model,
            input: InputSettings {
                transform: ModelTransform {
                    crop: self.shape,
                    shape: self.shape,
                },
                ..InputSettings::default()
            },
            train,
            ..RunConfig::default()
        }
    }
}

/// A network for small machines.
fn thin(width: f64, depth: f64, hidden: usize) -> UniferumConfig {
    UniferumConfig {
        encoder: EncoderConfig {
            variant: Variant::Custom { width, depth },
            ..EncoderConfig::default()
        },
        bert: BertConfig {
            hidden,
            heads: hidden / 64,
            intermediate: 4 * hidden,
            ..BertConfig::default()
        },
        ..UniferumConfig::default()
    }
}
