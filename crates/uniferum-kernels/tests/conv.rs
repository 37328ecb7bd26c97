//! Convolutions against the oracle: values, and gradients by finite differences.

mod common;

use common::{array, assert_close, check_gradients, tensor, values};
use proptest::prelude::*;
use uniferum_kernels::oracle::{self, Array5};
use uniferum_kernels::{Conv3dConfig, Padding3, conv3d, depthwise_conv3d};

#[derive(Debug, Clone)]
struct Case {
    x: [usize; 5],
    w: [usize; 5],
    cfg: Conv3dConfig,
    bias: bool,
    seed: u64,
}

fn case(max_side: usize) -> impl Strategy<Value = Case> {
    let sides = prop::array::uniform3(1..=max_side);
    let kernel = prop::sample::select(vec![[1, 1, 1], [3, 3, 3], [5, 5, 5], [1, 3, 2], [2, 2, 2]]);
    let stride = prop::sample::select(vec![[1, 1, 1], [2, 2, 2], [1, 2, 1], [2, 1, 3], [1, 1, 2]]);
    // (groups, channels in, channels out)
    let channels = prop::sample::select(vec![
        (1, 1, 5),
        (1, 3, 4),
        (1, 7, 2),
        (2, 4, 6),
        (3, 3, 6),
        (4, 4, 4),
        (5, 5, 5),
    ]);
    let padding = prop::sample::select(vec![
        Padding3::Same,
        Padding3::symmetric(2),
        Padding3::Explicit([[0, 1], [2, 0], [1, 3]]),
    ]);
    (
        1..=2usize,
        sides,
        kernel,
        stride,
        channels,
        padding,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_filter_map(
            "the kernel fits",
            |(b, [d, h, w], [kd, kh, kw], stride, (groups, ci, co), padding, bias, seed)| {
                if let Padding3::Explicit(p) = padding {
                    let fits = |a: usize, n: usize, k: usize| n + p[a][0] + p[a][1] >= k;
                    if !(fits(0, d, kd) && fits(1, h, kh) && fits(2, w, kw)) {
                        return None;
                    }
                }
                let cfg = Conv3dConfig {
                    stride,
                    padding,
                    groups,
                };
                let (x, w) = ([b, ci, d, h, w], [co, ci / groups, kd, kh, kw]);
                Some(Case {
                    x,
                    w,
                    cfg,
                    bias,
                    seed,
                })
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..Default::default() })]

    #[test]
    fn forward_agrees_with_the_oracle(case in case(11)) {
        let (x, w) = (array(case.seed, case.x), array(case.seed ^ 1, case.w));
        let bias = values(case.seed ^ 2, case.w[0]);
        let want = oracle::conv3d(&x, &w, case.bias.then_some(&bias[..]), &case.cfg);
        let (x, w) = (tensor(&x.data, &case.x), tensor(&w.data, &case.w));
        let bias = case.bias.then(|| tensor(&bias, &[case.w[0]]));
        let got = conv3d(&x, &w, bias.as_ref(), &case.cfg).unwrap();
        assert_close(&got, &want, 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..Default::default() })]

    #[test]
    fn gradients_agree_with_finite_differences(case in case(4)) {
        let (x, w) = (array(case.seed, case.x), array(case.seed ^ 1, case.w));
        let bias = values(case.seed ^ 2, case.w[0]);
        let bias_dims = [case.w[0]];
        let mut args = vec![(&x.data[..], &case.x[..]), (&w.data[..], &case.w[..])];
        if case.bias {
            args.push((&bias[..], &bias_dims[..]));
        }
        check_gradients(
            &args,
            |t| conv3d(&t[0], &t[1], t.get(2), &case.cfg),
            |a| {
                let x = Array5 { dims: case.x, data: a[0].clone() };
                let w = Array5 { dims: case.w, data: a[1].clone() };
                oracle::conv3d(&x, &w, a.get(2).map(|b| &b[..]), &case.cfg).data
            },
            1e-4,
        );
    }
}

#[test]
fn wide_rows_use_every_block_size() {
    for (width, stride) in [(77, 1), (77, 2), (64, 1), (41, 2)] {
        let (xd, wd) = ([1, 2, 3, 4, width], [2, 1, 3, 3, 5]);
        let cfg = Conv3dConfig {
            stride: [1, 1, stride],
            padding: Padding3::Same,
            groups: 2,
        };
        let (x, w) = (array(5, xd), array(6, wd));
        let want = oracle::conv3d(&x, &w, None, &cfg);
        let got = depthwise_conv3d(&tensor(&x.data, &xd), &tensor(&w.data, &wd), None, &cfg);
        assert_close(&got.unwrap(), &want, 1e-5);
    }
}

#[test]
fn many_slabs_and_tasks() {
    let (xd, wd) = ([2, 6, 20, 22, 18], [8, 6, 3, 3, 3]);
    let cfg = Conv3dConfig {
        padding: Padding3::Same,
        ..Default::default()
    };
    let (x, w) = (array(7, xd), array(8, wd));
    let want = oracle::conv3d(&x, &w, None, &cfg);
    let got = conv3d(&tensor(&x.data, &xd), &tensor(&w.data, &wd), None, &cfg).unwrap();
    assert_close(&got, &want, 1e-5);
}

#[test]
fn one_voxel_kernels_over_many_columns() {
    let (xd, wd) = ([1, 5, 20, 22, 23], [7, 5, 1, 1, 1]);
    let cfg = Conv3dConfig::default();
    let (x, w) = (array(9, xd), array(10, wd));
    let want = oracle::conv3d(&x, &w, None, &cfg);
    let got = conv3d(&tensor(&x.data, &xd), &tensor(&w.data, &wd), None, &cfg).unwrap();
    assert_close(&got, &want, 1e-5);
}

#[test]
fn strided_views_are_accepted() {
    let (xd, wd) = ([1, 2, 4, 5, 6], [3, 2, 3, 3, 3]);
    let cfg = Conv3dConfig {
        padding: Padding3::Same,
        ..Default::default()
    };
    let (x, w) = (array(11, [1, 2, 6, 5, 4]), array(12, wd));
    let view = tensor(&x.data, &x.dims).transpose(2, 4).unwrap();
    let copied = Array5::from_fn(xd, |[b, c, d, h, w]| {
        x.at([b, c], [w, h, d].map(|v| v as isize))
    });
    let want = oracle::conv3d(&copied, &w, None, &cfg);
    let got = conv3d(&view, &tensor(&w.data, &wd), None, &cfg).unwrap();
    assert_close(&got, &want, 1e-5);
}

#[test]
fn bad_arguments_are_errors_that_name_them() {
    let x = tensor(&values(1, 24), &[1, 2, 3, 2, 2]);
    let w = tensor(&values(1, 16), &[2, 1, 2, 2, 2]);
    let dense = conv3d(&x, &w, None, &Conv3dConfig::default())
        .unwrap_err()
        .to_string();
    assert!(dense.contains("input channels a group"), "{dense}");
    let groups = Conv3dConfig {
        groups: 3,
        ..Default::default()
    };
    let error = conv3d(&x, &w, None, &groups).unwrap_err().to_string();
    assert!(error.contains("groups"), "{error}");
    let flat = conv3d(&x.flatten_from(3).unwrap(), &w, None, &groups)
        .unwrap_err()
        .to_string();
    assert!(flat.contains("[B, C, D, H, W]"), "{flat}");
    let double = x.to_dtype(candle_core::DType::F64).unwrap();
    let depthwise = Conv3dConfig {
        groups: 2,
        ..Default::default()
    };
    let error = conv3d(&double, &w, None, &depthwise)
        .unwrap_err()
        .to_string();
    assert!(error.contains("F64"), "{error}");
}
