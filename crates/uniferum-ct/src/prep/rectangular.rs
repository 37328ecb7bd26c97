//! From a sheared grid, as a tilted gantry gives, to a rectangular one.
//!
//! Rows are kept as they are; each line along z is moved by what the shear moves it (and, where x and
//! y are not at right angles, each line along x before that). So nothing is interpolated across
//! rows and columns of a tilted series, and the table's direction stays the third axis.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use super::view::ras;
use crate::resample::{Interpolation, shift_weights};
use crate::{Affine, Error, Result, Volume};

/// Cosine between two array axes from which a grid counts as sheared: 0.6 mm over 300 mm.
pub const SHEARED: f64 = 0.002;

/// A rectangular grid may have so many voxels whatever the sheared one has.
const FREE_VOXELS: usize = 1 << 27;
/// Beyond them, this many times the voxels of the sheared one.
const MOST_TIMES: usize = 4;

/// The rectangular grid about a sheared one.
///
/// With `x, y, z` a voxel of the scan in RAS order, the new grid's is `x + a y, y, z + b x + c y`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rectangle {
    a: f64,
    b: f64,
    c: f64,
    /// Number of the first new voxel along x and along z.
    first: [f64; 2],
    /// Voxels of the new grid.
    shape: [usize; 3],
    affine: Affine,
    degrees: f64,
}

impl Rectangle {
    /// The grid for a scan in RAS order; `None` for one whose axes are at right angles.
    ///
    /// # Errors
    /// [`Error::Volume`] where axes are so close to each other that the grid would be many times larger.
    pub(super) fn about(affine: &Affine, shape: [usize; 3]) -> Result<Option<Self>> {
        let shear = affine.shear();
        if shear.is_nan() || shear <= SHEARED {
            return Ok(None);
        }
        let column = |a: usize| [affine.0[0][a], affine.0[1][a], affine.0[2][a]];
        let (x, y, z) = (column(0), column(1), column(2));
        // Gram and Schmidt, from z by x to y.
        let (sz, uz) = unit(z);
        let (b, c) = (dot(x, uz) / sz, dot(y, uz) / sz);
        let (sx, ux) = unit(minus(x, uz, dot(x, uz)));
        let a = dot(y, ux) / sx;
        let (sy, uy) = unit(minus(minus(y, uz, dot(y, uz)), ux, dot(y, ux)));
        let last = shape.map(|n| n.saturating_sub(1) as f64);
        let along_x = span(&[a * last[1]], last[0]);
        let along_z = span(&[b * last[0], c * last[1]], last[2]);
        let first = [along_x[0], along_z[0]];
        let len = |[low, high]: [f64; 2]| (high - low + 1.0) as usize;
        let wanted = [len(along_x), shape[1], len(along_z)];
        check_size(shape, wanted)?;
        let origin = affine.origin();
        let mut m = Affine::IDENTITY.0;
        for row in 0..3 {
            m[row][0] = sx * ux[row];
            m[row][1] = sy * uy[row];
            m[row][2] = sz * uz[row];
            m[row][3] = origin[row] + first[0] * m[row][0] + first[1] * m[row][2];
        }
        Ok(Some(Self {
            a,
            b,
            c,
            first,
            shape: wanted,
            affine: Affine(m),
            degrees: shear.min(1.0).asin().to_degrees(),
        }))
    }

    /// What a person should know.
    pub(super) fn warning(&self) -> String {
        let [x, y, z] = self.shape;
        format!(
            "the grid is sheared by {:.1} degrees: resampled onto a rectangular one of {x} x {y} x {z}",
            self.degrees
        )
    }

    /// The scan on the rectangular grid, HU held between `low` and `high`; `low` where there was none.
    pub(super) fn image(
        &self,
        scan: &Volume<f32>,
        interpolation: Interpolation,
        [low, high]: [f32; 2],
    ) -> Volume<f32> {
        let sample = |line: &[f32], start: f64, out: &mut [f32]| {
            // `max` first: what is not a number becomes air.
            let line: Vec<f32> = line.iter().map(|hu| hu.max(low).min(high)).collect();
            interpolate(&line, start, interpolation, low, out);
        };
        self.moved(&ras(scan).0.view(), low, sample)
    }

    /// Labels on the rectangular grid, each the nearest; 0 where there was none.
    pub(super) fn labels(&self, mask: &Volume<u8>) -> Volume<u8> {
        self.moved(&ras(mask).0.view(), 0, nearest)
    }

    fn moved<T: Copy + Default + Send + Sync>(
        &self,
        voxels: &ArrayView3<'_, T>,
        fill: T,
        sample: impl Fn(&[T], f64, &mut [T]) + Sync,
    ) -> Volume<T> {
        let [nx, _, nz] = self.shape;
        let [x0, z0] = self.first;
        let x_of = |x: usize, y: usize| x0 + x as f64 - self.a * y as f64;
        let start = |x: usize, y: usize| z0 - self.b * x_of(x, y) - self.c * y as f64;
        let moved = if nx == voxels.shape()[0] {
            move_lines(voxels, nz, fill, start, sample)
        } else {
            let lines = voxels.view().permuted_axes([1, 2, 0]);
            let across = move_lines(&lines, nx, fill, |y, _| x_of(0, y), &sample);
            let lines = across.view().permuted_axes([2, 0, 1]);
            move_lines(&lines, nz, fill, start, sample)
        };
        Volume::new(moved, self.affine)
    }
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

/// `a - share * b`.
fn minus(a: [f64; 3], b: [f64; 3], share: f64) -> [f64; 3] {
    std::array::from_fn(|i| a[i] - share * b[i])
}

/// Length and direction.
fn unit(a: [f64; 3]) -> (f64, [f64; 3]) {
    let length = dot(a, a).sqrt();
    (length, a.map(|c| c / length))
}

/// First and last whole number that `0..=last` reaches when it is moved by any part of each of `moves`.
fn span(moves: &[f64], last: f64) -> [f64; 2] {
    let low: f64 = moves.iter().map(|m| m.min(0.0)).sum();
    let high: f64 = moves.iter().map(|m| m.max(0.0)).sum();
    [(low + 1e-3).floor(), (last + high - 1e-3).ceil()]
}

fn check_size(from: [usize; 3], to: [usize; 3]) -> Result<()> {
    let voxels = |shape: [usize; 3]| {
        let product = shape
            .iter()
            .try_fold(1usize, |n, &side| n.checked_mul(side));
        product.unwrap_or(usize::MAX)
    };
    let most = voxels(from).saturating_mul(MOST_TIMES).max(FREE_VOXELS);
    if voxels(to) <= most {
        return Ok(());
    }
    let expected = format!("a rectangular grid of at most {most} voxels about it");
    Err(Error::volume(
        "shear of the grid",
        expected,
        format!("{to:?}"),
    ))
}

/// Makes each line along the last axis anew: `sample(line, start, out)` with the position of the first
/// output on the line.
fn move_lines<T: Copy + Send + Sync>(
    input: &ArrayView3<'_, T>,
    len: usize,
    fill: T,
    start: impl Fn(usize, usize) -> f64 + Sync,
    sample: impl Fn(&[T], f64, &mut [T]) + Sync,
) -> Array3<T> {
    let (n0, n1, _) = input.dim();
    let mut out = Array3::from_elem((n0.max(1), n1, len), fill);
    out.axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(i, mut plane)| {
            for (j, mut cells) in plane.rows_mut().into_iter().enumerate() {
                let line = input
                    .index_axis(Axis(0), i)
                    .index_axis_move(Axis(0), j)
                    .to_vec();
                if let Some(cells) = cells.as_slice_mut() {
                    sample(&line, start(i, j), cells);
                }
            }
        });
    out
}

/// The outputs, one sample apart from `start` on, that lie within half a sample of a line of `len`.
fn within(start: f64, len: usize, outputs: usize) -> std::ops::Range<usize> {
    let first = (-0.5 - 1e-6 - start).ceil().max(0.0);
    let past = (len as f64 - 0.5 + 1e-6 - start).floor() + 1.0;
    let past = past.clamp(0.0, outputs as f64);
    (first.min(past) as usize)..(past as usize)
}

/// Values of a line one sample apart from `start` on, `air` beyond its ends.
fn interpolate(line: &[f32], start: f64, interpolation: Interpolation, air: f32, out: &mut [f32]) {
    out.fill(air);
    let range = within(start, line.len(), out.len());
    let (Some(&left), Some(&right)) = (line.first(), line.last()) else {
        return;
    };
    let base = start.floor();
    let (offset, weights) = shift_weights(start - base, interpolation);
    // Both ends repeated as far as the taps reach.
    let margin = weights.len() + 2;
    let mut padded = vec![left; margin];
    padded.extend_from_slice(line);
    padded.resize(line.len() + 2 * margin, right);
    let out = &mut out[range.clone()];
    if out.is_empty() {
        return;
    }
    let from = (base as isize + range.start as isize + offset + margin as isize) as usize;
    out.fill(0.0);
    for (t, &weight) in weights.iter().enumerate() {
        for (sum, &hu) in out.iter_mut().zip(&padded[from + t..]) {
            *sum += weight * hu;
        }
    }
}

/// The nearest label of a line one sample apart from `start` on, 0 beyond its ends.
fn nearest(line: &[u8], start: f64, out: &mut [u8]) {
    out.fill(0);
    let Some(last) = line.len().checked_sub(1) else {
        return;
    };
    for k in within(start, line.len(), out.len()) {
        let at = (start + k as f64 + 0.5).floor().clamp(0.0, last as f64);
        out[k] = line[at as usize];
    }
}

/// The scan on a rectangular grid, as [`standardise`](super::standardise) works on it: for pictures of a
/// sheared scan. One whose axes are at right angles is given back as it is.
///
/// # Units
/// HU.
///
/// # Errors
/// [`Error::Volume`] where axes are so close to each other that the grid would be many times larger.
pub fn rectangular(scan: Volume<f32>) -> Result<Volume<f32>> {
    let (view, affine) = scan.ras_view();
    let Some(rectangle) = Rectangle::about(&affine, view.dim().into())? else {
        return Ok(scan);
    };
    Ok(rectangle.image(&scan, Interpolation::Linear, [-1024.0, 3071.0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 0.8 x 0.9 x 2 mm, sheared in every way, about RAS.
    fn sheared() -> Affine {
        Affine([
            [0.80, 0.10, 0.15, -30.0],
            [0.02, 0.88, -0.40, 12.0],
            [-0.05, 0.30, 1.95, 7.0],
            [0.0, 0.0, 0.0, 1.0],
        ])
    }

    #[test]
    fn the_new_grid_is_rectangular_and_holds_the_old_one() {
        let (affine, shape) = (sheared(), [20, 15, 10]);
        let new = Rectangle::about(&affine, shape).unwrap().unwrap();
        assert!(new.affine.shear() < 1e-12);
        assert!((new.affine.determinant() - affine.determinant()).abs() < 1e-9);
        let inverse = new.affine.inverse().unwrap();
        for corner in 0..8 {
            let index: [f64; 3] =
                std::array::from_fn(|a| (corner >> a & 1) as f64 * (shape[a] - 1) as f64);
            let at = inverse.apply(affine.apply(index));
            for a in 0..3 {
                let inside = -0.01..=new.shape[a] as f64 - 0.99;
                assert!(inside.contains(&at[a]), "{at:?} of {:?}", new.shape);
            }
        }
        let right = Affine::from_spacing([0.8, 0.9, 2.0], [1.0; 3], [0.0; 3]);
        assert_eq!(Rectangle::about(&right, shape).unwrap(), None);
    }

    /// A plane through space stays that plane: linear interpolation has no error on it.
    #[test]
    fn values_and_labels_are_those_of_the_same_place() {
        let (affine, shape) = (sheared(), [24, 22, 20]);
        let value = |p: [f64; 3]| (3.0 * p[0] - 2.0 * p[1] + 1.5 * p[2]) as f32;
        let place = |(i, j, k): (usize, usize, usize)| affine.apply([i as f64, j as f64, k as f64]);
        let scan = Volume::new(Array3::from_shape_fn(shape, |i| value(place(i))), affine);
        let split = |p: [f64; 3]| u8::from(p[2] > 30.0) + 1;
        let mask = Volume::new(Array3::from_shape_fn(shape, |i| split(place(i))), affine);
        let new = Rectangle::about(&affine, shape).unwrap().unwrap();
        let (labels, back) = (new.labels(&mask), affine.inverse().unwrap());
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            let image = new.image(&scan, interpolation, [-1e4, 1e4]);
            let mut inside = 0;
            for ((i, j, k), &found) in image.voxels.indexed_iter() {
                let p = new.affine.apply([i as f64, j as f64, k as f64]);
                let at = back.apply(p);
                let within = |margin: f64| {
                    (0..3).all(|a| (margin..=shape[a] as f64 - 1.0 - margin).contains(&at[a]))
                };
                // The spline needs some samples to each side.
                let margin = if interpolation == Interpolation::Cubic {
                    7.0
                } else {
                    0.1
                };
                if within(margin) {
                    inside += 1;
                    assert!((found - value(p)).abs() < 0.02, "{found} and {}", value(p));
                }
                if within(0.1) && (p[2] - 30.0).abs() > 1.5 {
                    assert_eq!(labels.voxels[[i, j, k]], split(p), "{p:?}");
                }
                if !within(-1.1) {
                    assert!(found < -9999.9 && labels.voxels[[i, j, k]] == 0);
                }
            }
            assert!(inside > 200, "{inside}");
        }
    }

    #[test]
    fn axes_that_nearly_coincide_are_refused() {
        let mut flat = Affine::IDENTITY;
        flat.0[1][2] = 1e-3;
        flat.0[2][2] = 1e-4;
        let error = Rectangle::about(&flat, [512, 512, 512]).unwrap_err();
        assert!(error.to_string().contains("shear of the grid"), "{error}");
    }
}
