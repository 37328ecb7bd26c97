//! The packed encoder against the network run operation by operation.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use uniferum_encoder::{
    EfficientNet3d, EncoderConfig, InferenceEncoder, Precision, Variant, seeded_var_builder,
};
use uniferum_kernels::simd::Simd;

const THIN: Variant = Variant::Custom {
    width: 0.25,
    depth: 0.5,
};

fn network(variant: Variant, in_channels: usize, vars: &VarMap) -> EfficientNet3d {
    let cfg = EncoderConfig {
        variant,
        in_channels,
    };
    let vb = seeded_var_builder(vars, 5, DType::F32, &Device::Cpu);
    let net = EfficientNet3d::new(&cfg, vb).unwrap();
    // Parameters of a trained network's norms differ from 0 and 1.
    for (name, var) in vars.data().lock().unwrap().iter() {
        let wave = |offset: f64, scale: f64| {
            let values: Vec<f32> = (0..var.elem_count())
                .map(|i| (offset + scale * (i as f64 * 0.7).sin()) as f32)
                .collect();
            let values = Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap();
            var.set(&values).unwrap();
        };
        match name.rsplit('.').next().unwrap() {
            "running_mean" | "bias" => wave(0.0, 0.1),
            "running_var" => wave(1.0, 0.4),
            "weight" if var.rank() == 1 => wave(1.0, 0.3),
            _ => {}
        }
    }
    net
}

fn image(shape: [usize; 5]) -> Tensor {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| (((i * 7919) % 1009) as f32 / 1009.0) * 1.2 - 0.1)
        .collect();
    Tensor::from_vec(values, &shape, &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference relative to the largest value.
fn distance(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (numbers(got), numbers(want));
    let scale = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    got.iter().zip(&want).fold(0.0f32, |m, (g, w)| {
        assert!(g.is_finite());
        m.max((g - w).abs())
    }) / scale
}

fn check(variant: Variant, shape: [usize; 5]) {
    let net = network(variant, shape[1], &VarMap::new());
    let image = image(shape);
    let want = net.forward_composed(&image, false).unwrap();
    for simd in Simd::available() {
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 2e-2)] {
            let packed = InferenceEncoder::with_simd(&net, precision, simd).unwrap();
            let error = distance(&packed.features(&image).unwrap(), &want);
            eprintln!("{variant:?} {shape:?} {precision:?} {simd:?}: {error:.1e}");
            assert!(error < tolerance, "{error}");
        }
    }
}

#[test]
fn b0_agrees_for_a_batch_with_unequal_sides() {
    check(Variant::B0, [2, 1, 32, 64, 96]);
}

#[test]
fn b0_agrees_at_odd_sides() {
    check(Variant::B0, [1, 1, 45, 70, 33]);
}

#[test]
fn sister_widths_and_depths_agree() {
    check(Variant::B2, [1, 1, 32, 32, 32]);
    for (width, depth) in [(0.25, 0.5), (0.5, 1.0), (0.6, 1.1)] {
        check(Variant::Custom { width, depth }, [1, 2, 40, 32, 64]);
    }
}

#[test]
fn evaluation_uses_the_packed_form_and_notices_new_weights() {
    let vars = VarMap::new();
    let net = network(THIN, 1, &vars);
    let image = image([1, 1, 32, 32, 32]);
    let agree = |net: &EfficientNet3d| {
        let want = net.forward_composed(&image, false).unwrap();
        let got = net.forward_t(&image, false).unwrap();
        assert!(distance(&got, &want) < 1e-4);
        got
    };
    let first = agree(&net);
    assert_eq!(numbers(&first), numbers(&agree(&net)));
    // Somebody else sets the weights of a single layer.
    let var: Var = vars.data().lock().unwrap()["bn2.bias"].clone();
    var.set(&(var.as_tensor() + 0.5).unwrap()).unwrap();
    let second = agree(&net);
    assert!(distance(&second, &first) > 1e-3);
    // Training updates the running statistics.
    let half = (&image * 0.5).unwrap();
    let batch = Tensor::cat(&[&image, &half, &half, &image], 0).unwrap();
    net.forward_t(&batch, true).unwrap();
    let third = agree(&net);
    assert!(distance(&third, &second) > 1e-4);
}

#[test]
fn gradients_still_reach_the_input() {
    let net = network(THIN, 1, &VarMap::new());
    let input = Var::from_tensor(&image([1, 1, 32, 32, 32])).unwrap();
    let loss = net.forward_t(&input, false).unwrap().sum_all().unwrap();
    assert!(loss.backward().unwrap().get(&input).is_some());
}

#[test]
fn precision_is_chosen_per_network() {
    let mut net = network(THIN, 1, &VarMap::new());
    let image = image([1, 1, 64, 32, 32]);
    let single = net.forward_t(&image, false).unwrap();
    net.set_inference_precision(Precision::Bf16);
    assert_eq!(net.inference_precision(), Precision::Bf16);
    let error = distance(&net.forward_t(&image, false).unwrap(), &single);
    assert!(0.0 < error && error < 2e-2, "{error}");
}

#[test]
fn threads_may_share_one_encoder() {
    let net = network(THIN, 1, &VarMap::new());
    let packed = InferenceEncoder::new(&net, Precision::F32).unwrap();
    let image = image([1, 1, 32, 32, 64]);
    let want = net.forward_composed(&image, false).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let got = packed.features(&image).unwrap();
                assert!(distance(&got, &want) < 1e-4);
            });
        }
    });
    assert!(packed.arena_bytes() > 0);
}

#[test]
fn an_image_that_does_not_fit_is_refused() {
    let net = network(THIN, 1, &VarMap::new());
    let packed = InferenceEncoder::new(&net, Precision::F32).unwrap();
    for bad in [
        image([1, 2, 32, 32, 32]),
        image([1, 1, 32, 32, 32]).squeeze(0).unwrap(),
        image([1, 1, 32, 32, 32]).to_dtype(DType::F64).unwrap(),
    ] {
        let message = packed.features(&bad).unwrap_err().to_string();
        assert!(message.contains("[B, 1, D, H, W]"), "{message}");
    }
}

/// Weights that are no variables, whose running statistics a pass in training moves all the same.
#[test]
fn every_pass_in_training_makes_the_packed_form_anew() {
    let vars = VarMap::new();
    network(THIN, 1, &vars);
    let own = vars.data().lock().unwrap();
    let tensors = own.iter().map(|(n, v)| (n.clone(), v.as_tensor().detach()));
    let cfg = EncoderConfig {
        variant: THIN,
        in_channels: 1,
    };
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let net = EfficientNet3d::new(&cfg, vb).unwrap();
    let image = image([4, 1, 32, 32, 32]);
    type Train = fn(&EfficientNet3d, &Tensor);
    let passes: [Train; 2] = [
        |net, x| drop(net.pyramid(x, true).unwrap()),
        |net, x| drop(net.forward_composed(x, true).unwrap()),
    ];
    for train in passes {
        net.forward_t(&image, false).unwrap();
        train(&net, &image);
        let want = net.forward_composed(&image, false).unwrap();
        assert!(distance(&net.forward_t(&image, false).unwrap(), &want) < 1e-4);
    }
}
