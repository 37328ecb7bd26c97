//! How large the experiment is.

use serde::Serialize;
use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;
use uniferum_data::InputSettings;
use uniferum_encoder::{EncoderConfig, Variant};
use uniferum_fusion::UniferumConfig;
use uniferum_phantom::PhantomConfig;
use uniferum_train::{LearningRate, RunConfig, TrainConfig};

use super::Size;
use super::collections::Collections;
use super::rows::Row;
use crate::commands::phantoms::recipe;

/// Everything that the results depend on. Kept beside them: other settings need another folder.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Plan {
    /// Phantoms of A, B and C: training, validation, test.
    pub(super) scans: [[usize; 3]; 3],
    /// The scans as the scanner leaves them, before collections differ.
    pub(super) phantom: PhantomConfig,
    /// How they become model arrays.
    pub(super) input: InputSettings,
    /// The model; the multi-label networks have the same encoder.
    pub(super) model: UniferumConfig,
    /// Recipe of the multi-label networks, whose encoders the other rows start with.
    pub(super) encoder: TrainConfig,
    /// Recipe of rows with collection A.
    pub(super) train: TrainConfig,
    /// Steps of rows of B or C alone.
    pub(super) steps_alone: u64,
    /// Seed of phantoms and training.
    pub(super) seed: u64,
}

impl Plan {
    pub(super) fn new(size: Size, steps: Option<u64>, seed: u64) -> Self {
        let mut plan = match size {
            Size::Tiny => Self::tiny(seed),
            Size::Small => Self::small(seed),
            Size::Full => Self::full(seed),
        };
        if let Some(steps) = steps {
            for train in [&mut plan.train, &mut plan.encoder] {
                train.steps = steps;
                train.warmup_steps = train.warmup_steps.min(steps);
                train.validate_every = train.validate_every.min(steps);
            }
            plan.steps_alone = steps;
        }
        plan
    }

    /// As many phantoms of each collection, to see how long a size takes.
    pub(super) fn few(&mut self, scans: usize) {
        self.scans = [[scans, (scans / 3).max(4), (2 * scans / 3).max(8)]; 3];
    }

    /// The recipe of `uniferum demo` on three collections.
    fn small(seed: u64) -> Self {
        Self::sized([350, 350, 240], recipe::model(256), seed)
    }

    fn tiny(seed: u64) -> Self {
        let mut model = recipe::model(64);
        model.encoder = EncoderConfig {
            variant: Variant::Custom {
                width: 0.25,
                depth: 0.3,
            },
            ..EncoderConfig::default()
        };
        let input = InputSettings {
            standardise: StandardiseConfig {
                spacing_mm: [12.0, 10.0, 8.0],
                size: Some([35, 34, 32]),
                ..StandardiseConfig::default()
            },
            transform: ModelTransform {
                crop: [32; 3],
                shape: [32; 3],
            },
        };
        Self {
            scans: [[12, 4, 8]; 3],
            phantom: PhantomConfig {
                shape: [48, 40, 32],
                spacing_mm: [8.0; 3],
                ..recipe::phantom()
            },
            input,
            ..Self::sized([2, 3, 3], model, seed)
        }
    }

    /// Steps of the encoder, of the rows with A and of the others.
    fn sized([encoder, with_a, alone]: [u64; 3], model: UniferumConfig, seed: u64) -> Self {
        let mut train = recipe::whole(with_a, seed);
        train.validate_every = (with_a / 3).max(1);
        Self {
            scans: [[600, 60, 160], [300, 60, 160], [300, 60, 160]],
            phantom: recipe::phantom(),
            input: recipe::input(),
            model,
            encoder: recipe::encoder(encoder, &train),
            train,
            steps_alone: alone,
            seed,
        }
    }

    /// The paper's model, array, batches and steps, on the grid of the model's own arrays.
    fn full(seed: u64) -> Self {
        let shape = ModelTransform::default().shape;
        let train = TrainConfig {
            seed,
            validate_every: 5000,
            checkpoint_every: 500,
            ..TrainConfig::default()
        };
        Self {
            scans: [[4000, 250, 1000], [2000, 250, 500], [1000, 250, 500]],
            phantom: PhantomConfig {
                shape,
                spacing_mm: [1.5, 2.0, 2.0],
                ..recipe::phantom()
            },
            input: InputSettings {
                standardise: StandardiseConfig {
                    spacing_mm: [1.5, 2.0, 2.0],
                    size: Some([277, 168, 128]),
                    ..StandardiseConfig::default()
                },
                transform: ModelTransform { crop: shape, shape },
            },
            model: UniferumConfig::default(),
            encoder: TrainConfig {
                steps: 5000,
                learning_rate: 1e-3,
                schedule: LearningRate::plateau(),
                validate_every: 250,
                ..train.clone()
            },
            train,
            steps_alone: 10_000,
            seed,
        }
    }

    /// The run of a row, as a configuration that `uniferum train` would read.
    pub(super) fn run_config(&self, row: &Row, collections: &Collections) -> RunConfig {
        let run = if row.baseline {
            recipe::encoder_run(&self.model, self.input.clone(), self.encoder.clone())
        } else {
            let mut train = self.train.clone();
            if !row.collections.contains(&"A") {
                train.steps = self.steps_alone;
                train.validate_every = train.validate_every.min(train.steps);
            }
            recipe::run(self.model.clone(), self.input.clone(), train)
        };
        RunConfig {
            tasks: collections.task_ids(row),
            ..run
        }
    }
}
