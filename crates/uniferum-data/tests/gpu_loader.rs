//! What a GPU makes of scans against what the CPU makes of them.
//!
//! ```sh
//! UNIFERUM_TEST_DEVICE=cuda:0 cargo test -p uniferum-data --features cuda --test gpu_loader
//! ```
//!
//! Without that variable the tests say on standard error that they skip.

mod common;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use uniferum_ct::transform::{Augment, AugmentDraw, ModelTransform};
use uniferum_data::{Batch, Dataset, Loader, Manifest, SamplerConfig, Scan, Split};
use uniferum_kernels::DeviceChoice;
use uniferum_tasks::{Catalogue, Task};

const SCANS: usize = 8;
const STEPS: u64 = 6;

/// The device under test, unless it is the CPU.
fn gpu() -> Option<Device> {
    let name = std::env::var("UNIFERUM_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    let device = name.parse::<DeviceChoice>().unwrap().open().unwrap();
    if device.is_cpu() {
        eprintln!("skipped: UNIFERUM_TEST_DEVICE names no GPU");
        return None;
    }
    Some(device)
}

fn manifest(folder: &Path) -> Manifest {
    let scans = (0..SCANS).map(|i| {
        let path = folder.join(format!("{i}.nii.gz"));
        common::scan(&path, i);
        let mask = folder.join(format!("mask{i}.nii.gz"));
        common::mask(&mask, if i % 2 == 0 { 10 } else { 1 });
        Scan {
            path,
            mask: Some(mask.clone()),
            nodules: (i < 3).then_some(mask),
            patient: format!("p{i}"),
            labels: [("phantom.emphysema".to_owned(), i % 2 == 0)].into(),
            ..Scan::default()
        }
    });
    Manifest {
        scans: scans.collect(),
    }
}

fn loader(manifest: &Manifest, augment: Option<Augment>, device: &Device) -> Loader {
    let catalogue = Catalogue::standard();
    let ids = [
        "phantom.emphysema",
        "anatomy.lungs",
        "nodule.pulmonary-nodules",
    ];
    let tasks: Vec<Task> = ids.map(|id| catalogue.get(id).unwrap().clone()).into();
    // Larger than the scans along x, smaller along y: air is added, and voxels are left out.
    let transform = ModelTransform {
        crop: [32, 17, 15],
        shape: [32, 32, 32],
    };
    Loader {
        dataset: Arc::new(Dataset::new(manifest.clone(), tasks, transform, 4, 0).unwrap()),
        scans: manifest.of(Split::Train),
        sampler: SamplerConfig {
            nodule_repeats: 3,
            organ_share: 0.6,
            ..SamplerConfig::default()
        },
        augment,
        scans_per_step: 4,
        questions_per_scan: 3,
        seed: 11,
        device: device.clone(),
    }
}

fn flat(t: &Tensor) -> Vec<f32> {
    let t = t.to_device(&Device::Cpu).unwrap();
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn batches(loader: &Loader) -> Vec<Batch> {
    loader.stream(0, STEPS).map(|b| b.unwrap()).collect()
}

/// Both devices' batches: everything alike, and the largest difference of an image.
fn compare(device: &Device, augment: Option<Augment>) -> f32 {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let want = batches(&loader(&manifest, augment.clone(), &Device::Cpu));
    let got = batches(&loader(&manifest, augment, device));
    assert_eq!((got.len(), want.len()), (STEPS as usize, STEPS as usize));
    let (mut worst, mut inside) = (0.0f32, 0);
    for (got, want) in got.iter().zip(&want) {
        assert!(got.images.device().is_cuda());
        assert_eq!(got.names, want.names);
        assert_eq!(got.images.dims(), want.images.dims());
        assert_eq!(got.masks.dims(), want.masks.dims());
        for (got, want) in [
            (&got.labels, &want.labels),
            (&got.is_segmentation, &want.is_segmentation),
            // The nearest voxel is the same one, to the last.
            (&got.masks, &want.masks),
        ] {
            assert_eq!(flat(got), flat(want));
        }
        inside += flat(&want.masks).iter().filter(|v| **v > 0.0).count();
        for (g, w) in flat(&got.images).iter().zip(flat(&want.images)) {
            assert!(g.is_finite());
            worst = worst.max((g - w).abs());
        }
    }
    assert!(inside > 0, "no mask was asked for");
    worst
}

fn only(change: impl FnOnce(&mut Augment)) -> Option<Augment> {
    let mut augment = Augment {
        rotate_probability: 0.0,
        zoom_probability: 0.0,
        noise_probability: 0.0,
        offset_probability: 0.0,
        ..Augment::default()
    };
    change(&mut augment);
    Some(augment)
}

#[test]
fn without_a_rotation_arrays_agree_to_rounding() {
    let Some(device) = gpu() else { return };
    for (what, augment) in [
        ("none", None),
        ("zoom", only(|a| a.zoom_probability = 1.0)),
        ("offset", only(|a| a.offset_probability = 1.0)),
    ] {
        let worst = compare(&device, augment);
        eprintln!("{what}: {worst:.1e}");
        assert!(worst < 1e-6, "{what}: {worst}");
    }
}

/// Another number of the noise would differ by about its deviation, 0.005.
#[test]
fn noise_is_the_same_number_for_number() {
    let Some(device) = gpu() else { return };
    let worst = compare(&device, only(|a| a.noise_probability = 1.0));
    eprintln!("noise: {worst:.1e}");
    assert!(worst < 1e-6, "{worst}");
}

/// The CPU keeps the smoothed field in 16-bit levels, half of one of which is 0.03 HU or 1.5e-5 for
/// -1000 to 3000 HU; the GPU keeps none. Here the range is -1000 to 100 HU.
#[test]
fn rotations_agree_to_the_levels_of_the_cpu() {
    let Some(device) = gpu() else { return };
    for (what, augment) in [
        ("rotation", only(|a| a.rotate_probability = 1.0)),
        ("all", Some(Augment::default())),
    ] {
        let worst = compare(&device, augment);
        eprintln!("{what}: {worst:.1e}");
        assert!(worst < 8e-6, "{what}: {worst}");
    }
}

#[test]
fn draws_are_the_same_on_every_device() {
    let augment = Augment::default();
    let keys: Vec<_> = (0..4)
        .map(|sample| AugmentDraw::from_seed(&augment, 1, sample, 0).noise_key())
        .collect();
    assert!((1..4).all(|i| keys[i] != keys[0]));
}
