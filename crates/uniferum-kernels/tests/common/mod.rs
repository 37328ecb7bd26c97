//! Comparing tensors with the oracle.

#![allow(dead_code, unreachable_pub)]

use std::sync::OnceLock;

use candle_core::{Device, Result, Tensor, Var};
use uniferum_kernels::DeviceChoice;
use uniferum_kernels::oracle::{Array5, finite_difference};

/// Reproducible values in about -1..1 without a pattern along any axis.
pub fn values(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Exactly representable in single precision, so that both sides start alike.
            ((state >> 40) as f64 / (1u64 << 23) as f64) - 1.0
        })
        .collect()
}

pub fn array(seed: u64, dims: [usize; 5]) -> Array5 {
    Array5 {
        dims,
        data: values(seed, dims.iter().product()),
    }
}

/// The device under test: `UNIFERUM_TEST_DEVICE`, or the CPU.
pub fn device() -> Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    let open = || {
        let name = std::env::var("UNIFERUM_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
        name.parse::<DeviceChoice>().unwrap().open().unwrap()
    };
    DEVICE.get_or_init(open).clone()
}

pub fn tensor(data: &[f64], dims: &[usize]) -> Tensor {
    let data: Vec<f32> = data.iter().map(|v| *v as f32).collect();
    Tensor::from_vec(data, dims, &device()).unwrap()
}

pub fn flat(t: &Tensor) -> Vec<f64> {
    let t = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    t.into_iter().map(f64::from).collect()
}

/// Largest difference relative to the largest value.
pub fn distance(got: &[f64], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-3, |m: f64, v| m.max(v.abs()));
    got.iter().zip(want).fold(0.0, |m: f64, (g, w)| {
        assert!(g.is_finite());
        m.max((g - w).abs())
    }) / scale
}

pub fn assert_close(got: &Tensor, want: &Array5, tolerance: f64) {
    assert_eq!(got.dims(), want.dims);
    let d = distance(&flat(got), &want.data);
    assert!(d < tolerance, "relative distance {d}");
}

/// As [`assert_close`] for means of values up to about 1, which may cancel: the error is that of the
/// values, not of the mean.
#[allow(dead_code)] // Each test binary uses a part of this module.
pub fn assert_near(got: &Tensor, want: &Array5, tolerance: f64) {
    assert_eq!(got.dims(), want.dims);
    let errors = flat(got).into_iter().zip(&want.data);
    let d = errors.fold(0.0, |m: f64, (g, w)| {
        assert!(g.is_finite());
        m.max((g - w).abs())
    });
    assert!(d < tolerance, "distance {d}");
}

/// Checks the gradient of `sum(weights * f(args))` to each argument against finite
/// differences of `oracle` in double precision.
pub fn check_gradients(
    args: &[(&[f64], &[usize])],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    oracle: impl Fn(&[Vec<f64>]) -> Vec<f64>,
    tolerance: f64,
) {
    let vars: Vec<Var> = args
        .iter()
        .map(|(v, dims)| Var::from_tensor(&tensor(v, dims)).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let weights = values(99, y.elem_count());
    let loss = (&y * tensor(&weights, y.dims()))
        .unwrap()
        .sum_all()
        .unwrap();
    let grads = loss.backward().unwrap();
    let plain: Vec<Vec<f64>> = args.iter().map(|(v, _)| v.to_vec()).collect();
    for (i, var) in vars.iter().enumerate() {
        let want = finite_difference(&plain[i], |v| {
            let mut args = plain.clone();
            args[i] = v.to_vec();
            oracle(&args).iter().zip(&weights).map(|(y, w)| y * w).sum()
        });
        let got = flat(grads.get(var).expect("a gradient for every argument"));
        let d = distance(&got, &want);
        assert!(d < tolerance, "argument {i}: relative distance {d}");
    }
}
