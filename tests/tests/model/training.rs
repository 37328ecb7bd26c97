//! Gradients, running statistics and the first steps of training.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use uniferum_fusion::{BertConfig, Freeze, Uniferum, UniferumConfig, trainable_vars};
use uniferum_kernels::{AdamW, adamw_step};
use uniferum_metrics::losses::{LossConfig, Targets, multitask_loss};

use crate::{assert_close, formula, golden, prompt_batch, small};

/// Gradient entries that the generator keeps of each parameter.
const SAMPLES: u64 = 24;

/// The generator's batch: a question with a label, and one with a mask.
struct Batch {
    image: Tensor,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    targets: Tensor,
    is_segmentation: Tensor,
}

impl Batch {
    fn new(vocab: usize) -> Self {
        let cpu = &Device::Cpu;
        let (ids, mask) = prompt_batch(vocab);
        let targets: Vec<f32> = formula::unit("targets", 2 * 8 * 64)
            .into_iter()
            .map(|v| if v > 0.5 { 1.0 } else { 0.0 })
            .collect();
        Self {
            image: formula::values("training.image", (2, 1, 64, 64, 64)),
            ids,
            mask,
            labels: Tensor::new(&[1f32, 0.0], cpu).unwrap(),
            targets: Tensor::from_vec(targets, (2, 8, 64), cpu).unwrap(),
            is_segmentation: Tensor::new(&[0f32, 1.0], cpu).unwrap(),
        }
    }

    fn loss(&self, model: &Uniferum) -> Tensor {
        let output = model
            .forward_t(&self.image, &self.ids, &self.mask, true)
            .unwrap();
        let targets = Targets {
            labels: &self.labels,
            masks: &self.targets,
            is_segmentation: &self.is_segmentation,
        };
        let recipe = LossConfig::default();
        multitask_loss(&output.cls, &output.seg, &targets, &recipe)
            .unwrap()
            .total
    }
}

fn model(cfg: &UniferumConfig) -> (Uniferum, VarMap) {
    let vars = VarMap::new();
    let model = Uniferum::new(cfg, formula::trainable_builder(&vars)).unwrap();
    (model, vars)
}

fn gradient(gradients: &GradStore, name: &str, var: &Var) -> Vec<f32> {
    let found = gradients
        .get(var)
        .unwrap_or_else(|| panic!("{name} has no gradient"));
    found.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn gradients_of_all_parameters_agree() {
    let golden = golden("training.safetensors");
    let rows = |key: &str| golden[key].to_vec1::<f32>().unwrap();
    let samples: Vec<Vec<f32>> = golden["gradient_samples"].to_vec2().unwrap();
    let (norms, peaks) = (rows("gradient_norms"), rows("gradient_peaks"));
    let largest = peaks.iter().copied().fold(0.0, f32::max);

    let cfg = small();
    let (model, vars) = model(&cfg);
    let gradients = Batch::new(cfg.bert.vocab).loss(&model).backward().unwrap();
    let parameters = trainable_vars(&vars, Freeze::None);
    assert_eq!(parameters.len(), norms.len());
    let mut worst = (0.0, String::new());
    for (i, (name, var)) in parameters.iter().enumerate() {
        let got = gradient(&gradients, name, var);
        if peaks[i] < 1e-6 * largest {
            // Zero but for rounding: the parameter shifts what a softmax or a batch norm
            // takes away again.
            assert!(got.iter().all(|g| g.is_finite()), "{name}");
            let peak = got.iter().fold(0f32, |peak, g| peak.max(g.abs()));
            assert!(peak < 1e-5 * largest, "{name}: {peak}, expected 0");
            continue;
        }
        for (k, expected) in (0..SAMPLES).zip(&samples[i]) {
            let at = formula::mix(formula::name_hash(name) ^ k) % got.len() as u64;
            let error = (got[at as usize] - expected).abs() / peaks[i];
            if error > worst.0 {
                worst = (error, name.clone());
            }
        }
        let square = |sum: f64, &g: &f32| sum + f64::from(g).powi(2);
        let norm = got.iter().fold(0.0, square).sqrt() as f32;
        let error = (norm - norms[i]).abs() / norms[i];
        assert!(error < 1e-3, "{name}: norm {norm}, expected {}", norms[i]);
    }
    eprintln!(
        "largest relative error of a gradient: {:.1e} in {}",
        worst.0, worst.1
    );
    assert!(worst.0 < 1e-3, "{}: relative error {}", worst.1, worst.0);
}

#[test]
fn running_statistics_follow_the_batches() {
    let cfg = small();
    let (model, vars) = model(&cfg);
    Batch::new(cfg.bert.vocab).loss(&model);
    let data = vars.data().lock().unwrap();
    for (name, expected) in golden("training.safetensors") {
        if name.contains("running_") {
            assert_close(data[&name].as_tensor(), &expected, 1e-4, &name);
        }
    }
    let counter = &data["vision_model.model.bn1.num_batches_tracked"];
    assert_eq!(counter.to_vec0::<i64>().unwrap(), 1);
}

#[test]
fn ten_steps_give_the_same_ten_losses() {
    let expected = golden("training.safetensors")["losses"]
        .to_vec1::<f32>()
        .unwrap();
    let cfg = small();
    let (model, vars) = model(&cfg);
    let batch = Batch::new(cfg.bert.vocab);
    let parameters = trainable_vars(&vars, Freeze::None);
    let recipe = AdamW {
        lr: 5e-5,
        weight_decay: 1e-2,
        ..AdamW::default()
    };
    let zeros = |var: &Var| {
        let moments = (2, var.elem_count());
        Tensor::zeros(moments, DType::F32, &Device::Cpu).unwrap()
    };
    let states: Vec<Tensor> = parameters.iter().map(|(_, var)| zeros(var)).collect();
    for (step, expected) in (1..).zip(expected) {
        let loss = batch.loss(&model);
        let got = loss.to_scalar::<f32>().unwrap();
        let error = (got - expected).abs() / expected;
        eprintln!("step {step}: loss {got}, relative error {error:.1e}");
        assert!(error < 1e-3, "step {step}: loss {got}, expected {expected}");
        let gradients = loss.backward().unwrap();
        for ((_, var), state) in parameters.iter().zip(&states) {
            let gradient = gradients.get(var).unwrap();
            adamw_step(var, gradient, state, step, &recipe).unwrap();
        }
    }
}

#[test]
fn every_trainable_variable_has_a_gradient() {
    let mut cfg = small();
    cfg.bert.dropout = 0.1;
    for freeze in [Freeze::None, Freeze::Bert] {
        let (mut model, vars) = model(&cfg);
        model.set_freeze(freeze);
        let gradients = Batch::new(cfg.bert.vocab).loss(&model).backward().unwrap();
        for (name, var) in trainable_vars(&vars, freeze) {
            let g = gradient(&gradients, &name, &var);
            assert!(g.iter().all(|v| v.is_finite()), "{name}: not finite");
            assert!(g.iter().any(|&v| v != 0.0), "{name}: all zero");
        }
        let frozen = &vars.data().lock().unwrap()["model.encoder.layer.0.output.dense.weight"];
        assert_eq!(gradients.get(frozen).is_none(), freeze == Freeze::Bert);
    }
}

#[test]
fn frozen_statistics_stay() {
    let cfg = small();
    let (mut model, vars) = model(&cfg);
    model.freeze_statistics(true);
    let read = || -> HashMap<String, Vec<f32>> {
        let data = vars.data().lock().unwrap();
        let kept = data.iter().filter(|(name, _)| name.contains("running_"));
        kept.map(|(n, v)| (n.clone(), v.to_vec1().unwrap()))
            .collect()
    };
    let before = read();
    let gradients = Batch::new(cfg.bert.vocab).loss(&model).backward().unwrap();
    assert_eq!(before, read());
    let stem = &vars.data().lock().unwrap()["vision_model.model.bn1.weight"];
    assert!(
        gradients.get(stem).is_some(),
        "weights are trained all the same"
    );
}

#[test]
fn dropout_follows_its_seed() {
    let mut cfg = small();
    cfg.bert = BertConfig {
        dropout: 0.5,
        ..cfg.bert
    };
    let (mut model, _vars) = model(&cfg);
    model.freeze_statistics(true);
    let batch = Batch::new(cfg.bert.vocab);
    let loss = |seed| {
        model.set_dropout_seed(seed);
        batch.loss(&model).to_scalar::<f32>().unwrap()
    };
    let first = loss(1);
    assert_ne!(first, loss(2));
    assert_eq!(first, loss(1));
}

#[test]
fn evaluation_keeps_no_graph() {
    let cfg = small();
    let (model, _vars) = model(&cfg);
    let batch = Batch::new(cfg.bert.vocab);
    let output = model
        .forward_t(&batch.image, &batch.ids, &batch.mask, false)
        .unwrap();
    assert!(!output.cls.track_op() && !output.seg.track_op());
}
