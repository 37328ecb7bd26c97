//! The whole model on a GPU against the CPU.
//!
//! ```sh
//! UNIFERUM_TEST_DEVICE=cuda:0 cargo test -p uniferum-fusion --features cuda --test device
//! ```
//!
//! Without that variable the tests say on standard error that they skip.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use uniferum_encoder::{EfficientNet3d, EncoderConfig, seeded_var_builder};
use uniferum_fusion::{BertConfig, Output, Uniferum, UniferumConfig};
use uniferum_kernels::{DeviceChoice, bce_with_logits, sigmoid_focal};

const SIZE: [usize; 3] = [64, 64, 32];

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

fn config() -> UniferumConfig {
    UniferumConfig {
        bert: BertConfig {
            hidden: 48,
            heads: 4,
            intermediate: 96,
            layers: 2,
            vocab: 50,
            max_positions: 128,
            ..BertConfig::default()
        },
        ..UniferumConfig::default()
    }
}

/// Values in 0..1 without a pattern along any axis.
fn volumes(batch: usize, device: &Device) -> Tensor {
    let [x, y, z] = SIZE;
    let n = batch * x * y * z;
    let mut state = 1u32;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1u32 << 24) as f32
        })
        .collect();
    Tensor::from_vec(values, (batch, 1, x, y, z), device).unwrap()
}

struct Model {
    model: Uniferum,
    vars: VarMap,
    device: Device,
}

impl Model {
    fn new(device: &Device) -> Self {
        let vars = VarMap::new();
        let vb = seeded_var_builder(&vars, 7, DType::F32, device);
        Self {
            model: Uniferum::new(&config(), vb).unwrap(),
            vars,
            device: device.clone(),
        }
    }

    fn ask(&self, train: bool) -> Output {
        let ids = Tensor::new(&[[2u32, 7, 9, 3], [2, 30, 3, 0]], &self.device).unwrap();
        let mask = Tensor::new(&[[1u32, 1, 1, 1], [1, 1, 1, 0]], &self.device).unwrap();
        self.model.set_dropout_seed(5);
        let images = volumes(2, &self.device);
        self.model.forward_t(&images, &ids, &mask, train).unwrap()
    }

    /// Loss and gradients of a training pass with dropout, by name.
    fn gradients(&self) -> (f32, HashMap<String, Tensor>) {
        let out = self.ask(true);
        let labels = Tensor::new(&[[1f32], [0.0]], &self.device).unwrap();
        let voxels = (out.seg.ones_like().unwrap() * 0.25).unwrap();
        let cls = bce_with_logits(&out.cls, &labels).unwrap().mean_all();
        let seg = sigmoid_focal(&out.seg, &voxels, 0.25, 2.0).unwrap();
        let loss = (cls.unwrap() + seg.mean_all().unwrap()).unwrap();
        let grads = loss.backward().unwrap();
        let vars = self.vars.data().lock().unwrap();
        let of = |(name, var): (&String, &Var)| {
            let grad = grads.get(var.as_tensor())?;
            Some((name.clone(), grad.to_device(&Device::Cpu).unwrap()))
        };
        (
            loss.to_scalar().unwrap(),
            vars.iter().filter_map(of).collect(),
        )
    }
}

/// Length of the difference, relative to the expected length.
fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let vector = |t: &Tensor| {
        let t = t.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64);
        t.unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
    };
    let (got, want) = (vector(got), vector(want));
    assert_eq!(got.len(), want.len());
    let length = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = length(&mut got.iter().zip(&want).map(|(g, w)| g - w));
    difference / length(&mut want.iter().copied()).max(1e-12)
}

#[test]
fn evaluation_agrees_with_the_cpu() {
    let Some(device) = gpu() else { return };
    let want = Model::new(&Device::Cpu).ask(false);
    let got = Model::new(&device).ask(false);
    for (what, got, want) in [("cls", got.cls, want.cls), ("seg", got.seg, want.seg)] {
        let distance = distance(&got, &want);
        eprintln!("{what}: {distance:.1e}");
        assert!(distance < 1e-4, "{what}: {distance}");
    }
}

/// So many positions that the CPU would pack them.
#[test]
fn answers_agree_with_the_cpu() {
    let Some(device) = gpu() else { return };
    let ask = |device: &Device| {
        let model = Model::new(device).model;
        let tokens = volumes(1, &Device::Cpu).flatten_all().unwrap();
        let tokens = tokens.narrow(0, 0, 100 * 48).unwrap();
        let tokens = tokens.reshape((1, 100, 48)).unwrap().to_device(device);
        let tokens = tokens.unwrap();
        let ids = Tensor::new(&[[2u32, 7, 9, 3], [2, 30, 3, 0], [2, 4, 3, 0]], device).unwrap();
        let mask = Tensor::new(&[[1u32, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]], device).unwrap();
        let both = model.ask(&tokens, &ids, &mask).unwrap();
        let cls = model.classify(&tokens, &ids, &mask).unwrap();
        let seg = model.segment(&tokens, &ids, &mask).unwrap();
        [both.cls, both.seg, cls, seg]
    };
    for (got, want) in ask(&device).iter().zip(ask(&Device::Cpu)) {
        let distance = distance(got, &want);
        assert!(distance < 1e-4, "{:?}: {distance}", want.dims());
    }
}

#[test]
fn a_training_pass_agrees_with_the_cpu() {
    let Some(device) = gpu() else { return };
    let (want_loss, want) = Model::new(&Device::Cpu).gradients();
    let (loss, got) = Model::new(&device).gradients();
    assert!((loss - want_loss).abs() < 1e-4, "{loss}, {want_loss}");
    assert_eq!(got.len(), want.len());
    // All gradients as one vector, as the optimiser's clipping sees them; then each by itself,
    // but for those that are 0 in exact arithmetic (a shift in front of a batch norm).
    let mut names: Vec<&String> = want.keys().collect();
    names.sort();
    let all = |of: &HashMap<String, Tensor>| {
        let parts = names.iter().map(|n| of[*n].flatten_all().unwrap());
        Tensor::cat(&parts.collect::<Vec<_>>(), 0).unwrap()
    };
    let whole = distance(&all(&got), &all(&want));
    eprintln!("all gradients: {whole:.1e}");
    assert!(whole < 1e-4, "{whole}");
    let size = |t: &Tensor| {
        let squares = t.sqr().unwrap().mean_all().unwrap();
        squares.to_scalar::<f32>().unwrap().sqrt()
    };
    for name in names.iter().filter(|n| size(&want[**n]) > 1e-6) {
        let distance = distance(&got[*name], &want[*name]);
        assert!(distance < 2e-3, "{name}: {distance}");
    }
}

#[test]
fn bf16_features_are_near_those_of_f32() {
    let Some(device) = gpu() else { return };
    let vars = VarMap::new();
    let vb = seeded_var_builder(&vars, 7, DType::F32, &device);
    let net = EfficientNet3d::new(&EncoderConfig::default(), vb).unwrap();
    let images = volumes(1, &device);
    let want = net.forward_t(&images, false).unwrap();
    let half = images.to_dtype(DType::BF16).unwrap();
    let got = net.forward_t(&half, false).unwrap();
    assert_eq!(got.dtype(), DType::BF16);
    let distance = distance(&got.to_dtype(DType::F32).unwrap(), &want);
    eprintln!("bf16: {distance:.1e}");
    assert!(distance < 5e-2, "{distance}");
}
