//! `cargo bench -p uniferum-ct`: the steps between a file and the model's array, one by one.
//!
//! The scan is a drawn thorax of 256x256x150 voxels, an eighth of a full one, so that a run stays
//! short; the transforms see the full 416x336x256. `uniferum bench prepare` measures a full scan.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ndarray::Array3;
use uniferum_ct::io::cache::{Hash, read_cache, write_cache};
use uniferum_ct::prep::components::{Connectivity, RunMask};
use uniferum_ct::prep::hull::SliceHulls;
use uniferum_ct::resample::Interpolation;
use uniferum_ct::{
    Affine, AugmentDraw, ModelTransform, ReadOptions, StandardiseConfig, Volume, read_ct,
    standardise, write_nifti,
};

/// A thorax of ellipses with two lungs and scanner noise, and its mask.
fn thorax(shape: [usize; 3], spacing: [f64; 3]) -> (Volume<i16>, Volume<u8>) {
    let affine = Affine::from_spacing(
        spacing,
        [-1.0, -1.0, 1.0],
        [
            shape[0] as f64 * spacing[0] / 2.0,
            shape[1] as f64 * spacing[1] / 2.0,
            0.0,
        ],
    );
    let height = shape[2] as f64 * spacing[2];
    let label = |i: usize, j: usize, k: usize| {
        let [x, y, z] = affine.apply([i as f64, j as f64, k as f64]);
        let ellipse = |cx: f64, rx: f64, ry: f64| ((x - cx) / rx).powi(2) + (y / ry).powi(2) < 1.0;
        let in_lungs = (0.1 * height..0.9 * height).contains(&z);
        if in_lungs && (ellipse(-75.0, 60.0, 85.0) || ellipse(75.0, 60.0, 85.0)) {
            11
        } else {
            u8::from(ellipse(0.0, 170.0, 120.0))
        }
    };
    let noise = |i: usize, j: usize, k: usize| {
        let mixed = (i * 73_856_093) ^ (j * 19_349_663) ^ (k * 83_492_791);
        ((mixed >> 7) % 64) as i16 - 32
    };
    let [nx, ny, nz] = shape;
    let mask = Array3::from_shape_fn((nx, ny, nz), |(i, j, k)| label(i, j, k));
    let image = Array3::from_shape_fn((nx, ny, nz), |(i, j, k)| {
        noise(i, j, k)
            + match mask[[i, j, k]] {
                11 => -850,
                1 => 40,
                _ => -1000,
            }
    });
    (
        Volume::new(image, affine),
        Volume::new(mask.mapv(|l| if l == 1 { 0 } else { l }), affine),
    )
}

fn standardisation(c: &mut Criterion) {
    let (image, mask) = thorax([256, 256, 150], [1.5, 1.5, 2.2]);
    let image = Volume::new(image.voxels.mapv(f32::from), image.affine);
    let mut group = c.benchmark_group("standardise 256x256x150");
    group.sample_size(10);
    for (name, interpolation) in [
        ("linear", Interpolation::Linear),
        ("cubic", Interpolation::Cubic),
    ] {
        let config = StandardiseConfig {
            interpolation,
            ..StandardiseConfig::default()
        };
        group.bench_function(name, |b| {
            b.iter(|| black_box(standardise(&image, Some(&mask), &config)));
        });
    }
    let release = StandardiseConfig::release();
    group.bench_function("release", |b| {
        b.iter(|| black_box(standardise(&image, Some(&mask), &release)));
    });
    group.bench_function("body and hulls", |b| {
        b.iter(|| {
            let body = RunMask::from_view(image.voxels.view(), |hu| (-150.0..=250.0).contains(&hu))
                .largest_component(Connectivity::Corners);
            black_box(body.map(|body| SliceHulls::of(&body)))
        });
    });
    group.finish();
}

fn transforms(c: &mut Criterion) {
    let (image, mask) = thorax([416, 336, 256], [1.0; 3]);
    let (image, mask) = (image.to_ras(), mask.to_ras());
    let transform = ModelTransform::default();
    let turn = AugmentDraw {
        rotate_degrees: [8.0, -11.0, 5.0],
        zoom: 1.04,
        ..AugmentDraw::NONE
    };
    let zoom = AugmentDraw {
        rotate_degrees: [0.0; 3],
        ..turn.clone()
    };
    let noise = AugmentDraw {
        noise_std: 0.01,
        offset: 0.01,
        ..AugmentDraw::NONE
    };
    let mut group = c.benchmark_group("416x336x256 to 256x160x128");
    group.sample_size(20);
    group.bench_function("predict", |b| {
        b.iter(|| black_box(transform.model_array(&image)));
    });
    for (name, draw) in [
        ("rotation and zoom", &turn),
        ("zoom", &zoom),
        ("noise", &noise),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| black_box(transform.model_array_augmented(&image, draw)));
        });
    }
    group.bench_function("mask, rotation and zoom", |b| {
        b.iter(|| black_box(transform.model_mask_augmented(&mask, &[11], &turn)));
    });
    group.finish();
}

fn files(c: &mut Criterion) {
    let (image, _) = thorax([256, 256, 150], [1.5, 1.5, 2.2]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cache, nifti) = (folder.path().join("a.uct"), folder.path().join("a.nii.gz"));
    write_cache(&cache, &image, Hash::of(b"")).expect("written");
    write_nifti(&nifti, &image).expect("written");
    let mut group = c.benchmark_group("files 256x256x150");
    group.sample_size(10);
    group.bench_function("read .nii.gz", |b| {
        b.iter(|| black_box(read_ct(&nifti, &ReadOptions::default())));
    });
    group.bench_function("read cache", |b| {
        b.iter(|| black_box(read_cache::<i16>(&cache)))
    });
    group.bench_function("write cache", |b| {
        b.iter_batched(
            || folder.path().join("b.uct"),
            |path| black_box(write_cache(path, &image, Hash::of(b""))),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("write .nii.gz", |b| {
        b.iter_batched(
            || folder.path().join("b.nii.gz"),
            |path| black_box(write_nifti(path, &image)),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, standardisation, transforms, files);
criterion_main!(benches);
