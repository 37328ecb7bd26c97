//! On a GPU: activations stored as bf16 against f32, values and gradients.
//!
//! Needs `--features cuda` and `UNIFERUM_TEST_DEVICE=cuda:0`; says on standard error that it skips
//! otherwise (the CPU's kernels are of f32).

mod common;

use candle_core::{DType, Result, Tensor, Var};
use common::{device, distance, flat, tensor, values};
use uniferum_kernels::{
    Conv3dConfig, MbConv, NormedConv, Padding3, SqueezeExcite, attention, batch_norm_silu, conv3d,
    dropout, gelu_erf, layer_norm, linear, max_pool3d, mbconv, silu,
};

/// bf16 has 8 bits; a few roundings in a row and sums of them stay well below this.
const TOLERANCE: f64 = 3e-2;

fn of(seed: u64, dims: &[usize], scale: f64, shift: f64) -> Tensor {
    let v = values(seed, dims.iter().product());
    let v: Vec<f64> = v.iter().map(|v| v * scale + shift).collect();
    tensor(&v, dims)
}

/// Value and gradients of `f(x, parameters)` with `x` stored as `dtype`.
fn run(
    x: &Tensor,
    parameters: &[Tensor],
    dtype: DType,
    f: &dyn Fn(&Tensor, &[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Vec<f64>>> {
    let x = Var::from_tensor(&x.to_dtype(dtype)?)?;
    let vars: Vec<Var> = parameters
        .iter()
        .map(Var::from_tensor)
        .collect::<Result<_>>()?;
    let own: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(x.as_tensor(), &own)?;
    assert_eq!(y.dtype(), dtype);
    let y = y.to_dtype(DType::F32)?;
    let weights = of(77, y.dims(), 1.0, 0.0);
    let grads = (&y * weights)?.sum_all()?.backward()?;
    let mut all = vec![flat(&y)];
    for var in std::iter::once(&x).chain(&vars) {
        if let Some(grad) = grads.get(var) {
            all.push(flat(&grad.to_dtype(DType::F32)?));
        }
    }
    Ok(all)
}

fn check(
    what: &str,
    x: &[usize],
    parameters: &[Tensor],
    f: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor>,
) {
    check_within(TOLERANCE, what, x, parameters, f);
}

fn check_within(
    tolerance: f64,
    what: &str,
    x: &[usize],
    parameters: &[Tensor],
    f: impl Fn(&Tensor, &[Tensor]) -> Result<Tensor>,
) {
    if device().is_cpu() {
        eprintln!("skipped: {what}: UNIFERUM_TEST_DEVICE names no GPU");
        return;
    }
    let x = of(1, x, 1.0, 0.1);
    // Both begin at the same values.
    let x = x
        .to_dtype(DType::BF16)
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap();
    let want = run(&x, parameters, DType::F32, &f).unwrap();
    let got = run(&x, parameters, DType::BF16, &f).unwrap();
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let d = distance(got, want);
        assert!(d < tolerance, "{what}, result {i}: relative distance {d}");
    }
}

#[test]
fn convolutions() {
    let same = |stride, groups| Conv3dConfig {
        stride: [stride; 3],
        padding: Padding3::Same,
        groups,
    };
    for (k, stride) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
        let w = [of(2, &[6, 1, k, k, k], 0.2, 0.0)];
        let cfg = same(stride, 6);
        check("depthwise", &[2, 6, 7, 9, 12], &w, |x, p| {
            conv3d(x, &p[0], None, &cfg)
        });
    }
    let w = [of(3, &[8, 6, 1, 1, 1], 0.4, 0.0), of(4, &[8], 0.5, 0.0)];
    let cfg = Conv3dConfig::default();
    check("product", &[2, 6, 4, 5, 6], &w, |x, p| {
        conv3d(x, &p[0], Some(&p[1]), &cfg)
    });
    let w = [of(5, &[4, 3, 3, 3, 3], 0.2, 0.0)];
    let cfg = same(2, 2);
    check("grouped", &[1, 6, 5, 6, 7], &w, |x, p| {
        conv3d(x, &p[0], None, &cfg)
    });
}

/// Small whole numbers, and sums of them below 256, are exact in either type: so must be the values
/// and gradients of convolutions on tensor cores, wherever windows, strips and walks end.
#[test]
fn depthwise_of_whole_numbers_is_exact() {
    if device().is_cpu() {
        eprintln!("skipped: UNIFERUM_TEST_DEVICE names no GPU");
        return;
    }
    let whole = |seed, dims: &[usize], most: f64| {
        let v = values(seed, dims.iter().product());
        let v: Vec<f64> = v.iter().map(|v| (v * (most + 0.5)).round()).collect();
        tensor(&v, dims)
    };
    for (k, dims) in [
        (3, [2, 3, 5, 9, 64]),
        (3, [3, 2, 3, 4, 16]),
        (3, [1, 2, 20, 6, 150]),
        (3, [1, 1, 1, 1, 2]),
        (5, [2, 2, 6, 7, 40]),
        (5, [5, 2, 4, 3, 8]),
        (5, [1, 1, 9, 5, 72]),
        (5, [1, 2, 3, 5, 7]),
    ] {
        let cfg = Conv3dConfig {
            stride: [1; 3],
            padding: Padding3::Same,
            groups: dims[1],
        };
        let (x, slope) = (whole(1, &dims, 2.0), whole(2, &dims, 1.0));
        let w = whole(3, &[dims[1], 1, k, k, k], 1.0);
        let both = [DType::F32, DType::BF16].map(|dtype| {
            let x = Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap();
            let w = Var::from_tensor(&w).unwrap();
            let y = conv3d(&x, &w, None, &cfg).unwrap();
            let y = y.to_dtype(DType::F32).unwrap();
            let loss = (&y * &slope).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            let dx = grads.get(&x).unwrap().to_dtype(DType::F32).unwrap();
            [flat(&y), flat(&dx), flat(grads.get(&w).unwrap())]
        });
        assert_eq!(both[0], both[1], "kernel of {k}, {dims:?}");
    }
}

#[test]
fn norms_activations_and_pools() {
    let affine = [of(6, &[5], 0.3, 1.0), of(7, &[5], 0.3, 0.0)];
    check("batch norm", &[2, 5, 4, 6, 8], &affine, |x, p| {
        batch_norm_silu(x, &p[0], &p[1], None, 1e-3).map(|(y, _)| y)
    });
    let affine = [of(8, &[32], 0.3, 1.0), of(9, &[32], 0.3, 0.0)];
    check("layer norm", &[3, 7, 32], &affine, |x, p| {
        layer_norm(x, &p[0], &p[1], 1e-5)
    });
    check("silu", &[3, 50], &[], |x, _| silu(x));
    check("gelu", &[3, 50], &[], |x, _| gelu_erf(x));
    check("dropout", &[3, 50], &[], |x, _| dropout(x, 0.3, 4));
    check("max pool", &[1, 2, 6, 6, 6], &[], |x, _| {
        max_pool3d(x, [2; 3], [2; 3])
    });
}

#[test]
fn transformer() {
    let w = [of(10, &[24, 32], 0.3, 0.0), of(11, &[24], 0.3, 0.0)];
    check("linear", &[2, 9, 32], &w, |x, p| linear(x, &p[0], &p[1]));
    check("attention", &[2, 3, 10, 8], &[], |x, _| {
        attention(x, x, x, None, Some((0.2, 3)))
    });
}

#[test]
fn blocks() {
    let parameters = [
        of(20, &[12, 4, 1, 1, 1], 0.8, 0.0),
        of(21, &[12], 0.3, 1.0),
        of(22, &[12], 0.3, 0.1),
        of(23, &[12, 1, 3, 3, 3], 0.3, 0.0),
        of(24, &[12], 0.3, 1.0),
        of(25, &[12], 0.3, 0.1),
        of(26, &[4, 12, 1, 1, 1], 0.5, 0.0),
        of(27, &[4], 0.3, 1.0),
        of(28, &[4], 0.3, 0.1),
        of(29, &[3, 12, 1, 1, 1], 0.5, 0.0),
        of(30, &[3], 0.5, 0.0),
        of(31, &[12, 3, 1, 1, 1], 0.5, 0.0),
        of(32, &[12], 0.5, 0.0),
    ];
    // The gradient of a scale between two norms is what is left of sums that cancel.
    check_within(0.1, "block", &[2, 4, 6, 7, 8], &parameters, |x, p| {
        let conv = |i: usize| NormedConv {
            weight: &p[i],
            gamma: &p[i + 1],
            beta: &p[i + 2],
            running: None,
        };
        let block = MbConv {
            expand: Some(conv(0)),
            depthwise: conv(3),
            project: conv(6),
            squeeze_excite: SqueezeExcite {
                w_reduce: &p[9],
                b_reduce: &p[10],
                w_expand: &p[11],
                b_expand: &p[12],
            },
            stride: [1; 3],
            padding: Padding3::Same,
            residual: true,
            eps: 1e-3,
        };
        mbconv(x, &block).map(|(y, _)| y)
    });
}

#[test]
fn mixed_types_are_refused() {
    if device().is_cpu() {
        return;
    }
    let x = of(1, &[1, 2, 3, 3, 3], 1.0, 0.0);
    let w = of(2, &[2, 2, 1, 1, 1], 1.0, 0.0)
        .to_dtype(DType::BF16)
        .unwrap();
    let error = conv3d(&x, &w, None, &Conv3dConfig::default()).unwrap_err();
    assert!(error.to_string().contains("type of a parameter"), "{error}");
}
