//! The scanner: grid, pose, sharpness, noise, field of view, orientation of the file.

use ndarray::{Array3, Axis};
use rand::Rng;
use uniferum_ct::{Affine, Volume};

use crate::config::PhantomConfig;
use crate::geometry::Point;
use crate::patient::Patient;
use crate::random::{Stream, key, normal_at, stream};
use crate::render::Grid;
use crate::tissue::RANGE;

/// One scanner's properties.
#[derive(Debug, Clone)]
pub(crate) struct Scanner {
    spacing: [f64; 3],
    blur: f32,
    noise_hu: f32,
    /// Radius of the reconstructed circle, as a share of half the field of view; more than 1.5 for none.
    circle: f32,
    lps: bool,
    origin: [f64; 3],
    noise_key: u64,
}

impl Scanner {
    pub(crate) fn new(seed: u64, config: &PhantomConfig) -> Self {
        let mut rng = stream(seed, Stream::Scanner);
        let v = config.scanner_variation;
        let in_plane = 1.0 + 0.06 * v * rng.random_range(-1.0..1.0);
        let along = 1.0 + 0.06 * v * rng.random_range(-1.0..1.0);
        let [x, y, z] = config.spacing_mm;
        Scanner {
            spacing: [x * in_plane, y * in_plane, z * along],
            blur: (0.10 + 0.08 * v * rng.random_range(-1.0..1.0)) as f32,
            noise_hu: (16.0 + 12.0 * v * rng.random_range(-1.0..1.0)) as f32,
            circle: if rng.random_bool(0.4 * v) { 1.12 } else { 2.0 },
            lps: rng.random_bool(0.5 * v),
            origin: std::array::from_fn(|_| (v * rng.random_range(-200.0..200.0f64)).round()),
            noise_key: key(seed, Stream::Noise as u64),
        }
    }

    /// The grid on which the patient is rendered.
    pub(crate) fn grid(&self, config: &PhantomConfig, patient: &Patient) -> Grid {
        Grid {
            shape: config.shape,
            spacing: self.spacing.map(|s| s as f32),
            rotation: rotation(patient.tilt),
            shift: patient.shift,
        }
    }

    /// Blur, noise and field of view; rounded to whole HU.
    pub(crate) fn image(&self, mut hu: Array3<f32>) -> Array3<i16> {
        for axis in 0..3 {
            blur(&mut hu, Axis(axis), self.blur);
        }
        let (nx, ny, nz) = hu.dim();
        let centre = [(nx as f32 - 1.0) / 2.0, (ny as f32 - 1.0) / 2.0];
        let radius = self.circle * centre[0].max(centre[1]);
        Array3::from_shape_fn((nx, ny, nz), |(x, y, z)| {
            let (dx, dy) = (x as f32 - centre[0], y as f32 - centre[1]);
            if dx * dx + dy * dy > radius * radius {
                return RANGE.0 as i16;
            }
            let counter = ((x * ny + y) * nz + z) as u64;
            let value = hu[[x, y, z]] + self.noise_hu * normal_at(self.noise_key, counter);
            value.clamp(RANGE.0, RANGE.1).round() as i16
        })
    }

    /// Puts an array of the rendered grid into the file's orientation.
    pub(crate) fn volume<T: Clone>(&self, mut voxels: Array3<T>) -> Volume<T> {
        let shape = voxels.dim();
        let mut direction = [1.0; 3];
        let mut origin = self.origin;
        if self.lps {
            for (axis, n) in [shape.0, shape.1].into_iter().enumerate() {
                voxels.invert_axis(Axis(axis));
                direction[axis] = -1.0;
                origin[axis] += (n as f64 - 1.0) * self.spacing[axis];
            }
            voxels = voxels.as_standard_layout().into_owned();
        }
        Volume::new(
            voxels,
            Affine::from_spacing(self.spacing, direction, origin),
        )
    }
}

/// `[k, 1 - 2k, k]` along one axis.
fn blur(array: &mut Array3<f32>, axis: Axis, k: f32) {
    for mut lane in array.lanes_mut(axis) {
        let n = lane.len();
        let mut before = lane[0];
        for i in 0..n {
            let here = lane[i];
            let after = lane[(i + 1).min(n - 1)];
            lane[i] = here + k * (before - 2.0 * here + after);
            before = here;
        }
    }
}

/// Rows of the rotation from scanner to patient coordinates.
fn rotation([about_z, about_x, about_y]: [f32; 3]) -> [Point; 3] {
    let (sz, cz) = about_z.sin_cos();
    let (sx, cx) = about_x.sin_cos();
    let (sy, cy) = about_y.sin_cos();
    let z = [[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]];
    let x = [[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]];
    let y = [[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]];
    product(&z, &product(&x, &y))
}

fn product(a: &[Point; 3], b: &[Point; 3]) -> [Point; 3] {
    std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}
