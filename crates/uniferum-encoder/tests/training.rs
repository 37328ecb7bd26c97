//! Training as one operation against training block by block.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use uniferum_encoder::{EfficientNet3d, EncoderConfig, seeded_var_builder};

const SHAPE: [usize; 5] = [2, 1, 64, 40, 48];

fn network() -> (EfficientNet3d, VarMap) {
    let vars = VarMap::new();
    let vb = seeded_var_builder(&vars, 3, DType::F32, &Device::Cpu);
    (
        EfficientNet3d::new(&EncoderConfig::default(), vb).unwrap(),
        vars,
    )
}

fn image() -> Tensor {
    let n: usize = SHAPE.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 + (i as f32 * 1e-3).sin())
        .collect();
    Tensor::from_vec(values, SHAPE.to_vec(), &Device::Cpu).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f32> {
    let t = t.to_dtype(DType::F32).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference over the largest number.
fn distance(got: &Tensor, want: &Tensor) -> f32 {
    let (got, want) = (numbers(got), numbers(want));
    assert_eq!(got.len(), want.len());
    assert!(got.iter().all(|g| g.is_finite()));
    let top = want.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let differences = got.iter().zip(&want).map(|(g, w)| (g - w).abs());
    differences.fold(0.0, f32::max) / top
}

/// Every variable by name.
fn sorted(vars: &VarMap) -> Vec<(String, candle_core::Var)> {
    let data = vars.data().lock().unwrap();
    let mut all: Vec<_> = data.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn is_statistic(name: &str) -> bool {
    name.contains("running_") || name.contains("num_batches")
}

fn check(frozen: bool) {
    let ((mut one, one_vars), (mut blocks, block_vars)) = (network(), network());
    one.freeze_statistics(frozen);
    blocks.freeze_statistics(frozen);
    let x = image();
    let y = one.forward_t(&x, true).unwrap();
    let z = blocks.forward_composed(&x, true).unwrap();
    assert!(distance(&y, &z) < 1e-5);
    let gradients = |y: &Tensor| {
        let weights = Tensor::arange(0f32, y.elem_count() as f32, &Device::Cpu).unwrap();
        let weights = weights.sin().unwrap().reshape(y.dims()).unwrap();
        let loss = (y * weights).unwrap().sum_all().unwrap();
        loss.backward().unwrap()
    };
    let (got, want) = (gradients(&y), gradients(&z));
    let untouched = network().1;
    let others = sorted(&block_vars).into_iter().zip(sorted(&untouched));
    for ((name, var), ((_, other), (_, first))) in sorted(&one_vars).iter().zip(others) {
        if is_statistic(name) {
            assert!(distance(var, &other) < 1e-5, "{name} once in each form");
            let moved = numbers(var) != numbers(&first);
            assert_eq!(moved, !frozen, "{name}");
            continue;
        }
        let got = got
            .get(var)
            .unwrap_or_else(|| panic!("no gradient of {name}"));
        let want = want.get(&other).unwrap();
        assert!(
            distance(got, want) < 1e-4,
            "{name}: {}",
            distance(got, want)
        );
    }
}

#[test]
fn one_operation_gives_the_gradients_and_statistics_of_its_blocks() {
    check(false);
}

#[test]
fn frozen_statistics_stay_and_weights_still_learn() {
    check(true);
}

#[test]
fn backward_may_run_twice_and_leaves_the_statistics_alone() {
    let (net, vars) = network();
    let loss = net.forward_t(&image(), true).unwrap().sum_all().unwrap();
    let statistics = || -> Vec<Vec<f32>> {
        let all = sorted(&vars);
        let own = all.iter().filter(|(name, _)| is_statistic(name));
        own.map(|(_, var)| numbers(var)).collect()
    };
    let before = statistics();
    let (first, second) = (loss.backward().unwrap(), loss.backward().unwrap());
    assert_eq!(statistics(), before);
    for (name, var) in sorted(&vars) {
        if let Some(grad) = first.get(&var) {
            assert_eq!(numbers(grad), numbers(second.get(&var).unwrap()), "{name}");
        }
    }
}
