//! The augmentation step by step, as MONAI does it: the reference of the fused path.
//!
//! Five passes over volumes of full size, for tests and for doubters. Training uses
//! [`ModelTransform::model_array_augmented`], one pass.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

use super::augment::AugmentDraw;
use super::field::{crop, field_of, padding, restore, zoomed_len};
use super::model::{ModelTransform, PER_HU, label_table};
use crate::resample::{AxisOperator, pick, resample};
use crate::{Result, Volume};

/// Pads, rotates (trilinear, edge repeated), zooms (area), crops and resizes (area), in this order,
/// without noise and offset.
///
/// # Shapes
/// `transform.shape`.
///
/// # Errors
/// As [`ModelTransform::model_array`].
pub fn model_array(
    transform: &ModelTransform,
    volume: &Volume<i16>,
    draw: &AugmentDraw,
) -> Result<Array3<f32>> {
    transform.check(volume)?;
    let field = field_of(transform, volume.shape());
    let padded = separable(volume.voxels.view(), field, padding, |hu| {
        (f32::from(hu) + 1000.0) * PER_HU
    });
    let turned = if draw.rotates() {
        rotate(padded.view(), draw)
    } else {
        padded
    };
    let zoomed = field.map(|n| zoomed_len(n, draw.zoom));
    let turned = separable(turned.view(), zoomed, AxisOperator::area, |v| v);
    let turned = separable(turned.view(), field, restore, |v| v);
    let cropped = separable(turned.view(), transform.crop, crop, |v| v);
    Ok(separable(
        cropped.view(),
        transform.shape,
        AxisOperator::area,
        |v| v,
    ))
}

/// The same steps for a mask, nearest in each.
///
/// # Errors
/// As [`ModelTransform::model_mask`].
pub fn model_mask(
    transform: &ModelTransform,
    mask: &Volume<u8>,
    labels: &[u16],
    draw: &AugmentDraw,
) -> Result<Array3<u8>> {
    transform.check(mask)?;
    let wanted = label_table(labels)?;
    let field = field_of(transform, mask.shape());
    let inside = |label: u8| u8::from(wanted[usize::from(label)]);
    let padded = picked(mask.voxels.view(), field, padding, inside);
    let turned = if draw.rotates() {
        rotate_nearest(padded.view(), draw)
    } else {
        padded
    };
    let zoomed = field.map(|n| zoomed_len(n, draw.zoom));
    let turned = picked(turned.view(), zoomed, AxisOperator::nearest, |v| v);
    let turned = picked(turned.view(), field, restore, |v| v);
    let cropped = picked(turned.view(), transform.crop, crop, |v| v);
    Ok(picked(
        cropped.view(),
        transform.shape,
        AxisOperator::nearest,
        |v| v,
    ))
}

fn operators(
    from: &[usize],
    to: [usize; 3],
    step: impl Fn(usize, usize) -> AxisOperator,
) -> [AxisOperator; 3] {
    std::array::from_fn(|a| step(from[a], to[a]))
}

fn separable<T: Copy + Sync + Send>(
    input: ArrayView3<'_, T>,
    shape: [usize; 3],
    step: impl Fn(usize, usize) -> AxisOperator,
    load: impl Fn(T) -> f32 + Copy + Send + Sync,
) -> Array3<f32> {
    let ops = operators(input.shape(), shape, step);
    resample(input, [&ops[0], &ops[1], &ops[2]], load, |v| v)
}

fn picked(
    input: ArrayView3<'_, u8>,
    shape: [usize; 3],
    step: impl Fn(usize, usize) -> AxisOperator,
    load: impl Fn(u8) -> u8 + Sync,
) -> Array3<u8> {
    let ops = operators(input.shape(), shape, step);
    pick(input, [&ops[0], &ops[1], &ops[2]], 0, load)
}

/// Source position of each voxel of a turned volume.
fn sources(shape: [usize; 3], draw: &AugmentDraw) -> impl Fn([usize; 3]) -> [f64; 3] + Sync {
    let rotation = draw.rotation();
    let centre = shape.map(|n| (n as f64 - 1.0) / 2.0);
    move |index| {
        let offset: [f64; 3] = std::array::from_fn(|a| index[a] as f64 - centre[a]);
        std::array::from_fn(|r| {
            let at = centre[r] + (0..3).map(|c| rotation[r][c] * offset[c]).sum::<f64>();
            at.clamp(0.0, shape[r] as f64 - 1.0)
        })
    }
}

fn rotate(input: ArrayView3<'_, f32>, draw: &AugmentDraw) -> Array3<f32> {
    let source = sources(input.dim().into(), draw);
    turned(input, |index| {
        let at = source(index);
        let low = at.map(|v| v as usize);
        let mut sum = 0.0;
        for corner in 0..8 {
            let (mut weight, mut cell) = (1.0, low);
            for a in 0..3 {
                let share = at[a] - low[a] as f64;
                if corner >> a & 1 == 1 {
                    weight *= share;
                    cell[a] = (low[a] + 1).min(input.shape()[a] - 1);
                } else {
                    weight *= 1.0 - share;
                }
            }
            sum += weight * f64::from(input[cell]);
        }
        sum as f32
    })
}

fn rotate_nearest(input: ArrayView3<'_, u8>, draw: &AugmentDraw) -> Array3<u8> {
    let source = sources(input.dim().into(), draw);
    turned(input, |index| {
        input[source(index).map(|v| v.round() as usize)]
    })
}

fn turned<T: Copy + Default + Send + Sync>(
    input: ArrayView3<'_, T>,
    value: impl Fn([usize; 3]) -> T + Sync,
) -> Array3<T> {
    let mut out = Array3::from_elem(input.raw_dim(), T::default());
    out.axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(x, mut plane)| {
            plane
                .indexed_iter_mut()
                .for_each(|((y, z), cell)| *cell = value([x, y, z]));
        });
    out
}
