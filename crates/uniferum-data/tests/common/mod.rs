//! Small files like those of the collections.
#![allow(dead_code)] // each test file uses a part

use std::path::{Path, PathBuf};

use ndarray::Array3;
use uniferum_ct::{Affine, Volume, write_nifti};

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

pub(crate) fn text(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// LPS axes with a spacing, mm.
pub(crate) fn lps(spacing: [f64; 3]) -> Affine {
    let [x, y, z] = spacing;
    Affine([
        [-x, 0.0, 0.0, 20.0],
        [0.0, -y, 0.0, 20.0],
        [0.0, 0.0, z, -100.0],
        [0.0, 0.0, 0.0, 1.0],
    ])
}

/// Voxels that look like a thorax: air around, soft tissue, two lungs; `seed` makes them distinct.
pub(crate) fn thorax(shape: [usize; 3], seed: usize) -> Array3<i16> {
    let [nx, ny, nz] = shape;
    Array3::from_shape_fn(shape, |(x, y, z)| {
        let at = |c: f64, n: usize| (c + 0.5) / n as f64 * 2.0 - 1.0;
        let (u, v, w) = (at(x as f64, nx), at(y as f64, ny), at(z as f64, nz));
        let noise = ((x * 31 + y * 17 + z * 13 + seed * 101) % 61) as i16;
        if u * u + v * v > 0.8 {
            return -1000;
        }
        let lung = |s: f64| ((u - s) / 0.3).powi(2) + (v / 0.45).powi(2) + (w / 0.9).powi(2) < 1.0;
        if lung(0.4) || lung(-0.4) {
            -870 + noise
        } else {
            35 + noise
        }
    })
}

pub(crate) fn scan(path: &Path, seed: usize) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let volume = Volume::new(thorax([24, 20, 16], seed), lps([10.0, 10.0, 12.0]));
    write_nifti(path, &volume).unwrap();
}

/// A label map on the grid of [`scan`].
pub(crate) fn mask(path: &Path, label: u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let voxels = thorax([24, 20, 16], 0).mapv(|v| if v < -800 && v > -900 { label } else { 0 });
    write_nifti(path, &Volume::new(voxels, lps([10.0, 10.0, 12.0]))).unwrap();
}
