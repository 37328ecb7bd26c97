//! Training on a GPU against training on the CPU.
//!
//! ```sh
//! UNIFERUM_TEST_DEVICE=cuda:0 cargo test -p uniferum-train --features cuda --test gpu_training
//! ```
//!
//! Without that variable the tests say on standard error that they skip.

mod common;

use candle_core::{Device, Tensor};
use common::{ALL, config, setup, setup_of};
use uniferum_kernels::DeviceChoice;
use uniferum_train::{Error, Learner, Precision, Progress, TrainConfig, Trainer};

/// The device under test, unless it is the CPU.
fn gpu() -> Option<Device> {
    let name = std::env::var("UNIFERUM_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = name.parse::<DeviceChoice>().unwrap().open().unwrap();
    if device.is_cpu() {
        eprintln!("skipped: UNIFERUM_TEST_DEVICE names no GPU");
        return None;
    }
    Some(device)
}

/// Phantoms that leave a feature map of 2x2x1: over the two or three values that those of 32 voxels
/// leave in a pass, a batch norm multiplies what is rounded by hundreds.
const SHAPE: [usize; 3] = [64, 64, 32];

/// Two passes a step, so that gradients and running statistics are summed; losses are read after
/// steps 3 and 5.
fn recipe() -> TrainConfig {
    TrainConfig {
        scans_per_pass: 2,
        read_loss_every: 3,
        checkpoint_every: 0,
        ..config(5)
    }
}

#[test]
fn augmented_training_follows_the_curve_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let s = setup_of(SHAPE, folder.path(), 6, true, &ALL);
    let run = |device: &Device| -> Vec<Progress> {
        let mut trainer = Trainer::new(&s.model, s.prompts.clone(), recipe(), device).unwrap();
        let mut loader = s.loader.clone();
        loader.device = device.clone();
        let mut seen = Vec::new();
        trainer.run(&loader, |p| seen.push(p.clone())).unwrap();
        seen
    };
    let (want, got) = (run(&Device::Cpu), run(&gpu));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        eprintln!("{}: {} and {}", want.step, got.loss, want.loss);
        assert_eq!(
            (got.step, got.questions, got.scans),
            (want.step, want.questions, want.scans)
        );
        assert_eq!(got.learning_rate, want.learning_rate);
        // What differs by rounding in the first step is carried on by AdamW, which looks at signs.
        let (loss, norm) = if want.step == 1 {
            (1e-4, 1e-3)
        } else {
            (0.02, 0.1)
        };
        assert!(
            (got.loss / want.loss - 1.0).abs() < loss,
            "{got:?} {want:?}"
        );
        let ratio = got.gradient_norm / want.gradient_norm;
        assert!((ratio - 1.0).abs() < norm, "{got:?} {want:?}");
    }
}

#[test]
fn a_loss_that_is_not_finite_names_its_questions_and_changes_no_weight() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut s = setup(folder.path(), 4, false, &ALL);
    s.loader.device = gpu.clone();
    let mut trainer = Trainer::new(&s.model, s.prompts.clone(), recipe(), &gpu).unwrap();
    let weights = |trainer: &Trainer| -> Vec<Vec<f32>> {
        let vars = trainer.learner().trained();
        let read = |t: &Tensor| t.flatten_all().unwrap().to_vec1().unwrap();
        vars.iter().map(|(_, var)| read(var.as_tensor())).collect()
    };
    let before = weights(&trainer);
    let mut batch = s.loader.stream(0, 1).next().unwrap().unwrap();
    batch.labels = Tensor::full(f32::NAN, batch.labels.dims(), &gpu).unwrap();
    let error = trainer.train_on(&batch).unwrap_err();
    let Error::NotFinite { step: 1, samples } = &error else {
        panic!("{error}");
    };
    assert!(
        !samples.is_empty() && samples.iter().all(|s| batch.names.contains(s)),
        "{error}"
    );
    assert_eq!(weights(&trainer), before);
}

/// Minutes on the CPU: run by `tools/gpu/run.sh`, or with `--ignored`.
#[test]
#[ignore = "minutes of training, for a real GPU"]
fn two_hundred_steps_reach_the_loss_of_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let s = setup_of(SHAPE, folder.path(), 24, true, &ALL);
    let run = |device: &Device, precision: Precision| -> Vec<f32> {
        let recipe = TrainConfig {
            precision,
            checkpoint_every: 0,
            ..config(200)
        };
        let mut trainer = Trainer::new(&s.model, s.prompts.clone(), recipe, device).unwrap();
        let mut loader = s.loader.clone();
        loader.device = device.clone();
        let mut losses = Vec::new();
        trainer.run(&loader, |p| losses.push(p.loss)).unwrap();
        losses
    };
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let want = run(&Device::Cpu, Precision::F32);
    let (early, late) = (mean(&want[..20]), mean(&want[180..]));
    eprintln!("CPU: {early} to {late}");
    assert!(late < 0.8 * early, "nothing was learnt");
    for precision in [Precision::F32, Precision::Bf16] {
        let got = run(&gpu, precision);
        for from in (0..200).step_by(20) {
            let (got, want) = (mean(&got[from..from + 20]), mean(&want[from..from + 20]));
            eprintln!(
                "{precision:?}, steps {from} to {}: {got} and {want}",
                from + 20
            );
        }
        let end = mean(&got[180..]);
        assert!(
            (end / late - 1.0).abs() < 0.15,
            "{precision:?}: {end}, {late}"
        );
    }
}
