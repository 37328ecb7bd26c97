//! Tiny phantoms and a tiny model.

// Each test binary uses a part of it.
#![allow(dead_code)]

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use uniferum_ct::transform::{Augment, ModelTransform};
use uniferum_data::{Dataset, Loader, Manifest, SamplerConfig};
use uniferum_encoder::{EncoderConfig, Variant};
use uniferum_fusion::{BertConfig, Prompts, UniferumConfig};
use uniferum_phantom::{PhantomConfig, write_cohort};
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::TrainConfig;

pub(crate) struct Setup {
    pub(crate) loader: Loader,
    pub(crate) model: UniferumConfig,
    pub(crate) prompts: Prompts,
}

pub(crate) const LABELS: [&str; 2] = ["phantom.pleural-effusion", "phantom.cardiomegaly"];
pub(crate) const ALL: [&str; 3] = [
    "phantom.pleural-effusion",
    "phantom.cardiomegaly",
    "anatomy.lungs",
];

/// A narrow network, so that a step takes a fraction of a second.
pub(crate) fn thin() -> EncoderConfig {
    EncoderConfig {
        variant: Variant::Custom {
            width: 0.25,
            depth: 0.3,
        },
        ..Default::default()
    }
}

/// Phantoms as they come: RAS or LPS, which the dataset turns.
pub(crate) fn setup(folder: &Path, scans: usize, augment: bool, ids: &[&str]) -> Setup {
    setup_of([32; 3], folder, scans, augment, ids)
}

/// The same with phantoms of another shape.
pub(crate) fn setup_of(
    shape: [usize; 3],
    folder: &Path,
    scans: usize,
    augment: bool,
    ids: &[&str],
) -> Setup {
    let phantom = PhantomConfig {
        shape,
        spacing_mm: [0, 1, 2].map(|axis| [384.0, 320.0, 256.0][axis] / shape[axis] as f64),
        test_fraction: 0.0,
        ..Default::default()
    };
    let table = folder.join("labels.csv");
    if !table.is_file() {
        write_cohort(folder, scans, 1, &phantom, &|| {}).unwrap();
    }
    let catalogue = Catalogue::standard();
    let manifest = Manifest::read(table, &catalogue, "phantom").unwrap();
    let tasks: Vec<Task> = ids
        .iter()
        .map(|id| catalogue.get(id).unwrap().clone())
        .collect();
    let sentences: Vec<&str> = tasks.iter().map(|t| t.prompt.as_str()).collect();
    let prompts = Prompts::from_sentences(&sentences).unwrap();
    let bert = BertConfig {
        hidden: 32,
        heads: 4,
        intermediate: 64,
        layers: 2,
        ..prompts.bert_config()
    };
    let transform = ModelTransform { crop: shape, shape };
    let dataset = Dataset::new(manifest, tasks, transform, 4, 1 << 28).unwrap();
    let scans = (0..dataset.manifest.scans.len()).collect();
    Setup {
        loader: Loader {
            dataset: Arc::new(dataset),
            scans,
            sampler: sampler(),
            augment: augment.then(Augment::default),
            scans_per_step: 4,
            questions_per_scan: 3,
            seed: 3,
            device: Device::Cpu,
        },
        model: UniferumConfig {
            encoder: thin(),
            bert,
            ..Default::default()
        },
        prompts,
    }
}

fn sampler() -> SamplerConfig {
    SamplerConfig {
        organ_share: 0.5,
        ..Default::default()
    }
}

pub(crate) fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        scans_per_step: 4,
        questions_per_scan: 3,
        learning_rate: 2e-3,
        warmup_steps: 2,
        checkpoint_every: 3,
        sampler: sampler(),
        ..Default::default()
    }
}
