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
    /// The recipe.
    pub(crate) train: TrainConfig,
    /// Random rotation, zoom, noise and offset of each training sample.
    pub(crate) augment: Augment,
    /// Width of the fusion transformer; the paper's is 768.
    pub(crate) hidden: usize,
}

impl Plan {
    pub(crate) fn new(scans: usize, steps: u64, seed: u64) -> Self {
        let shape = [64, 64, 64];
        Self {
            scans,
            seed,
            phantom: PhantomConfig::default(),
            // The paper's field of view of 384x320x256 mm, with coarser voxels.
            input: InputSettings {
                standardise: StandardiseConfig {
                    spacing_mm: [6.0, 5.0, 4.0],
                    size: Some([69, 67, 64]),
                    ..StandardiseConfig::default()
                },
                transform: ModelTransform { crop: shape, shape },
            },
            train: TrainConfig {
                steps,
                scans_per_step: 8,
                questions_per_scan: 12,
                learning_rate: 1e-3,
                warmup_steps: steps.min(20),
                sampler: SamplerConfig {
                    organ_share: 0.3,
                    nodule_repeats: 1,
                    ..SamplerConfig::default()
                },
                seed,
                checkpoint_every: 50,
                ..TrainConfig::default()
            },
            augment: Augment::default(),
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

    /// The paper's architecture over the words of the catalogue.
    pub(crate) fn model(&self, prompts: &Prompts) -> UniferumConfig {
        UniferumConfig {
            bert: BertConfig {
                hidden: self.hidden,
                intermediate: 4 * self.hidden,
                heads: self.hidden / 64,
                ..prompts.bert_config()
            },
            ..UniferumConfig::default()
        }
    }
}
