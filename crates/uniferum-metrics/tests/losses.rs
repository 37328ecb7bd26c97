//! The losses against their definition in `f64`, at logits up to ±100 and beyond, in `f32` and `bf16`.
#![cfg(feature = "losses")]

use candle_core::{DType, Device, Tensor, Var};
use uniferum_metrics::losses::{
    LossConfig, Targets, bce_with_logits, multitask_loss, sigmoid_focal_loss,
};

const LOGITS: [f64; 13] = [
    -100.0, -88.0, -30.0, -8.0, -1.5, -0.25, 0.0, 0.25, 1.5, 8.0, 30.0, 88.0, 100.0,
];

fn cross_entropy(x: f64, t: f64) -> f64 {
    x.max(0.0) - x * t + (-x.abs()).exp().ln_1p()
}

fn focal(x: f64, t: f64, config: &LossConfig) -> f64 {
    let (alpha, gamma) = (f64::from(config.focal_alpha), f64::from(config.focal_gamma));
    // 1 - p without cancellation.
    let (p, q) = (1.0 / (1.0 + (-x).exp()), 1.0 / (1.0 + x.exp()));
    let missed = p * (1.0 - t) + q * t;
    (alpha * t + (1.0 - alpha) * (1.0 - t)) * missed.powf(gamma) * cross_entropy(x, t)
}

fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let h = 1e-4;
    (f(x + h) - f(x - h)) / (2.0 * h)
}

/// Loss and gradient of one logit.
fn measured(
    x: f64,
    t: f64,
    dtype: DType,
    loss: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
) -> (f64, f64) {
    let device = Device::Cpu;
    let x = Tensor::new(&[x as f32], &device).unwrap();
    let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
    let t = Tensor::new(&[t as f32], &device).unwrap();
    let value = loss(x.as_tensor(), &t).unwrap();
    let grads = value.backward().unwrap();
    let grad = grads.get(x.as_tensor()).unwrap();
    assert_eq!(grad.dtype(), dtype);
    let number = |t: &Tensor| {
        let t = t.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        t.to_vec1::<f64>().unwrap()[0]
    };
    (number(&value), number(grad))
}

fn check(got: f64, expected: f64, tolerance: f64, what: &str) {
    assert!(got.is_finite(), "{what}: {got}");
    let error = (got - expected).abs();
    assert!(
        error <= tolerance * (1.0 + expected.abs()),
        "{what}: got {got}, expected {expected}"
    );
}

#[test]
fn values_and_gradients_hold_for_extreme_logits() {
    let paper = LossConfig::default();
    let plain = LossConfig {
        focal_gamma: 0.0,
        ..paper
    };
    let odd = LossConfig {
        focal_alpha: 0.6,
        focal_gamma: 1.7,
        ..paper
    };
    // All logits above are exact in bf16 but for rounding of the gradient to 8 bits.
    for (dtype, of_value, of_grad) in [(DType::F32, 2e-6, 2e-6), (DType::BF16, 2e-6, 4e-3)] {
        for x in LOGITS {
            for t in [0.0, 0.3, 1.0] {
                let what = format!("{dtype:?} x {x} t {t}");
                let (value, grad) = measured(x, t, dtype, bce_with_logits);
                check(value, cross_entropy(x, t), of_value, &what);
                check(grad, slope(|x| cross_entropy(x, t), x), of_grad, &what);
                for config in [&paper, &plain, &odd] {
                    let loss = |x: &Tensor, t: &Tensor| sigmoid_focal_loss(x, t, config);
                    let (value, grad) = measured(x, t, dtype, loss);
                    check(value, focal(x, t, config), of_value * 4.0, &what);
                    check(grad, slope(|x| focal(x, t, config), x), of_grad, &what);
                }
            }
        }
    }
}

#[test]
fn a_mixed_batch_is_its_definition_and_so_is_its_gradient() {
    let device = Device::Cpu;
    let config = LossConfig::default();
    let (b, l, p) = (4, 3, 5);
    let wave = |i: usize, scale: f64| (i as f64 * 1.7).sin() * scale;
    let cls: Vec<f64> = (0..b).map(|i| wave(i + 1, 3.0)).collect();
    let seg: Vec<f64> = (0..b * l * p).map(|i| wave(i, 4.0)).collect();
    let labels = [1.0, 0.0, 1.0, 0.0];
    let masks: Vec<f64> = (0..b * l * p)
        .map(|i| f64::from(u8::from(i % 3 == 0)))
        .collect();
    let is_seg = [0.0, 1.0, 1.0, 0.0];

    let sample = |i: usize, cls: &[f64], seg: &[f64]| {
        if is_seg[i] == 0.0 {
            return cross_entropy(cls[i], labels[i]);
        }
        let cells = i * l * p..(i + 1) * l * p;
        let mean = cells
            .clone()
            .map(|j| focal(seg[j], masks[j], &config))
            .sum::<f64>();
        config.mask_weight * mean / cells.len() as f64
    };
    let total =
        |cls: &[f64], seg: &[f64]| (0..b).map(|i| sample(i, cls, seg)).sum::<f64>() / b as f64;

    let tensor = |v: &[f64], shape: &[usize]| {
        let v: Vec<f32> = v.iter().map(|x| *x as f32).collect();
        Tensor::from_vec(v, shape, &device).unwrap()
    };
    let cls_var = Var::from_tensor(&tensor(&cls, &[b, 1])).unwrap();
    let seg_var = Var::from_tensor(&tensor(&seg, &[b, l, p])).unwrap();
    let targets = Targets {
        labels: &tensor(&labels, &[b]),
        masks: &tensor(&masks, &[b, l, p]),
        is_segmentation: &tensor(&is_seg, &[b]),
    };
    let loss = multitask_loss(&cls_var, &seg_var, &targets, &config).unwrap();
    let got = f64::from(loss.total.to_scalar::<f32>().unwrap());
    check(got, total(&cls, &seg), 1e-6, "total");
    for (i, got) in loss.per_sample.to_vec1::<f32>().unwrap().iter().enumerate() {
        check(f64::from(*got), sample(i, &cls, &seg), 1e-6, "sample");
    }
    let grads = loss.total.backward().unwrap();
    let grad = |v: &Var| {
        let g = grads.get(v.as_tensor()).unwrap().flatten_all().unwrap();
        g.to_vec1::<f32>().unwrap()
    };
    for (i, got) in grad(&cls_var).iter().enumerate() {
        let moved = |x: f64| {
            let mut cls = cls.clone();
            cls[i] = x;
            total(&cls, &seg)
        };
        check(f64::from(*got), slope(moved, cls[i]), 1e-6, "cls gradient");
    }
    for (i, got) in grad(&seg_var).iter().enumerate() {
        let moved = |x: f64| {
            let mut seg = seg.clone();
            seg[i] = x;
            total(&cls, &seg)
        };
        check(f64::from(*got), slope(moved, seg[i]), 1e-6, "seg gradient");
    }
}

#[test]
fn a_batch_of_extreme_logits_stays_finite() {
    let device = Device::Cpu;
    for dtype in [DType::F32, DType::BF16] {
        let make = |shape: &[usize], value: f32| {
            let t = Tensor::full(value, shape, &device).unwrap();
            Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()
        };
        for value in [-100f32, 100.0, -1e4, 1e4] {
            let (cls, seg) = (make(&[2, 1], value), make(&[2, 3, 4], value));
            let targets = Targets {
                labels: &Tensor::new(&[0f32, 1.0], &device).unwrap(),
                masks: &Tensor::ones((2, 3, 4), DType::F32, &device).unwrap(),
                is_segmentation: &Tensor::new(&[0f32, 1.0], &device).unwrap(),
            };
            let loss = multitask_loss(&cls, &seg, &targets, &LossConfig::default()).unwrap();
            assert!(loss.total.to_scalar::<f32>().unwrap().is_finite());
            let grads = loss.total.backward().unwrap();
            for var in [&cls, &seg] {
                let g = grads
                    .get(var.as_tensor())
                    .unwrap()
                    .to_dtype(DType::F32)
                    .unwrap();
                let g = g.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(g.iter().all(|g| g.is_finite()), "{dtype:?} {value}: {g:?}");
            }
        }
    }
}
