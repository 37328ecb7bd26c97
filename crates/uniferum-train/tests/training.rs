//! A tiny model on tiny phantoms: it learns, and a run that stopped goes on bit for bit.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use uniferum_ct::transform::{Augment, ModelTransform};
use uniferum_data::{Dataset, Loader, Manifest, SamplerConfig};
use uniferum_fusion::{BertConfig, Prompts, UniferumConfig};
use uniferum_phantom::{PhantomConfig, write_cohort};
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::{TrainConfig, Trainer, evaluate};

struct Setup {
    loader: Loader,
    model: UniferumConfig,
    prompts: Prompts,
}

/// Phantoms as they come: RAS or LPS, which the dataset turns.
fn setup(folder: &Path, scans: usize, augment: bool) -> Setup {
    let phantom = PhantomConfig {
        shape: [32; 3],
        spacing_mm: [12.0, 10.0, 8.0],
        test_fraction: 0.0,
        ..Default::default()
    };
    write_cohort(folder, scans, 1, &phantom, &|| {}).unwrap();
    let catalogue = Catalogue::standard();
    let manifest = Manifest::read_csv(folder.join("labels.csv"), &catalogue, "phantom").unwrap();
    let ids = [
        "phantom.pleural-effusion",
        "phantom.cardiomegaly",
        "anatomy.lungs",
    ];
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
    let transform = ModelTransform {
        crop: [32; 3],
        shape: [32; 3],
    };
    let dataset = Dataset::new(manifest, tasks, transform, 4, 1 << 28).unwrap();
    let scans = (0..dataset.manifest.scans.len()).collect();
    Setup {
        loader: Loader {
            dataset: Arc::new(dataset),
            scans,
            sampler: SamplerConfig {
                organ_share: 0.5,
                ..Default::default()
            },
            augment: augment.then(Augment::default),
            scans_per_step: 4,
            questions_per_scan: 3,
            seed: 3,
            device: Device::Cpu,
        },
        model: UniferumConfig {
            bert,
            ..Default::default()
        },
        prompts,
    }
}

fn config(steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        scans_per_step: 4,
        questions_per_scan: 3,
        learning_rate: 2e-3,
        warmup_steps: 2,
        checkpoint_every: 3,
        ..Default::default()
    }
}

#[test]
fn a_run_that_stopped_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 12, true);
    let run = folder.path().join("run");
    let trainer = || Trainer::new(&s.model, s.prompts.clone(), config(7), &Device::Cpu).unwrap();

    let mut whole = trainer();
    whole.resume_in(&run).unwrap();
    whole.checkpoint().unwrap(); // the fresh weights, for the second run to start alike
    let start = folder.path().join("start");
    std::fs::create_dir_all(&start).unwrap();
    std::fs::rename(run.join("step-00000000"), start.join("step-00000000")).unwrap();
    let mut expected = Vec::new();
    whole
        .run(&s.loader, |p| expected.push((p.step, p.loss.to_bits())))
        .unwrap();

    // Stopped in the middle of step 6: the newest checkpoint is that of step 3.
    let mut got = Vec::new();
    let mut first = trainer();
    assert_eq!(first.resume_in(&start).unwrap(), 0);
    let batches = s.loader.stream(0, 5);
    for batch in batches.iter() {
        let p = first.train_on(&batch.unwrap()).unwrap();
        got.push((p.step, p.loss.to_bits()));
        if p.step == 3 {
            first.checkpoint().unwrap();
        }
    }
    got.truncate(3);
    let mut second = trainer();
    assert_eq!(second.resume_in(&start).unwrap(), 3);
    second
        .run(&s.loader, |p| got.push((p.step, p.loss.to_bits())))
        .unwrap();
    assert_eq!(got, expected);

    let mut other = Trainer::new(&s.model, s.prompts.clone(), config(9), &Device::Cpu).unwrap();
    let error = other.resume_in(&start).unwrap_err().to_string();
    assert!(error.contains("another configuration"), "{error}");
}

#[test]
fn masks_of_a_small_set_are_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false);
    let mut trainer = Trainer::new(&s.model, s.prompts.clone(), config(60), &Device::Cpu).unwrap();
    let mut losses = Vec::new();
    trainer
        .run(&s.loader, |p| losses.extend(p.mask_loss))
        .unwrap();
    let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
    let (early, late) = (mean(&losses[..10]), mean(&losses[losses.len() - 10..]));
    assert!(late < 0.5 * early, "from {early} to {late}");

    let scans: Vec<usize> = (0..8).collect();
    let report = evaluate(
        trainer.model(),
        trainer.prompts(),
        &s.loader.dataset,
        &scans,
        &Device::Cpu,
        || {},
    )
    .unwrap();
    assert_eq!(report.predictions.len(), 8 * 3);
    assert_eq!((report.tasks.len(), report.masks.len()), (2, 1));
    assert!(report.masks[0].auroc.unwrap() > 0.6);
}

#[test]
fn impossible_recipes_are_refused_before_the_first_step() {
    for (config, part) in [
        (
            TrainConfig {
                steps: 0,
                ..config(1)
            },
            "steps",
        ),
        (
            TrainConfig {
                beta1: 1.0,
                ..config(1)
            },
            "beta1",
        ),
        (
            TrainConfig {
                learning_rate: f64::NAN,
                ..config(1)
            },
            "learning_rate",
        ),
        (
            TrainConfig {
                warmup_steps: 9,
                ..config(3)
            },
            "warmup_steps",
        ),
    ] {
        assert!(config.validate().unwrap_err().to_string().contains(part));
    }
}
