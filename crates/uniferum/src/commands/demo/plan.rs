//! The settings of the demonstration: everything that the results depend on.

use serde::{Deserialize, Serialize};
use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::{Augment, ModelTransform};
use uniferum_data::{InputSettings, SamplerConfig};
use uniferum_fusion::{BertConfig, Prompts, UniferumConfig};
use uniferum_phantom::PhantomConfig;
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::TrainConfig;

use crate::commands::phantoms::ORGANS;

const ENCODER_STEPS: u64 = 400;

/// What a demonstration is made of. Two runs with equal plans leave equal files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Phantoms, training and test together.
    pub(crate) scans: usize,
    /// The seed of everything.
    pub(crate) seed: u64,
    /// The scans as the scanner leaves them.
    pub(crate) phantom: PhantomConfig,
    /// How they become model arrays.
    pub(crate) input: InputSettings,
    /// Steps for which the image encoder is trained alone first, in place of the paper's ImageNet weights.
    pub(crate) encoder_steps: u64,
    /// The recipe.
    pub(crate) train: TrainConfig,
    /// Random rotation, zoom, noise and offset of each training sample.
    pub(crate) augment: Augment,
    /// Width of the fusion transformer; the paper's is 768.
    pub(crate) hidden: usize,
}

impl Plan {
    pub(crate) fn new(scans: usize, steps: u64, seed: u64) -> Self {
        Self {
            scans,
            seed,
            // Pronounced findings in patients who are much alike, so that minutes of training show.
            phantom: PhantomConfig {
                least_grade: 0.5,
                scanner_variation: 0.3,
                patient_variation: 0.3,
                test_fraction: 0.25,
                ..PhantomConfig::default()
            },
            // The paper's field of view of 384x320x256 mm, with coarser voxels.
            input: InputSettings {
                standardise: StandardiseConfig {
                    spacing_mm: [6.0, 5.0, 4.0],
                    size: Some([69, 67, 64]),
                    ..StandardiseConfig::default()
                },
                transform: ModelTransform {
                    crop: [64, 64, 64],
                    shape: [64, 32, 32],
                },
            },
            encoder_steps: steps.min(ENCODER_STEPS),
            train: TrainConfig {
                steps,
                scans_per_step: 8,
                questions_per_scan: 10,
                // Gentle to what the encoder knows.
                learning_rate: 4e-4,
                warmup_steps: steps.min(40),
                sampler: SamplerConfig {
                    organ_share: 0.2,
                    nodule_repeats: 1,
                    ..SamplerConfig::default()
                },
                seed,
                checkpoint_every: 100,
                ..TrainConfig::default()
            },
            // A third of the paper's rotation and zoom: a zoom hides the size of a heart.
            augment: Augment {
                rotate_degrees: 5.0,
                zoom: [0.97, 1.03],
                ..Augment::default()
            },
            hidden: 256,
        }
    }

    /// All labels of the phantoms, some organs and the nodules.
    pub(crate) fn tasks(&self, catalogue: &Catalogue) -> Vec<Task> {
        let masks = |t: &&Task| ORGANS.contains(&t.id.as_str()) || t.group == "nodule";
        let labels = catalogue.group("phantom").into_iter();
        let all = catalogue.tasks().iter();
        labels.chain(all.filter(masks)).cloned().collect()
    }

    /// The recipe of the encoder alone, which sees labels only.
    pub(crate) fn encoder_recipe(&self) -> TrainConfig {
        TrainConfig {
            steps: self.encoder_steps,
            learning_rate: 1e-3,
            warmup_steps: self.encoder_steps.min(self.train.warmup_steps),
            ..self.train.clone()
        }
    }

    /// The paper's architecture over the words of the catalogue.
    pub(crate) fn model(&self, prompts: &Prompts) -> UniferumConfig {
        UniferumConfig {
            bert: BertConfig {
                // Minutes of training overfit to nothing.
                dropout: 0.0,
                hidden: self.hidden,
                intermediate: 4 * self.hidden,
                heads: self.hidden / 64,
                ..prompts.bert_config()
            },
            ..UniferumConfig::default()
        }
    }
}
