//! Smooth random fields: a lattice of random numbers, interpolated.

use rand::Rng;

use crate::geometry::Point;
use crate::random::{Stream, stream};

const SIDE: usize = 32;

/// A periodic random field with values in -1..1 and a grain of one unit.
#[derive(Debug, Clone)]
pub(crate) struct Texture {
    lattice: Vec<f32>,
}

impl Texture {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = stream(seed, Stream::Texture);
        let lattice = (0..SIDE * SIDE * SIDE)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        Texture { lattice }
    }

    /// The value at `p / grain`.
    #[inline]
    pub(crate) fn at(&self, p: Point, grain: f32) -> f32 {
        let scale = 1.0 / grain;
        // Offset keeps coordinates positive, so that truncation is the floor.
        let x = p[0] * scale + 4096.0;
        let y = p[1] * scale + 4096.0;
        let z = p[2] * scale + 4096.0;
        let (i, j, k) = (x as usize, y as usize, z as usize);
        let (u, v, w) = (x - i as f32, y - j as f32, z - k as f32);
        let row = |i: usize, j: usize| {
            let base = (i % SIDE * SIDE + j % SIDE) * SIDE;
            let (a, b) = (
                self.lattice[base + k % SIDE],
                self.lattice[base + (k + 1) % SIDE],
            );
            a + (b - a) * w
        };
        let plane = |i: usize| {
            let (a, b) = (row(i, j), row(i, j + 1));
            a + (b - a) * v
        };
        let (a, b) = (plane(i), plane(i + 1));
        a + (b - a) * u
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_continuous_and_bounded() {
        let texture = Texture::new(3);
        let mut last = texture.at([-70.0, 3.0, 9.0], 5.0);
        for i in 0..10_000 {
            let value = texture.at([-70.0 + i as f32 * 0.02, 3.0, 9.0], 5.0);
            assert!((value - last).abs() < 0.02 && value.abs() <= 1.0);
            last = value;
        }
    }
}
