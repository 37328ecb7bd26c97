//! Resampling of scans and masks on a GPU, against the definitions in double precision.
//!
//! That the result is the one of the training transform on the CPU is tested where both are at hand,
//! in `uniferum-data`.

mod common;

use candle_core::{Device, Tensor};
use common::{device, values};
use uniferum_kernels::{Augmenter, Noise, Patches, Resampling, Taps, TurnedResampling, Voxels};

fn augmenter() -> Option<Augmenter> {
    let made = Augmenter::of(&device(), 2).unwrap();
    if made.is_none() {
        eprintln!("skipped: UNIFERUM_TEST_DEVICE names no GPU");
    }
    made
}

fn hu(seed: u64, n: usize) -> Vec<i16> {
    let hu = values(seed, n).into_iter().map(|v| (v * 2000.0) as i16);
    hu.collect()
}

fn labels(seed: u64, n: usize) -> Vec<u8> {
    let labels = values(seed, n)
        .into_iter()
        .map(|v| (v * 100.0 + 100.0) as u8);
    labels.collect()
}

fn flat(t: &Tensor) -> Vec<f32> {
    let t = t.to_device(&Device::Cpu).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// One to three weights an output, the last output none.
fn taps(seed: u64, inputs: usize, outputs: usize) -> Taps {
    let random = values(seed, 4 * outputs);
    let mut taps = Taps {
        offsets: vec![0],
        ..Taps::default()
    };
    for k in 0..outputs {
        let count = if k + 1 == outputs { 0 } else { 1 + k % 3 };
        let start = (random[4 * k].abs() * (inputs - 3) as f64) as usize;
        taps.starts.push(start);
        let weights = random[4 * k + 1..4 * k + 1 + count].iter();
        taps.weights.extend(weights.map(|w| *w as f32));
        taps.offsets.push(taps.weights.len());
    }
    taps
}

fn turned(kernels: [Vec<f32>; 3], field: [usize; 3], offset: [isize; 3]) -> TurnedResampling {
    let (sin, cos) = 0.2f32.sin_cos();
    let place = |n: usize, step: f32| {
        let places = (0..n).map(|k| {
            (
                (k as f32 - n as f32 / 2.0) * step,
                1.0 - 0.1 * (k % 2) as f32,
            )
        });
        places.collect()
    };
    TurnedResampling {
        outputs: [place(9, 1.7), place(20, 1.1), place(30, 0.8)],
        rotation: [[cos, -sin, 0.05], [sin, cos, -0.1], [-0.03, 0.12, 0.99]],
        middle: field.map(|n| (n as f32 - 1.0) / 2.0),
        kernels,
        field,
        offset,
    }
}

/// Place of an output along axis `a` of the field, before clamping, in double precision.
fn place(t: &TurnedResampling, a: usize, o: [usize; 3]) -> f64 {
    let about = |c: usize| f64::from(t.outputs[c][o[c]].0);
    let moved: f64 = (0..3).map(|c| f64::from(t.rotation[a][c]) * about(c)).sum();
    f64::from(t.middle[a]) + moved
}

fn each(shape: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [x, y, z] = shape;
    (0..x * y * z).map(move |i| [i / z / y, i / z % y, i % z])
}

#[test]
fn straight_outputs_are_sums_over_three_axes() {
    let Some(augmenter) = augmenter() else { return };
    let (shape, outputs) = ([13, 11, 17], [6, 27, 23]);
    let data = hu(1, shape.iter().product());
    let axes: [Taps; 3] = std::array::from_fn(|a| taps(10 + a as u64, shape[a], outputs[a]));
    let resampling = Resampling::Straight(axes.clone());
    let volume = Voxels { data: &data, shape };
    let noise = Noise {
        offset: 0.25,
        ..Noise::default()
    };
    let got = augmenter.image(volume, &resampling, &noise).unwrap();
    assert_eq!(got.dims(), [1, 1, 6, 27, 23]);
    let weights = |a: usize, k: usize| {
        let axis = &axes[a];
        let range = axis.offsets[k]..axis.offsets[k + 1];
        let start = axis.starts[k];
        range
            .clone()
            .map(move |i| (start + i - range.start, f64::from(axis.weights[i])))
    };
    for (o, got) in each(outputs).zip(flat(&got)) {
        let mut want = 0.25;
        for (x, wx) in weights(0, o[0]) {
            for (y, wy) in weights(1, o[1]) {
                for (z, wz) in weights(2, o[2]) {
                    let hu = data[(x * shape[1] + y) * shape[2] + z];
                    want += wx * wy * wz * (f64::from(hu) + 1000.0) / 2000.0;
                }
            }
        }
        assert!((f64::from(got) - want).abs() < 1e-5, "{o:?}: {got}, {want}");
    }
}

#[test]
fn turned_outputs_are_trilinear_samples_of_the_smoothed_field() {
    let Some(augmenter) = augmenter() else { return };
    let (shape, field) = ([14, 19, 23], [17, 19, 26]);
    let data = hu(2, shape.iter().product());
    let kernels = [
        vec![0.25, 0.5, 0.25],
        vec![0.125, 0.375, 0.375, 0.125],
        vec![1.0],
    ];
    let turned = turned(kernels, field, [-1, 0, -2]);
    let volume = Voxels { data: &data, shape };
    let resampling = Resampling::Turned(turned.clone());
    let got = augmenter
        .image(volume, &resampling, &Noise::default())
        .unwrap();
    let voxel = |f: [i64; 3]| {
        let mut at = 0;
        for a in 0..3 {
            let v = f[a].clamp(0, field[a] as i64 - 1) + turned.offset[a] as i64;
            if !(0..shape[a] as i64).contains(&v) {
                return 0.0;
            }
            at = at * shape[a] + v as usize;
        }
        (f64::from(data[at]) + 1000.0) / 2000.0
    };
    let len = [3usize, 4, 1];
    let smoothed = |s: [i64; 3]| {
        let mut sum = 0.0;
        for t in each(len) {
            let weight: f64 = (0..3).map(|a| f64::from(turned.kernels[a][t[a]])).product();
            let at = std::array::from_fn(|a| s[a] - (len[a] / 2) as i64 + t[a] as i64);
            sum += weight * voxel(at);
        }
        sum
    };
    for (o, got) in each([9, 20, 30]).zip(flat(&got)) {
        let (mut low, mut share) = ([0i64; 3], [0.0; 3]);
        for a in 0..3 {
            let last = (field[a] - usize::from(len[a] % 2 == 1)) as f64;
            let at = place(&turned, a, o).clamp(0.0, last);
            (low[a], share[a]) = (at as i64, at - at.floor());
        }
        let mut want = 0.0;
        for corner in each([2, 2, 2]) {
            let part = |a: usize| {
                if corner[a] == 1 {
                    share[a]
                } else {
                    1.0 - share[a]
                }
            };
            let weight = part(0) * part(1) * part(2);
            if weight > 0.0 {
                want += weight * smoothed(std::array::from_fn(|a| low[a] + corner[a] as i64));
            }
        }
        want *= (0..3)
            .map(|a| f64::from(turned.outputs[a][o[a]].1))
            .product::<f64>();
        // Places are single precision, and neighbours differ by up to 2.
        assert!((f64::from(got) - want).abs() < 3e-5, "{o:?}: {got}, {want}");
    }
}

const PATCHES: Patches = Patches {
    tokens: [2, 1, 3],
    patch: 2,
    pool: 4,
};

fn check_mask(
    resampling: &Resampling,
    shape: [usize; 3],
    nearest: impl Fn([usize; 3]) -> Option<[usize; 3]>,
) {
    let Some(augmenter) = augmenter() else { return };
    let data = labels(3, shape.iter().product());
    let mut sets = [[false; 256]; 3];
    sets[0][37] = true;
    sets[1][0..20].fill(true);
    sets[2][199] = true;
    let mask = Voxels { data: &data, shape };
    let got = augmenter.mask(mask, resampling, &sets, PATCHES).unwrap();
    assert_eq!(got.dims(), [3, 6, 8]);
    let mut want = vec![0.0f32; 3 * 48];
    for o in each([16, 8, 24]) {
        let Some(at) = nearest(o) else { continue };
        let label = data[(at[0] * shape[1] + at[1]) * shape[2] + at[2]];
        let (token, inner) = (o.map(|i| i / 8), o.map(|i| i % 8 / 4));
        let cell = (token[0] * 3 + token[2]) * 8 + (inner[0] * 2 + inner[1]) * 2 + inner[2];
        for (q, set) in sets.iter().enumerate() {
            if set[usize::from(label)] {
                want[q * 48 + cell] = 1.0;
            }
        }
    }
    assert!(want.contains(&1.0) && want.contains(&0.0));
    assert_eq!(flat(&got), want);
}

#[test]
fn straight_masks_are_pooled_and_cut_into_patches() {
    let shape = [12, 9, 25];
    let axes: [Taps; 3] = std::array::from_fn(|a| taps(20 + a as u64, shape[a], [16, 8, 24][a]));
    let nearest = |o: [usize; 3]| {
        let there = (0..3).all(|a| axes[a].offsets[o[a]] < axes[a].offsets[o[a] + 1]);
        there.then(|| std::array::from_fn(|a| axes[a].starts[o[a]]))
    };
    check_mask(&Resampling::Straight(axes.clone()), shape, nearest);
}

#[test]
fn turned_masks_are_of_the_nearest_voxel() {
    let (shape, field) = ([14, 15, 23], [17, 15, 26]);
    let mut turned = turned(Default::default(), field, [-1, 0, -2]);
    turned.outputs = [16, 8, 24].map(|n: usize| {
        let places = (0..n).map(|k| ((k as f32 - n as f32 / 2.0 + 0.21) * 1.3, 1.0));
        places.collect()
    });
    let nearest = |o: [usize; 3]| {
        let mut at = [0; 3];
        for a in 0..3 {
            let place = place(&turned, a, o).clamp(0.0, field[a] as f64 - 1.0);
            let voxel = (place + 0.5) as isize + turned.offset[a];
            at[a] = usize::try_from(voxel).ok().filter(|v| *v < shape[a])?;
        }
        Some(at)
    };
    check_mask(&Resampling::Turned(turned.clone()), shape, nearest);
}

/// Bernstein 2008 with eight rounds; 64 bits of counter and of stream.
fn chacha8(key: [u32; 8], counter: u32, stream: u32) -> [u32; 16] {
    let mut start = [0u32; 16];
    start[..4].copy_from_slice(&[0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574]);
    start[4..12].copy_from_slice(&key);
    (start[12], start[14]) = (counter, stream);
    let mut s = start;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        for (x, y, z, by) in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)] {
            s[x] = s[x].wrapping_add(s[y]);
            s[z] = (s[z] ^ s[x]).rotate_left(by);
        }
    };
    for _ in 0..4 {
        for i in 0..4 {
            quarter(i, 4 + i, 8 + i, 12 + i);
        }
        for i in 0..4 {
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
        }
    }
    std::array::from_fn(|i| s[i].wrapping_add(start[i]))
}

#[test]
fn noise_is_box_and_mullers_of_a_stream_a_plane() {
    // The first words for a key of zeros, as published with the cipher.
    assert_eq!(chacha8([0; 8], 0, 0)[..2], [0x2fef_003e, 0xd640_5f89]);
    let Some(augmenter) = augmenter() else { return };
    let key = [1, 2, 3, 4, 5, 6, 7, 0xffff_ffff];
    // Two planes of 600 outputs of air: a whole chunk of 512 and a part of one.
    let nothing = |n: usize| Taps {
        starts: vec![0; n],
        offsets: vec![0; n + 1],
        weights: Vec::new(),
    };
    let resampling = Resampling::Straight([nothing(2), nothing(20), nothing(30)]);
    let volume = Voxels {
        data: &[0],
        shape: [1; 3],
    };
    let noise = Noise {
        key,
        std: 2.0,
        offset: 1.0,
    };
    let got = flat(&augmenter.image(volume, &resampling, &noise).unwrap());
    for (i, got) in got.into_iter().enumerate() {
        let (plane, cell) = (i / 600, i % 600);
        let (chunk, inside) = (cell / 512, cell % 512);
        let word = |w: usize| chacha8(key, (chunk * 32 + w / 16) as u32, plane as u32)[w % 16];
        let (pair, is_sine) = (inside % 256, inside >= 256);
        let share = (f64::from(word(pair)) + 0.5) / 2f64.powi(32);
        let angle = f64::from(word(256 + pair) as i32) * std::f64::consts::PI / 2f64.powi(31);
        let radius = (-2.0 * share.ln()).sqrt();
        let normal = radius * if is_sine { angle.sin() } else { angle.cos() };
        let want = 1.0 + 2.0 * normal;
        let tolerance = 1e-5 + 1e-7 / radius;
        assert!(
            (f64::from(got) - want).abs() < tolerance,
            "{i}: {got}, {want}"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(Augmenter::of(&device(), 0).is_err());
    assert!(Augmenter::of(&Device::Cpu, 1).unwrap().is_none());
    let Some(augmenter) = augmenter() else { return };
    let axes: [Taps; 3] = std::array::from_fn(|a| taps(30 + a as u64, 8, 8));
    let resampling = Resampling::Straight(axes);
    let data = [0i16; 2 * 8 * 8];
    for (data, shape) in [(&data[..], [2, 8, 8]), (&data[1..], [2, 8, 8])] {
        let volume = Voxels { data, shape };
        let refused = augmenter.image(volume, &resampling, &Noise::default());
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("augment"), "{message}");
    }
    let mask = Voxels {
        data: &[0u8; 512],
        shape: [8; 3],
    };
    let refused = augmenter.mask(mask, &resampling, &[[true; 256]], PATCHES);
    assert!(refused.is_err());
}
