//! Packed linear maps against the differentiable ones.

mod common;

use common::{distance, flat, tensor, values};
use uniferum_kernels::infer::{DenseLayer, Precision, dense};
use uniferum_kernels::{gelu_erf, linear};

/// `x` in front of two maps of the given widths, by both ways.
fn check(rows: usize, widths: [usize; 3], precision: Precision, tolerance: f64) {
    let [k, inner, n] = widths;
    let map = |seed: u64, n: usize, k: usize| {
        let spread = (3.0 / k as f64).sqrt();
        let weight: Vec<f64> = values(seed, n * k).iter().map(|v| v * spread).collect();
        (tensor(&weight, &[n, k]), tensor(&values(seed + 1, n), &[n]))
    };
    let (first, second) = (map(1, inner, k), map(3, n, inner));
    let x = tensor(&values(5, rows * k), &[rows, k]);

    let (a, b) = (first, second);
    let layers = [&a, &b].map(|(weight, bias)| DenseLayer { weight, bias });
    let want = linear(&x, &a.0, &a.1).unwrap();
    let got = dense(&x, &layers[..1], precision).unwrap();
    assert_eq!(got.dims(), want.dims());
    let error = distance(&flat(&got), &flat(&want));
    assert!(error < tolerance, "{rows} {widths:?}: {error}");
    let want = linear(&gelu_erf(&want).unwrap(), &b.0, &b.1).unwrap();
    let error = distance(&flat(&dense(&x, &layers, precision).unwrap()), &flat(&want));
    assert!(error < tolerance, "{rows} {widths:?}: {error}");
}

#[test]
fn sizes_that_fill_blocks_and_sizes_that_do_not() {
    for (rows, widths) in [
        (64, [16, 32, 16]),
        (97, [48, 64, 32]),
        (131, [33, 19, 5]),
        (3, [20, 16, 7]),
        (200, [1, 1, 1]),
    ] {
        check(rows, widths, Precision::F32, 1e-5);
        check(rows, widths, Precision::Bf16, 2e-2);
    }
}

#[test]
fn maps_that_do_not_follow_each_other_are_refused() {
    let x = tensor(&values(1, 12), &[3, 4]);
    let (weight, bias) = (tensor(&values(2, 10), &[2, 5]), tensor(&values(3, 2), &[2]));
    let layer = DenseLayer {
        weight: &weight,
        bias: &bias,
    };
    let message =
        |layers: &[DenseLayer<'_>]| dense(&x, layers, Precision::F32).unwrap_err().to_string();
    assert!(
        message(&[layer]).contains("[N, 4]"),
        "{}",
        message(&[layer])
    );
    assert!(message(&[]).contains("at least one"));
}
