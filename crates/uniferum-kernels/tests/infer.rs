//! Inference networks against the oracle, under every instruction set.

mod common;

use common::{distance, values};
use proptest::prelude::*;
use uniferum_kernels::infer::{Affine, Arena, Head, MbConv, Network, Precision, Stem};
use uniferum_kernels::oracle::{self, Array5};
use uniferum_kernels::simd::Simd;
use uniferum_kernels::{Conv3dConfig, Padding3};

/// A network as the oracle knows it.
#[derive(Debug, Clone)]
struct Net {
    stem: Stem,
    blocks: Vec<MbConv>,
    head: Head,
}

fn affine(seed: u64, outputs: usize, inputs: usize) -> Affine {
    let scale = (3.0 / inputs as f64).sqrt();
    let cast = |v: Vec<f64>, scale: f64| v.into_iter().map(|v| (v * scale) as f32).collect();
    Affine {
        weight: cast(values(seed, outputs * inputs), scale),
        bias: cast(values(seed ^ 77, outputs), 0.3),
    }
}

/// Channels, kernel and stride of one block.
#[derive(Debug, Clone, Copy)]
struct Spec {
    expansion: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
}

fn block(seed: u64, inputs: usize, spec: Spec) -> MbConv {
    let Spec {
        expansion,
        outputs,
        kernel,
        stride,
    } = spec;
    let (middle, squeezed) = (inputs * expansion, (inputs / 4).max(1));
    MbConv {
        inputs,
        middle,
        squeezed,
        outputs,
        kernel,
        stride,
        skip: stride == 1 && inputs == outputs,
        expand: (expansion > 1).then(|| affine(seed + 1, middle, inputs)),
        depthwise: affine(seed + 2, middle, kernel.pow(3)),
        squeeze: affine(seed + 3, squeezed, middle),
        excite: affine(seed + 4, middle, squeezed),
        project: affine(seed + 5, outputs, middle),
    }
}

fn net(seed: u64, inputs: usize, first: usize, specs: &[Spec], features: usize) -> Net {
    let mut channels = first;
    let blocks = specs.iter().enumerate().map(|(i, spec)| {
        let block = block(seed + 10 * i as u64, channels, *spec);
        channels = block.outputs;
        block
    });
    let blocks: Vec<_> = blocks.collect();
    Net {
        stem: Stem {
            inputs,
            outputs: first,
            conv: affine(seed + 1000, first, inputs * 27),
        },
        blocks,
        head: Head {
            inputs: channels,
            outputs: features,
            conv: affine(seed + 2000, features, channels),
        },
    }
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

fn conv(x: &Array5, layer: &Affine, kernel: usize, stride: usize, groups: usize) -> Array5 {
    let outputs = layer.bias.len();
    let w = Array5 {
        dims: [outputs, x.dims[1] / groups, kernel, kernel, kernel],
        data: wide(&layer.weight),
    };
    let cfg = Conv3dConfig {
        stride: [stride; 3],
        padding: Padding3::Same,
        groups,
    };
    oracle::conv3d(x, &w, Some(&wide(&layer.bias)), &cfg)
}

fn oracle_block(x: &Array5, b: &MbConv) -> Array5 {
    let mut y = x.clone();
    if let Some(expand) = &b.expand {
        y = oracle::silu5(&conv(&y, expand, 1, 1, 1));
    }
    y = oracle::silu5(&conv(&y, &b.depthwise, b.kernel, b.stride, b.middle));
    let [ws, bs] = [&b.squeeze.weight, &b.squeeze.bias].map(|v| wide(v));
    let [we, be] = [&b.excite.weight, &b.excite.bias].map(|v| wide(v));
    y = oracle::squeeze_excite(&y, &ws, &bs, &we, &be);
    y = conv(&y, &b.project, 1, 1, 1);
    if b.skip {
        y.data.iter_mut().zip(&x.data).for_each(|(y, x)| *y += x);
    }
    y
}

fn oracle_net(net: &Net, image: &Array5) -> Array5 {
    let stem = oracle::silu5(&conv(image, &net.stem.conv, 3, 2, 1));
    let x = net.blocks.iter().fold(stem, |x, b| oracle_block(&x, b));
    oracle::silu5(&conv(&x, &net.head.conv, 1, 1, 1))
}

fn image(seed: u64, channels: usize, [d, h, w]: [usize; 3]) -> Array5 {
    Array5 {
        dims: [1, channels, d, h, w],
        data: values(seed, channels * d * h * w),
    }
}

/// Runs the network under every instruction set and compares.
fn check(net: &Net, image: &Array5) {
    let want = oracle_net(net, image);
    let [_, _, d, h, w] = image.dims;
    let input: Vec<f32> = image.data.iter().map(|v| *v as f32).collect();
    for simd in Simd::available() {
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 2e-2)] {
            let packed =
                Network::with_simd(&net.stem, &net.blocks, &net.head, precision, simd).unwrap();
            assert_eq!((packed.simd(), packed.precision()), (simd, precision));
            let mut features = vec![f32::NAN; want.data.len()];
            let mut arena = Arena::new();
            // Twice: the second run finds the first one's leavings in the arena.
            for _ in 0..2 {
                packed
                    .run(&mut arena, &input, [d, h, w], &mut features)
                    .unwrap();
                let error = distance(&wide(&features), &want.data);
                assert!(error < tolerance, "{simd:?} {precision:?}: {error}");
            }
        }
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    (
        prop::sample::select(vec![1usize, 3, 6]),
        prop::sample::select(vec![8usize, 16, 24, 40]),
        prop::sample::select(vec![3usize, 5]),
        1..=2usize,
    )
        .prop_map(|(expansion, outputs, kernel, stride)| Spec {
            expansion,
            outputs,
            kernel,
            stride,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn networks_agree_with_the_oracle(
        seed in any::<u32>(),
        sides in prop::array::uniform3(1..=24usize),
        inputs in 1..=2usize,
        first in prop::sample::select(vec![8usize, 24, 32]),
        // With and without the fused stem.
        expansion in prop::sample::select(vec![1usize, 1, 1, 6]),
        kernel in prop::sample::select(vec![3usize, 5]),
        stride in 1..=2usize,
        outputs in prop::sample::select(vec![16usize, 24]),
        rest in prop::collection::vec(spec(), 0..=2),
        features in prop::sample::select(vec![16usize, 20]),
    ) {
        let mut specs = vec![Spec { expansion, outputs, kernel, stride }];
        specs.extend(rest);
        let net = net(u64::from(seed), inputs, first, &specs, features);
        check(&net, &image(u64::from(seed) ^ 5, inputs, sides));
    }
}

#[test]
fn long_rows_and_many_strips() {
    // Wide enough for several pieces along every axis.
    let specs = [(1, 16, 3, 1), (6, 24, 3, 2), (6, 24, 5, 1)];
    let specs = specs.map(|(expansion, outputs, kernel, stride)| Spec {
        expansion,
        outputs,
        kernel,
        stride,
    });
    let net = net(3, 1, 32, &specs, 48);
    check(&net, &image(4, 1, [24, 90, 150]));
}

#[test]
fn a_smaller_volume_after_a_larger_one_sees_nothing_of_it() {
    let first = Spec {
        expansion: 1,
        outputs: 16,
        kernel: 3,
        stride: 1,
    };
    let net = net(8, 1, 16, &[first], 16);
    let packed = Network::new(&net.stem, &net.blocks, &net.head, Precision::F32).unwrap();
    let mut arena = Arena::new();
    for sides in [[20, 18, 16], [9, 7, 5], [20, 18, 16]] {
        let image = image(9, 1, sides);
        let want = oracle_net(&net, &image);
        let input: Vec<f32> = image.data.iter().map(|v| *v as f32).collect();
        let mut features = vec![0.0; want.data.len()];
        packed
            .run(&mut arena, &input, sides, &mut features)
            .unwrap();
        assert!(distance(&wide(&features), &want.data) < 1e-5);
    }
    assert!(arena.bytes() > 0);
}

#[test]
fn what_does_not_fit_together_is_named() {
    let first = Spec {
        expansion: 1,
        outputs: 16,
        kernel: 3,
        stride: 1,
    };
    let good = net(8, 1, 8, &[first], 16);
    let error = |net: &Net| {
        let made = Network::new(&net.stem, &net.blocks, &net.head, Precision::F32);
        made.unwrap_err().to_string()
    };
    let mut net = good.clone();
    net.blocks[0].kernel = 7;
    assert!(error(&net).contains("depthwise kernel"), "{}", error(&net));
    let mut net = good.clone();
    net.blocks[0].project.bias.pop();
    assert!(error(&net).contains("projection"), "{}", error(&net));
    let mut net = good.clone();
    net.head.inputs = 24;
    assert!(error(&net).contains("head"), "{}", error(&net));
    let mut net = good.clone();
    net.blocks.clear();
    assert!(error(&net).contains("blocks"), "{}", error(&net));

    let packed = Network::new(&good.stem, &good.blocks, &good.head, Precision::F32).unwrap();
    let run = |image: &[f32], sides, features: &mut [f32]| {
        let result = packed.run(&mut Arena::new(), image, sides, features);
        result.unwrap_err().to_string()
    };
    let message = run(&[0.0; 7], [2, 2, 2], &mut [0.0; 16]);
    assert!(message.contains("elements of the image"), "{message}");
    let message = run(&[0.0; 8], [2, 2, 2], &mut [0.0; 15]);
    assert!(message.contains("elements of the features"), "{message}");
    let message = run(&[], [0, 2, 2], &mut []);
    assert!(message.contains("voxel"), "{message}");
}
