//! The model's transforms against MONAI, and the fused augmentation against the steps it replaces.

use std::path::PathBuf;

use ndarray::Array3;
use uniferum_ct::transform::composed;
use uniferum_ct::{
    Affine, Augment, AugmentDraw, ModelTransform, ReadOptions, StandardiseConfig, Volume, read_ct,
    standardise,
};

fn golden(name: &str) -> Volume<f32> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    read_ct(
        folder.join(format!("monai_{name}.nii.gz")),
        &ReadOptions::default(),
    )
    .unwrap()
    .volume
}

fn turn(rotate_degrees: [f64; 3], zoom: f64) -> AugmentDraw {
    AugmentDraw {
        rotate_degrees,
        zoom,
        ..AugmentDraw::NONE
    }
}

#[test]
fn the_steps_equal_monai() {
    let hu = golden("in");
    let volume = Volume::new(hu.voxels.mapv(|v| v as i16), Affine::IDENTITY);
    let transform = ModelTransform {
        crop: [24, 20, 16],
        shape: [16, 10, 8],
    };
    let angles = [11.0, -7.0, 14.0];
    for (name, draw) in [
        ("predict", AugmentDraw::NONE),
        ("rotate", turn(angles, 1.0)),
        ("zoom", turn([0.0; 3], 0.91)),
        ("both", turn(angles, 1.08)),
    ] {
        let found = composed::model_array(&transform, &volume, &draw).unwrap();
        let expected = golden(name).voxels;
        assert_eq!(found.dim(), expected.dim());
        for (a, b) in found.iter().zip(&expected) {
            assert!(
                (a - b).abs() < 1e-5,
                "{name}: {a}, and {b} by golden/monai_transforms.py"
            );
        }
        if !draw.rotates() {
            let fused = transform.model_array_augmented(&volume, &draw).unwrap();
            for (a, b) in fused.iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{name}, fused: {a} and {b}");
            }
        }
    }
    let predict = transform.model_array(&volume).unwrap();
    for (a, b) in predict.iter().zip(&golden("predict").voxels) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

/// A thorax of ellipses with vessels, 2 mm voxels, and its lungs.
fn thorax() -> (Volume<i16>, Volume<u8>) {
    let shape = (208, 168, 128);
    let tissue = |i: usize, j: usize, k: usize| {
        let [x, y, z] = [i as f64 - 103.5, j as f64 - 83.5, k as f64 - 63.5].map(|v| v * 2.0);
        let inside = |cx: f64, cy: f64, cz: f64, r: [f64; 3]| {
            ((x - cx) / r[0]).powi(2) + ((y - cy) / r[1]).powi(2) + ((z - cz) / r[2]).powi(2) < 1.0
        };
        for (side, label) in [(-1.0, 10u8), (1.0, 12)] {
            if inside(side * 70.0, 0.0, 0.0, [55.0, 80.0, 110.0]) {
                let vessel = ((x / 9.0).sin() * (y / 11.0).cos() + (z / 13.0).sin()).abs() < 0.12;
                return (if vessel { 30 } else { -850 }, label);
            }
        }
        if inside(0.0, -95.0, 0.0, [18.0, 18.0, 1e9]) {
            return (600, 0);
        }
        (
            if inside(0.0, 0.0, 0.0, [170.0, 120.0, 1e9]) {
                40
            } else {
                -1000
            },
            0,
        )
    };
    let affine = Affine::from_spacing([2.0; 3], [1.0; 3], [0.0; 3]);
    let voxels = Array3::from_shape_fn(shape, |(i, j, k)| tissue(i, j, k).0);
    let labels = Array3::from_shape_fn(shape, |(i, j, k)| tissue(i, j, k).1);
    (Volume::new(voxels, affine), Volume::new(labels, affine))
}

fn half() -> ModelTransform {
    ModelTransform {
        crop: [192, 160, 128],
        shape: [128, 80, 64],
    }
}

/// Mean of the absolute differences, root of the mean square, and correlation.
fn differences(a: &Array3<f32>, b: &Array3<f32>) -> (f64, f64, f64) {
    let n = a.len() as f64;
    let pairs = || a.iter().zip(b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let mean = pairs().map(|(a, b)| (a - b).abs()).sum::<f64>() / n;
    let square = (pairs().map(|(a, b)| (a - b).powi(2)).sum::<f64>() / n).sqrt();
    let (ma, mb) = (
        pairs().map(|p| p.0).sum::<f64>() / n,
        pairs().map(|p| p.1).sum::<f64>() / n,
    );
    let covariance = pairs().map(|(a, b)| (a - ma) * (b - mb)).sum::<f64>();
    let va = pairs().map(|(a, _)| (a - ma).powi(2)).sum::<f64>();
    let vb = pairs().map(|(_, b)| (b - mb).powi(2)).sum::<f64>();
    (mean, square, covariance / (va * vb).sqrt())
}

fn draws() -> Vec<AugmentDraw> {
    let always = Augment {
        rotate_probability: 1.0,
        zoom_probability: 1.0,
        noise_probability: 0.0,
        offset_probability: 0.0,
        ..Augment::default()
    };
    let mut draws: Vec<_> = (0..4)
        .map(|sample| AugmentDraw::from_seed(&always, 5, sample, 0))
        .collect();
    draws.push(turn([15.0, 15.0, -15.0], 1.1));
    draws.push(turn([-15.0, 15.0, 15.0], 0.9));
    draws.push(turn([2.0, 0.0, 0.0], 1.0));
    draws
}

/// The stated bound: mean difference below 0.0025 (5 HU), root mean square below 0.008 (16 HU),
/// correlation above 0.9995, equal means to 0.0001 (0.2 HU).
fn check_bound(transform: &ModelTransform, volume: &Volume<i16>, draw: &AugmentDraw) {
    let fused = transform.model_array_augmented(volume, draw).unwrap();
    let steps = composed::model_array(transform, volume, draw).unwrap();
    let (mean, square, correlation) = differences(&fused, &steps);
    let offset = fused.mean().unwrap() - steps.mean().unwrap();
    assert!(mean < 0.0025, "{draw:?}: mean {mean}");
    assert!(square < 0.008, "{draw:?}: root mean square {square}");
    assert!(correlation > 0.9995, "{draw:?}: correlation {correlation}");
    assert!(offset.abs() < 0.0001, "{draw:?}: offset {offset}");
}

#[test]
fn one_pass_differs_from_five_by_no_more_than_stated() {
    let (volume, _) = thorax();
    for draw in draws() {
        check_bound(&half(), &volume, &draw);
    }
}

#[test]
fn the_bound_holds_on_a_real_scan() {
    let Some(data) = std::env::var_os("UNIFERUM_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: UNIFERUM_TEST_DATA names no folder of real scans");
        return;
    };
    let scan = data.join("chest/lung2_image.nrrd");
    let scan = read_ct(&scan, &ReadOptions::default())
        .or_else(|_| {
            let small = data.join("chest_small/cptac_c3n00247_4x_ct.nii.gz");
            read_ct(small, &ReadOptions::default())
        })
        .unwrap();
    let config = StandardiseConfig {
        estimate_lungs: true,
        ..StandardiseConfig::default()
    };
    let volume = standardise(&scan.volume, None, &config).unwrap().volume;
    for draw in draws() {
        check_bound(&ModelTransform::default(), &volume, &draw);
    }
}

#[test]
fn masks_move_with_the_image() {
    let (_, mask) = thorax();
    for draw in draws() {
        let fused = half().model_mask_augmented(&mask, &[10], &draw).unwrap();
        let steps = composed::model_mask(&half(), &mask, &[10], &draw).unwrap();
        let share = half()
            .model_mask_fraction_augmented(&mask, &[10], &draw)
            .unwrap();
        let (mut both, mut sum, mut near) = (0.0, 0.0, 0.0);
        for ((&a, &b), &s) in fused.iter().zip(&steps).zip(&share) {
            both += f64::from(a & b);
            sum += f64::from(a + b);
            near += f64::from(u8::from((s > 0.5) == (a == 1)));
        }
        let dice = 2.0 * both / sum;
        let agree = near / fused.len() as f64;
        assert!(dice > 0.999, "{draw:?}: Dice {dice}");
        assert!(agree > 0.995, "{draw:?}: {agree}");
    }
    let still = half()
        .model_mask_augmented(&mask, &[10, 12], &AugmentDraw::NONE)
        .unwrap();
    assert_eq!(still, half().model_mask(&mask, &[10, 12]).unwrap());
}

#[test]
fn volumes_smaller_than_the_crop_are_padded_with_air() {
    let volume = Volume::new(Array3::from_elem((60, 50, 40), 0i16), Affine::IDENTITY);
    let draw = turn([10.0, -5.0, 8.0], 0.95);
    let array = half().model_array_augmented(&volume, &draw).unwrap();
    let steps = composed::model_array(&half(), &volume, &draw).unwrap();
    assert_eq!((array[[0, 0, 0]], array[[127, 79, 63]]), (0.0, 0.0));
    assert!((array[[64, 40, 32]] - 0.5).abs() < 1e-5);
    let (mean, _, correlation) = differences(&array, &steps);
    assert!(mean < 0.005 && correlation > 0.995, "{mean} {correlation}");
}

#[test]
fn noise_and_offset_are_those_of_the_draw_whatever_the_threads() {
    let volume = Volume::new(Array3::from_elem((208, 168, 128), 0i16), Affine::IDENTITY);
    let draw = AugmentDraw {
        noise_std: 0.008,
        noise_seed: 11,
        offset: 0.004,
        ..AugmentDraw::NONE
    };
    let array = half().model_array_augmented(&volume, &draw).unwrap();
    let n = array.len() as f64;
    let mean = array.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
    let std = (array
        .iter()
        .map(|v| (f64::from(*v) - mean).powi(2))
        .sum::<f64>()
        / n)
        .sqrt();
    assert!((mean - 0.504).abs() < 1e-4, "{mean}");
    assert!((std - 0.008).abs() < 1e-4, "{std}");
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let again = one.install(|| half().model_array_augmented(&volume, &draw).unwrap());
    assert_eq!(array, again);
    let other = AugmentDraw {
        noise_seed: 12,
        ..draw
    };
    assert_ne!(
        array,
        half().model_array_augmented(&volume, &other).unwrap()
    );
}
