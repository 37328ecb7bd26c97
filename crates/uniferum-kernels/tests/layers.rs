//! Pooling, batch norm, SiLU and squeeze-and-excitation against the oracle.

mod common;

use candle_core::{Device, Var};
use common::{array, assert_close, assert_near, check_gradients, distance, flat, tensor, values};
use proptest::prelude::*;
use uniferum_kernels::oracle::{self, Array5};
use uniferum_kernels::{
    adaptive_avg_pool3d, avg_pool3d, batch_norm, batch_norm_silu, batch_norm_train,
    global_avg_pool3d, max_pool3d, move_statistics, silu, squeeze_excite, unbiased_variance,
};

fn dims(max_side: usize) -> impl Strategy<Value = [usize; 5]> {
    (1..=2usize, 1..=3usize, prop::array::uniform3(1..=max_side))
        .prop_map(|(b, c, [d, h, w])| [b, c, d, h, w])
}

fn spatial(dims: [usize; 5]) -> [usize; 3] {
    [dims[2], dims[3], dims[4]]
}

fn sliding(input: [usize; 3], k: [usize; 3], s: [usize; 3]) -> [Vec<[usize; 2]>; 3] {
    std::array::from_fn(|a| {
        (0..(input[a] - k[a]) / s[a] + 1)
            .map(|i| [i * s[a], i * s[a] + k[a]])
            .collect()
    })
}

fn adaptive(input: [usize; 3], output: [usize; 3]) -> [Vec<[usize; 2]>; 3] {
    std::array::from_fn(|a| {
        let (n, m) = (input[a] as f64, output[a] as f64);
        (0..output[a])
            .map(|i| {
                let i = i as f64;
                [
                    (i * n / m).floor() as usize,
                    ((i + 1.0) * n / m).ceil() as usize,
                ]
            })
            .collect()
    })
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..Default::default() })]

    #[test]
    fn sliding_pools(dims in dims(6), k in prop::array::uniform3(1..=3usize), s in prop::array::uniform3(1..=3usize), seed: u64) {
        let k = std::array::from_fn(|a| k[a].min(spatial(dims)[a]));
        let x = array(seed, dims);
        let windows = sliding(spatial(dims), k, s);
        let t = tensor(&x.data, &dims);
        assert_close(&max_pool3d(&t, k, s).unwrap(), &oracle::pool3d(&x, &windows, max), 1e-6);
        assert_near(&avg_pool3d(&t, k, s).unwrap(), &oracle::pool3d(&x, &windows, oracle::mean), 1e-6);
        let args = [(&x.data[..], &dims[..])];
        check_gradients(&args, |t| max_pool3d(&t[0], k, s), |a| {
            oracle::pool3d(&Array5 { dims, data: a[0].clone() }, &windows, max).data
        }, 1e-4);
        check_gradients(&args, |t| avg_pool3d(&t[0], k, s), |a| {
            oracle::pool3d(&Array5 { dims, data: a[0].clone() }, &windows, oracle::mean).data
        }, 1e-4);
    }

    #[test]
    fn adaptive_pools(dims in dims(6), output in prop::array::uniform3(1..=7usize), seed: u64) {
        let x = array(seed, dims);
        let t = tensor(&x.data, &dims);
        for output in [output, [1; 3]] {
            let windows = adaptive(spatial(dims), output);
            let want = oracle::pool3d(&x, &windows, oracle::mean);
            assert_near(&adaptive_avg_pool3d(&t, output).unwrap(), &want, 1e-6);
            check_gradients(&[(&x.data[..], &dims[..])], |t| adaptive_avg_pool3d(&t[0], output), |a| {
                oracle::pool3d(&Array5 { dims, data: a[0].clone() }, &windows, oracle::mean).data
            }, 1e-4);
        }
        let whole = oracle::pool3d(&x, &adaptive(spatial(dims), [1; 3]), oracle::mean);
        assert_near(&global_avg_pool3d(&t).unwrap(), &whole, 1e-6);
    }

    #[test]
    fn batch_norms(dims in dims(5), seed: u64) {
        // With one value a channel the normalised tensor is constant and its gradient noise.
        prop_assume!(dims[0] * dims[2] * dims[3] * dims[4] >= 4);
        let c = dims[1];
        let x = array(seed, dims);
        let (gamma, beta, mean) = (values(seed ^ 1, c), values(seed ^ 2, c), values(seed ^ 3, c));
        let var: Vec<f64> = values(seed ^ 4, c).iter().map(|v| v.abs() + 0.1).collect();
        let eps = 1e-3;
        let fixed = oracle::batch_norm(&x, &gamma, &beta, &mean, &var, eps);
        let (tm, tv) = (tensor(&mean, &[c]), tensor(&var, &[c]));
        let (t, tg, tb) = (tensor(&x.data, &dims), tensor(&gamma, &[c]), tensor(&beta, &[c]));
        assert_close(&batch_norm(&t, &tg, &tb, &tm, &tv, eps).unwrap(), &fixed, 1e-5);
        let args = [(&x.data[..], &dims[..]), (&gamma[..], &[c][..]), (&beta[..], &[c][..])];
        check_gradients(&args, |t| batch_norm(&t[0], &t[1], &t[2], &tm, &tv, eps), |a| {
            let x = Array5 { dims, data: a[0].clone() };
            oracle::batch_norm(&x, &a[1], &a[2], &mean, &var, eps).data
        }, 1e-4);
        let trained = |a: &[Vec<f64>]| {
            let x = Array5 { dims, data: a[0].clone() };
            let (mean, var) = oracle::batch_statistics(&x);
            oracle::batch_norm(&x, &a[1], &a[2], &mean, &var, eps)
        };
        let (y, m, v) = batch_norm_train(&t, &tg, &tb, eps).unwrap();
        let (want_m, want_v) = oracle::batch_statistics(&x);
        prop_assert!(distance(&flat(&m), &want_m) < 1e-5);
        prop_assert!(distance(&flat(&v), &want_v) < 1e-5);
        assert_close(&y, &trained(&[x.data.clone(), gamma.clone(), beta.clone()]), 1e-5);
        check_gradients(&args, |t| Ok(batch_norm_train(&t[0], &t[1], &t[2], eps)?.0), |a| {
            trained(a).data
        }, 3e-4);
        let silus = |y: Array5| oracle::silu5(&y).data;
        let running = Some((&tm, &tv));
        let (y, none) = batch_norm_silu(&t, &tg, &tb, running, eps).unwrap();
        prop_assert!(none.is_none());
        prop_assert!(distance(&flat(&y), &silus(fixed)) < 1e-5);
        check_gradients(&args, |t| Ok(batch_norm_silu(&t[0], &t[1], &t[2], running, eps)?.0), |a| {
            let x = Array5 { dims, data: a[0].clone() };
            silus(oracle::batch_norm(&x, &a[1], &a[2], &mean, &var, eps))
        }, 1e-4);
        let (y, made) = batch_norm_silu(&t, &tg, &tb, None, eps).unwrap();
        prop_assert!(distance(&flat(&made.unwrap().1), &want_v) < 1e-5);
        let whole = trained(&[x.data.clone(), gamma.clone(), beta.clone()]);
        prop_assert!(distance(&flat(&y), &silus(whole)) < 1e-5);
        check_gradients(&args, |t| Ok(batch_norm_silu(&t[0], &t[1], &t[2], None, eps)?.0), |a| {
            silus(trained(a))
        }, 3e-4);
    }

    #[test]
    fn silu_and_squeeze_excite(dims in dims(4), s in 1..=3usize, seed: u64) {
        let c = dims[1];
        let x = array(seed, dims);
        let args = [(&x.data[..], &dims[..])];
        assert_close(&silu(&tensor(&x.data, &dims)).unwrap(), &oracle::silu5(&x), 1e-6);
        check_gradients(&args, |t| silu(&t[0]), |a| a[0].iter().map(|v| oracle::silu(*v)).collect(), 1e-4);
        let (wr, br) = (values(seed ^ 1, s * c), values(seed ^ 2, s));
        let (we, be) = (values(seed ^ 3, c * s), values(seed ^ 4, c));
        let args = [
            (&x.data[..], &dims[..]), (&wr[..], &[s, c, 1, 1, 1][..]), (&br[..], &[s][..]),
            (&we[..], &[c, s, 1, 1, 1][..]), (&be[..], &[c][..]),
        ];
        let want = oracle::squeeze_excite(&x, &wr, &br, &we, &be);
        let ts: Vec<_> = args.iter().map(|(v, d)| tensor(v, d)).collect();
        assert_close(&squeeze_excite(&ts[0], &ts[1], &ts[2], &ts[3], &ts[4]).unwrap(), &want, 1e-5);
        check_gradients(&args, |t| squeeze_excite(&t[0], &t[1], &t[2], &t[3], &t[4]), |a| {
            let x = Array5 { dims, data: a[0].clone() };
            oracle::squeeze_excite(&x, &a[1], &a[2], &a[3], &a[4]).data
        }, 1e-4);
    }
}

#[test]
fn statistics_of_far_off_centre_values_stay_exact() {
    let x: Vec<f64> = values(3, 100_000)
        .iter()
        .map(|v| (v * 0.01 + 1000.0) as f32 as f64)
        .collect();
    let dims = [1, 1, 10, 100, 100];
    let (_, want) = oracle::batch_statistics(&Array5 {
        dims,
        data: x.clone(),
    });
    let one = tensor(&[1.0], &[1]);
    let (_, _, var) = batch_norm_train(&tensor(&x, &dims), &one, &one, 1e-3).unwrap();
    assert!((flat(&var)[0] / want[0] - 1.0).abs() < 1e-2);
}

#[test]
fn unbiased_variance_scales_by_n_over_n_minus_one() {
    let var = unbiased_variance(&tensor(&[3.0], &[1]), 4).unwrap();
    assert_eq!(flat(&var), [4.0]);
}

#[test]
fn running_statistics_move_towards_the_unbiased_ones_of_a_batch() {
    let running = |v: &[f64]| Var::from_tensor(&tensor(v, &[2])).unwrap();
    let (mean, var) = (running(&[1.0, -2.0]), running(&[1.0, 4.0]));
    let batch = [tensor(&[3.0, 0.0], &[2]), tensor(&[3.0, 6.0], &[2])];
    let [m, v] = [&batch[0], &batch[1]];
    for _ in 0..2 {
        move_statistics([&mean, &var], [m, v], 4, 0.25).unwrap();
    }
    // Unbiased, the batch's variances are 4 and 8.
    let moved = |from: f64, to: f64| to + (from - to) * 0.75 * 0.75;
    let close = |got: &Var, want: [f64; 2]| {
        let d = distance(&flat(got), &want);
        assert!(d < 1e-6, "{d}");
    };
    close(&mean, [moved(1.0, 3.0), moved(-2.0, 0.0)]);
    close(&var, [moved(1.0, 4.0), moved(4.0, 8.0)]);
    let one = tensor(&[1.0], &[1]);
    assert!(move_statistics([&mean, &var], [&one, v], 4, 0.25).is_err());
}

#[test]
fn the_first_largest_voxel_of_a_window_gets_the_gradient_and_nan_is_largest() {
    let x = [1.0, 3.0, 3.0, 2.0, f32::NAN, 9.0, 0.0, f32::NAN];
    let x = Var::from_slice(&x, (1, 1, 1, 2, 4), &Device::Cpu).unwrap();
    let y = max_pool3d(&x, [1, 2, 2], [1, 2, 2]).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    let y = y.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(y.iter().all(|y| y.is_nan()));
    let dx = grads.get(&x).unwrap().flatten_all().unwrap();
    assert_eq!(
        dx.to_vec1::<f32>().unwrap(),
        [0., 0., 0., 0., 1., 0., 0., 1.]
    );
    let x = Var::from_slice(&[1.0f32, 3.0, 3.0, 2.0], (1, 1, 2, 1, 2), &Device::Cpu).unwrap();
    let y = max_pool3d(&x, [2, 1, 2], [1, 1, 1]).unwrap();
    let grads = y.backward().unwrap();
    let dx = grads.get(&x).unwrap().flatten_all().unwrap();
    assert_eq!(dx.to_vec1::<f32>().unwrap(), [0., 1., 0., 0.]);
}

#[test]
fn constants_need_no_gradient() {
    let x = candle_core::Var::from_tensor(&tensor(&values(1, 8), &[1, 1, 2, 2, 2])).unwrap();
    let one = tensor(&[1.0], &[1]);
    let y = batch_norm(&x, &one, &one, &one, &one, 1e-3).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some());
    assert!(grads.get(&one).is_none());
}
