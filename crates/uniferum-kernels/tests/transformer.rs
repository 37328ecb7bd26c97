//! Layer norm, GELU, attention, dropout, losses and AdamW against plain f64 formulas.

mod common;

use candle_core::{DType, Tensor, Var};
use common::{check_gradients, device, distance, flat, tensor, values};
use uniferum_kernels::{
    AdamW, Span, Trained, adamw_step, adamw_steps, attention, attention_packed, bce_with_logits,
    clip_factor, dropout, gelu_erf, layer_norm, linear, move_averages, sigmoid_focal, squared_norm,
};

/// erf by its Taylor series, exact enough in double precision for |x| < 4.
fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn gelu64(x: f64) -> f64 {
    x * 0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn layer_norm64(x: &[f64], w: &[f64], b: &[f64], eps: f64) -> Vec<f64> {
    let n = w.len();
    let mut out = Vec::new();
    for row in x.chunks(n) {
        let mean = row.iter().sum::<f64>() / n as f64;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        out.extend((0..n).map(|i| (row[i] - mean) / (var + eps).sqrt() * w[i] + b[i]));
    }
    out
}

#[test]
fn layer_norm_and_its_gradients() {
    for (rows, width) in [(1, 2), (3, 5), (40, 37), (17, 96)] {
        let (x, w, b) = (values(1, rows * width), values(2, width), values(3, width));
        let args = [
            (&x[..], &[rows, width][..]),
            (&w[..], &[width][..]),
            (&b[..], &[width][..]),
        ];
        let y = layer_norm(
            &tensor(&x, &[rows, width]),
            &tensor(&w, &[width]),
            &tensor(&b, &[width]),
            1e-3,
        );
        assert!(distance(&flat(&y.unwrap()), &layer_norm64(&x, &w, &b, 1e-3)) < 1e-5);
        check_gradients(
            &args,
            |t| layer_norm(&t[0], &t[1], &t[2], 1e-3),
            |a| layer_norm64(&a[0], &a[1], &a[2], 1e-3),
            2e-4,
        );
    }
    let x = Tensor::zeros((2, 3), DType::F32, &device()).unwrap();
    let w = Tensor::zeros(4, DType::F32, &device()).unwrap();
    assert!(
        layer_norm(&x, &w, &w, 1e-5)
            .unwrap_err()
            .to_string()
            .contains("weight")
    );
}

#[test]
fn gelu_and_its_gradient() {
    let x: Vec<f64> = values(4, 3000)
        .iter()
        .map(|v| f64::from((v * 3.9) as f32))
        .collect();
    let want: Vec<f64> = x.iter().map(|v| gelu64(*v)).collect();
    assert!(distance(&flat(&gelu_erf(&tensor(&x, &[3000])).unwrap()), &want) < 2e-7);
    let few = &x[..60];
    check_gradients(
        &[(few, &[60])],
        |t| gelu_erf(&t[0]),
        |a| a[0].iter().map(|v| gelu64(*v)).collect(),
        1e-5,
    );
    let far = Tensor::new(&[-100f32, 100.0], &device()).unwrap();
    assert_eq!(gelu_erf(&far).unwrap().to_vec1::<f32>().unwrap()[1], 100.0);
}

fn attention64(q: &[f64], k: &[f64], v: &[f64], mask: &[f64], dims: [usize; 5]) -> Vec<f64> {
    let [batch, heads, queries, keys, width] = dims;
    let mut out = vec![0.0; batch * heads * queries * width];
    for b in 0..batch {
        for h in 0..heads {
            let (qo, ko) = (
                (b * heads + h) * queries * width,
                (b * heads + h) * keys * width,
            );
            for i in 0..queries {
                let e: Vec<f64> = (0..keys)
                    .map(|j| {
                        let s: f64 = (0..width)
                            .map(|c| q[qo + i * width + c] * k[ko + j * width + c])
                            .sum();
                        mask[b * keys + j] * (s / (width as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = e.iter().sum();
                for j in 0..keys {
                    for c in 0..width {
                        out[qo + i * width + c] += e[j] / total * v[ko + j * width + c];
                    }
                }
            }
        }
    }
    out
}

#[test]
fn attention_and_its_gradients() {
    let dims @ [b, h, t, s, e] = [2, 3, 4, 6, 5];
    let (q, k, v) = (
        values(5, b * h * t * e),
        values(6, b * h * s * e),
        values(7, b * h * s * e),
    );
    let mut mask = vec![1.0; b * s];
    (mask[1], mask[s + 4], mask[s + 5]) = (0.0, 0.0, 0.0);
    let m = tensor(&mask, &[b, s]);
    let (qd, kd) = ([b, h, t, e], [b, h, s, e]);
    let y = attention(
        &tensor(&q, &qd),
        &tensor(&k, &kd),
        &tensor(&v, &kd),
        Some(&m),
        None,
    )
    .unwrap();
    assert!(distance(&flat(&y), &attention64(&q, &k, &v, &mask, dims)) < 1e-5);
    check_gradients(
        &[(&q, &qd), (&k, &kd), (&v, &kd)],
        |t| attention(&t[0], &t[1], &t[2], Some(&m), None),
        |a| attention64(&a[0], &a[1], &a[2], &mask, dims),
        1e-4,
    );
    let bad = tensor(&mask, &[s, b]);
    assert!(
        attention(
            &tensor(&q, &qd),
            &tensor(&k, &kd),
            &tensor(&v, &kd),
            Some(&bad),
            None
        )
        .is_err()
    );
}

#[test]
fn a_query_without_keys_gives_zero() {
    let x = tensor(&values(1, 12), &[1, 1, 3, 4]);
    let none = Tensor::zeros((1, 3), DType::F32, &device()).unwrap();
    assert!(
        flat(&attention(&x, &x, &x, Some(&none), None).unwrap())
            .iter()
            .all(|v| *v == 0.0)
    );
}

/// Dropout is linear in `v` given its mask: backward must use the same mask as forward.
#[test]
fn attention_dropout_is_the_same_in_backward() {
    let d = [1, 2, 5, 8];
    let (q, k) = (tensor(&values(1, 80), &d), tensor(&values(2, 80), &d));
    let v = Var::from_tensor(&tensor(&values(3, 80), &d)).unwrap();
    let run = |seed| attention(&q, &k, v.as_tensor(), None, Some((0.4, seed))).unwrap();
    let y = run(11);
    assert_eq!(flat(&y), flat(&run(11)));
    assert_ne!(flat(&y), flat(&run(12)));
    let grads = y.sum_all().unwrap().backward().unwrap();
    let dv = flat(grads.get(v.as_tensor()).unwrap());
    let inner: f64 = dv.iter().zip(flat(v.as_tensor())).map(|(a, b)| a * b).sum();
    let total: f64 = flat(&y).iter().sum();
    assert!((inner - total).abs() < 1e-4, "{inner} {total}");
}

#[test]
fn dropout_drops_its_share_and_nothing_else() {
    let x = Var::from_tensor(&Tensor::ones((300, 400), DType::F32, &device()).unwrap()).unwrap();
    let y = dropout(x.as_tensor(), 0.1, 3).unwrap();
    let v = flat(&y);
    let dropped = v.iter().filter(|v| **v == 0.0).count() as f64 / v.len() as f64;
    assert!((dropped - 0.1).abs() < 0.005, "{dropped}");
    assert!(v.iter().all(|v| *v == 0.0 || (v - 1.0 / 0.9).abs() < 1e-6));
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(flat(grads.get(x.as_tensor()).unwrap()), v);
    // Neighbouring seeds share no pattern.
    let other = flat(&dropout(x.as_tensor(), 0.1, 4).unwrap());
    let both = v
        .iter()
        .zip(&other)
        .filter(|(a, b)| **a == 0.0 && **b == 0.0)
        .count() as f64;
    assert!((both / v.len() as f64 - 0.01).abs() < 0.002);
    assert!(dropout(x.as_tensor(), 1.0, 0).is_err());
}

fn bce64(x: f64, t: f64) -> f64 {
    x.max(0.0) - x * t + (-x.abs()).exp().ln_1p()
}

fn focal64(x: f64, t: f64, alpha: f64, gamma: f64) -> f64 {
    let p = 1.0 / (1.0 + (-x).exp());
    let missed = p * (1.0 - t) + (1.0 - p) * t;
    (alpha * t + (1.0 - alpha) * (1.0 - t)) * bce64(x, t) * missed.powf(gamma)
}

#[test]
fn losses_and_their_gradients() {
    let x: Vec<f64> = values(8, 40)
        .iter()
        .map(|v| f64::from((v * 6.0) as f32))
        .collect();
    let t: Vec<f64> = (0..40).map(|i| [0.0, 1.0, 0.25][i % 3]).collect();
    let targets = tensor(&t, &[40]);
    let bce = |a: &[f64]| {
        a.iter()
            .zip(&t)
            .map(|(x, t)| bce64(*x, *t))
            .collect::<Vec<_>>()
    };
    assert!(
        distance(
            &flat(&bce_with_logits(&tensor(&x, &[40]), &targets).unwrap()),
            &bce(&x)
        ) < 1e-6
    );
    check_gradients(
        &[(&x, &[40])],
        |l| bce_with_logits(&l[0], &targets),
        |a| bce(&a[0]),
        1e-5,
    );
    for (alpha, gamma) in [(0.25, 2.0), (0.6, 1.5), (0.5, 0.0), (0.25, 1.0)] {
        let f = |a: &[f64]| {
            a.iter()
                .zip(&t)
                .map(|(x, t)| focal64(*x, *t, alpha, gamma))
                .collect::<Vec<_>>()
        };
        let run = |l: &Tensor| sigmoid_focal(l, &targets, alpha as f32, gamma as f32);
        assert!(distance(&flat(&run(&tensor(&x, &[40])).unwrap()), &f(&x)) < 1e-5);
        check_gradients(&[(&x, &[40])], |l| run(&l[0]), |a| f(&a[0]), 1e-4);
    }
}

#[test]
fn losses_stay_finite_at_the_ends() {
    let ends = [-1e4f32, -100.0, 0.0, 100.0, 1e4];
    for dtype in [DType::F32, DType::BF16] {
        for target in [0f32, 1.0] {
            let x = Var::from_tensor(
                &Tensor::new(&ends, &device())
                    .unwrap()
                    .to_dtype(dtype)
                    .unwrap(),
            )
            .unwrap();
            let t = Tensor::full(target, 5, &device()).unwrap();
            for loss in [
                bce_with_logits(x.as_tensor(), &t),
                sigmoid_focal(x.as_tensor(), &t, 0.25, 2.0),
            ] {
                let loss = loss.unwrap();
                assert!(flat(&loss).iter().all(|v| v.is_finite() && *v >= 0.0));
                let grads = loss.sum_all().unwrap().backward().unwrap();
                let g = grads
                    .get(x.as_tensor())
                    .unwrap()
                    .to_dtype(DType::F32)
                    .unwrap();
                assert!(flat(&g).iter().all(|v| v.is_finite()));
            }
        }
    }
}

#[test]
fn adamw_follows_its_definition() {
    let o = AdamW {
        lr: 1e-2,
        weight_decay: 0.1,
        grad_scale: 0.5,
        ..Default::default()
    };
    let n = 1003;
    let mut p = values(1, n);
    let var = Var::from_tensor(&tensor(&p, &[n])).unwrap();
    let state = Tensor::zeros((2, n), DType::F32, &device()).unwrap();
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    for step in 1..=10u64 {
        let g = values(100 + step, n);
        adamw_step(var.as_tensor(), &tensor(&g, &[n]), &state, step, &o).unwrap();
        for i in 0..n {
            let g = g[i] * 0.5;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let mh = m[i] / (1.0 - 0.9f64.powi(step as i32));
            let vh = v[i] / (1.0 - 0.999f64.powi(step as i32));
            p[i] -= o.lr * o.weight_decay * p[i] + o.lr * mh / (vh.sqrt() + 1e-8);
        }
    }
    assert!(distance(&flat(var.as_tensor()), &p) < 1e-5);
    let want: f64 = flat(var.as_tensor()).iter().map(|v| v * v).sum();
    assert!((squared_norm(&[var.as_tensor()]).unwrap() / want - 1.0).abs() < 1e-6);
    assert!(adamw_step(var.as_tensor(), &tensor(&p, &[n]), &state, 0, &o).is_err());
}

#[test]
fn clipping_scales_by_the_norm_of_all_gradients_and_skips_what_is_not_finite() {
    let grads = [
        tensor(&values(1, 5000), &[50, 100]),
        tensor(&values(2, 37), &[37]),
    ];
    let all: Vec<&Tensor> = grads.iter().collect();
    let norm = squared_norm(&all).unwrap().sqrt();
    let read = |largest: f64| flat(&clip_factor(&all, largest).unwrap());
    for largest in [0.5 * norm, 2.0 * norm] {
        let got = read(largest);
        let want = [norm, (largest / norm).min(1.0)];
        assert!(distance(&got, &want) < 1e-6, "{got:?} {want:?}");
    }
    let options = AdamW::default();
    let start = tensor(&values(3, 37), &[37]);
    let update = |gradient: &Tensor, clip: Option<&Tensor>, grad_scale: f64| {
        let var = Var::from_tensor(&start).unwrap();
        let state = Tensor::zeros((2, 37), DType::F32, &device()).unwrap();
        let options = AdamW {
            grad_scale,
            ..options
        };
        let parameter = var.as_tensor();
        let one = Trained {
            parameter,
            gradient,
            state: &state,
            decays: true,
        };
        adamw_steps(&[one], 1, &options, clip).unwrap();
        let mut all = flat(parameter);
        all.extend(flat(&state));
        all
    };
    let clip = clip_factor(&all, 0.25 * norm).unwrap();
    let got = update(&grads[1], Some(&clip), 2.0);
    assert!(distance(&got, &update(&grads[1], None, 0.5)) < 1e-6);
    for bad in [f64::NAN, f64::INFINITY] {
        let mut values = values(4, 5000);
        values[4321] = bad;
        let broken = tensor(&values, &[5000]);
        let clip = clip_factor(&[&grads[1], &broken], 1.0).unwrap();
        let read = clip.to_vec1::<f32>().unwrap();
        assert!(!read[0].is_finite() && read[1].is_nan(), "{read:?}");
        let got = update(&grads[1], Some(&clip), 1.0);
        assert_eq!(got[..37], flat(&start)[..]);
        assert!(got[37..].iter().all(|v| *v == 0.0));
    }
    assert!(clip_factor(&[], 1.0).is_err());
    let state = Tensor::zeros((2, 37), DType::F32, &device()).unwrap();
    let mut one = Trained {
        parameter: &start,
        gradient: &start,
        state: &start,
        decays: true,
    };
    assert!(adamw_steps(&[one], 1, &options, Some(&clip)).is_err());
    one.state = &state;
    assert!(adamw_steps(&[one], 1, &options, Some(&start)).is_err());
}

/// Tensors of many sizes: of several blocks, of no whole number of fours, and of one element.
const SIZES: [usize; 5] = [5000, 4096, 37, 1, 10_001];

#[test]
fn all_parameters_at_once_are_updated_as_each_alone() {
    let options = AdamW {
        lr: 1e-2,
        weight_decay: 0.3,
        ..Default::default()
    };
    let made = |seed: u64| -> Vec<Tensor> {
        let one = |(i, n): (usize, &usize)| tensor(&values(seed + i as u64, *n), &[*n]);
        SIZES.iter().enumerate().map(one).collect()
    };
    let states = || -> Vec<Tensor> {
        let one = |n: &usize| Tensor::zeros((2, *n), DType::F32, &device()).unwrap();
        SIZES.iter().map(one).collect()
    };
    let (gradients, together, own) = (made(10), made(20), made(20));
    let (states, own_states) = (states(), states());
    let clip = clip_factor(&gradients.iter().collect::<Vec<_>>(), 0.5).unwrap();
    let factor = f64::from(clip.to_vec1::<f32>().unwrap()[1]);
    for step in 1..=3 {
        let all: Vec<Trained<'_>> = (0..SIZES.len())
            .map(|i| Trained {
                parameter: &together[i],
                gradient: &gradients[i],
                state: &states[i],
                decays: i % 2 == 0,
            })
            .collect();
        adamw_steps(&all, step, &options, Some(&clip)).unwrap();
        for i in 0..SIZES.len() {
            let options = AdamW {
                weight_decay: if i % 2 == 0 { 0.3 } else { 0.0 },
                grad_scale: factor,
                ..options
            };
            adamw_step(&own[i], &gradients[i], &own_states[i], step, &options).unwrap();
        }
    }
    for i in 0..SIZES.len() {
        assert_eq!(flat(&together[i]), flat(&own[i]), "size {}", SIZES[i]);
        assert_eq!(flat(&states[i]), flat(&own_states[i]), "size {}", SIZES[i]);
    }
}

#[test]
fn averages_move_towards_their_values() {
    let made = |seed: u64| -> Vec<Tensor> {
        let one = |(i, n): (usize, &usize)| tensor(&values(seed + i as u64, *n), &[*n]);
        SIZES.iter().enumerate().map(one).collect()
    };
    let (averages, values) = (made(1), made(2));
    let before: Vec<Vec<f64>> = averages.iter().map(flat).collect();
    let pairs: Vec<[&Tensor; 2]> = averages.iter().zip(&values).map(|(a, v)| [a, v]).collect();
    move_averages(&pairs, 0.9).unwrap();
    for ((average, value), before) in averages.iter().zip(&values).zip(&before) {
        let want: Vec<f64> = before
            .iter()
            .zip(flat(value))
            .map(|(a, v)| 0.9 * a + 0.1 * v)
            .collect();
        assert!(distance(&flat(average), &want) < 1e-6);
    }
    assert!(move_averages(&[[&averages[0], &values[1]]], 0.9).is_err());
}

#[test]
fn linear_maps_agree_with_their_definition_and_finite_differences() {
    let (rows, k, n) = (6, 5, 4);
    let (x, w, b) = (values(1, rows * k), values(2, n * k), values(3, n));
    let plain = |a: &[Vec<f64>]| -> Vec<f64> {
        let of = |i: usize| {
            let (row, out) = (i / n, i % n);
            let products = (0..k).map(|j| a[0][row * k + j] * a[1][out * k + j]);
            a[2][out] + products.sum::<f64>()
        };
        (0..rows * n).map(of).collect()
    };
    let args = [(&x[..], &[2, 3, k][..]), (&w[..], &[n, k]), (&b[..], &[n])];
    let ts: Vec<_> = args.iter().map(|(v, d)| tensor(v, d)).collect();
    let y = linear(&ts[0], &ts[1], &ts[2]).unwrap();
    assert_eq!(y.dims(), [2, 3, n]);
    let want = plain(&[x.clone(), w.clone(), b.clone()]);
    assert!(distance(&flat(&y), &want) < 1e-6);
    check_gradients(&args, |t| linear(&t[0], &t[1], &t[2]), plain, 1e-4);
    assert!(linear(&ts[0], &ts[1].t().unwrap(), &ts[2]).is_err());
}

#[test]
fn constant_weights_of_a_linear_map_get_no_gradient() {
    let x = Var::from_tensor(&tensor(&values(1, 6), &[2, 3])).unwrap();
    let (w, b) = (tensor(&values(2, 12), &[4, 3]), tensor(&values(3, 4), &[4]));
    let y = linear(x.as_tensor(), &w, &b).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some());
    assert!(grads.get(&w).is_none() && grads.get(&b).is_none());
}

#[test]
fn packed_attention_is_attention_of_each_sequence() {
    let (heads, width) = (3, 12);
    let own = width / heads;
    let lengths = [7, 33, 1];
    let rows: usize = lengths.iter().sum();
    let [q, k, v] = [1, 2, 3].map(|seed| tensor(&values(seed, rows * width), &[rows, width]));
    let mut start = 0;
    let spans = lengths.map(|n| {
        start += n;
        Span {
            queries: start - n..start,
            keys: start - n..start,
        }
    });
    let got = attention_packed(&q, &k, &v, &spans, heads).unwrap();
    for span in &spans {
        let n = span.keys.len();
        let split = |t: &Tensor| {
            let t = t.narrow(0, span.keys.start, n).unwrap();
            let t = t.reshape((1, n, heads, own)).unwrap();
            t.transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let want = attention(&split(&q), &split(&k), &split(&v), None, None).unwrap();
        let want = want.transpose(1, 2).unwrap().reshape((n, width)).unwrap();
        let got = got.narrow(0, span.queries.start, n).unwrap();
        assert!(distance(&flat(&got), &flat(&want)) < 1e-5);
    }
    let shared = [spans[0].clone(), spans[0].clone()];
    assert!(attention_packed(&q, &k, &v, &shared, heads).is_err());
    assert!(attention_packed(&q, &k, &v, &spans, 5).is_err());
}
