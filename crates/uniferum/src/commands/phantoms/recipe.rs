//! The recipe by which a model learns phantoms in minutes, from random weights.
//!
//! The paper starts from ImageNet and PubMedBERT. From random weights the transformer learns next to
//! nothing before the encoder shows it something: here the encoder is trained first, alone, with a logit a
//! label, and the whole model goes on from it with a gentler rate.

use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::{Augment, ModelTransform};
use uniferum_data::{InputSettings, SamplerConfig};
use uniferum_fusion::{BertConfig, UniferumConfig};
use uniferum_phantom::PhantomConfig;
use uniferum_train::{BaselineConfig, Init, ModelChoice, RunConfig, TrainConfig};

/// Pronounced findings in patients who are much alike, so that minutes of training show.
pub(crate) fn phantom() -> PhantomConfig {
    PhantomConfig {
        least_grade: 0.5,
        scanner_variation: 0.3,
        patient_variation: 0.3,
        test_fraction: 0.25,
        ..PhantomConfig::default()
    }
}

/// The paper's field of view of 384x320x256 mm, with coarser voxels.
pub(crate) fn input() -> InputSettings {
    InputSettings {
        standardise: StandardiseConfig {
            spacing_mm: [6.0, 5.0, 4.0],
            size: Some([69, 67, 64]),
            ..StandardiseConfig::default()
        },
        transform: ModelTransform {
            crop: [64, 64, 64],
            shape: [64, 32, 32],
        },
    }
}

/// A third of the paper's rotation and zoom: a zoom hides the size of a heart.
pub(crate) fn augment() -> Augment {
    Augment {
        rotate_degrees: 5.0,
        zoom: [0.97, 1.03],
        ..Augment::default()
    }
}

/// The training of the whole model.
pub(crate) fn whole(steps: u64, seed: u64) -> TrainConfig {
    TrainConfig {
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
    }
}

/// The training of the encoder before it, which sees labels only.
pub(crate) fn encoder(steps: u64, whole: &TrainConfig) -> TrainConfig {
    TrainConfig {
        steps,
        learning_rate: 1e-3,
        warmup_steps: steps.min(whole.warmup_steps),
        ..whole.clone()
    }
}

/// The paper's architecture with a transformer of another width.
pub(crate) fn model(hidden: usize) -> UniferumConfig {
    UniferumConfig {
        bert: BertConfig {
            // Minutes of training overfit to nothing.
            dropout: 0.0,
            hidden,
            intermediate: 4 * hidden,
            heads: hidden / 64,
            ..BertConfig::default()
        },
        ..UniferumConfig::default()
    }
}

/// A run of the whole model from random weights.
pub(crate) fn run(model: UniferumConfig, input: InputSettings, train: TrainConfig) -> RunConfig {
    RunConfig {
        cache_mib: 1024,
        model: ModelChoice::Uniferum(model),
        init: Init::none(),
        input,
        augment: augment(),
        train,
        ..RunConfig::default()
    }
}

/// The run of the encoder alone: the paper's baseline, a logit a label.
pub(crate) fn encoder_run(
    model: &UniferumConfig,
    input: InputSettings,
    train: TrainConfig,
) -> RunConfig {
    RunConfig {
        model: ModelChoice::Baseline(BaselineConfig {
            encoder: model.encoder.clone(),
            dropout: 0.0,
            ..BaselineConfig::default()
        }),
        ..run(model.clone(), input, train)
    }
}
