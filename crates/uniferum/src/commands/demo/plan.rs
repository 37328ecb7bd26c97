//! The settings of the demonstration: everything that the results depend on.

use serde::Serialize;
use uniferum_ct::transform::Augment;
use uniferum_data::InputSettings;
use uniferum_phantom::PhantomConfig;
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::{RunConfig, TrainConfig};

use crate::commands::phantoms::{ORGANS, recipe};

const ENCODER_STEPS: u64 = 400;

/// What a demonstration is made of. Two runs with equal plans leave equal files.
#[derive(Debug, Clone, Serialize)]
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
            phantom: recipe::phantom(),
            input: recipe::input(),
            encoder_steps: steps.min(ENCODER_STEPS),
            train: recipe::whole(steps, seed),
            augment: recipe::augment(),
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

    /// The run of the encoder alone, then that of the whole model.
    pub(crate) fn runs(&self) -> [RunConfig; 2] {
        let model = recipe::model(self.hidden);
        let encoder = recipe::encoder(self.encoder_steps, &self.train);
        let runs = [
            recipe::encoder_run(&model, self.input.clone(), encoder),
            recipe::run(model, self.input.clone(), self.train.clone()),
        ];
        runs.map(|run| RunConfig {
            augment: self.augment.clone(),
            ..run
        })
    }
}
