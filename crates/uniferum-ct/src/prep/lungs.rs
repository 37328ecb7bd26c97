//! Where the lungs begin and end along z.

use std::collections::VecDeque;

use ndarray::{Array3, ArrayView1, ArrayView3, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::components::{Connectivity, RunMask};
use super::hull::SliceHulls;

/// TotalSegmentator v2 numbers of the five lung lobes.
pub const LUNG_LABELS: std::ops::RangeInclusive<u8> = 10..=14;

/// Air and lung are below, every tissue above (HU).
const AIR_BELOW_HU: f32 = -400.0;

/// In-plane distance of the samples an estimate looks at (mm).
const ESTIMATE_SPACING_MM: f64 = 2.5;

/// Less air than this inside the body is no lung (mm³; a quarter of a litre).
const LEAST_LUNG_MM3: f64 = 250_000.0;

/// How the lung range was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LungSource {
    /// From the lung lobes of a mask.
    Mask,
    /// From the air inside the body.
    Estimate,
}

/// First and last slice along z that holds lung.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LungRange {
    /// First slice, counted from the feet in RAS order.
    pub first: usize,
    /// Last slice, included.
    pub last: usize,
    /// Where it comes from.
    pub source: LungSource,
}

/// Slices along z that hold a lobe of the lung, `[first, last]`; `None` without any.
pub(crate) fn lung_slices(mask: ArrayView3<'_, u8>) -> Option<[usize; 2]> {
    let len = mask.len_of(Axis(2));
    let has_lung: Vec<bool> = (0..mask.len_of(Axis(0)))
        .into_par_iter()
        .fold(
            || vec![false; len],
            |mut seen, x| {
                mask.index_axis(Axis(0), x)
                    .rows()
                    .into_iter()
                    .for_each(|line| mark(&mut seen, line));
                seen
            },
        )
        .reduce(
            || vec![false; len],
            |mut a, b| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
                a
            },
        );
    let first = has_lung.iter().position(|&v| v)?;
    let last = has_lung.iter().rposition(|&v| v)?;
    Some([first, last])
}

fn mark(seen: &mut [bool], line: ArrayView1<'_, u8>) {
    let is_lung = |v: u8| v.wrapping_sub(*LUNG_LABELS.start()) <= 4;
    match line.as_slice() {
        Some(line) => seen
            .iter_mut()
            .zip(line)
            .for_each(|(s, &v)| *s |= is_lung(v)),
        None => seen
            .iter_mut()
            .zip(line)
            .for_each(|(s, &v)| *s |= is_lung(v)),
    }
}

/// Estimates the lung slices `[first, last]` along z from the air enclosed by the body.
///
/// In every axial slice, air that lies inside the convex hull of the body and has no way to the
/// edge of the slice counts; of its components in 3-D the largest and those with at least a fifth
/// of its size are the lungs. `None` when that is less than a quarter of a litre.
///
/// Works for a scan of the chest with or without the abdomen. Arms, bowel gas and the table do not
/// mislead it; a lung that is open to the outside in every slice would.
pub(crate) fn estimate_lung_slices(
    scan: ArrayView3<'_, f32>,
    hulls: &SliceHulls,
    spacing: [f64; 3],
) -> Option<[usize; 2]> {
    let (nx, ny, nz) = scan.dim();
    let stride =
        [spacing[0], spacing[1]].map(|mm| (ESTIMATE_SPACING_MM / mm).floor().max(1.0) as usize);
    let (mx, my) = (nx.div_ceil(stride[0]), ny.div_ceil(stride[1]));
    let mut samples = Array3::from_elem((mx, my, nz), false);
    samples
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(i, mut plane)| {
            for (j, mut line) in plane.rows_mut().into_iter().enumerate() {
                for (z, cell) in line.iter_mut().enumerate() {
                    *cell = scan[[i * stride[0], j * stride[1], z]] < AIR_BELOW_HU;
                }
            }
        });
    let mut enclosed = Array3::from_elem((nz, mx, my), false);
    enclosed
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .enumerate()
        .for_each(|(z, mut slice)| {
            let air = |i: usize, j: usize| samples[[i, j, z]];
            let outside = air_open_to_the_edge(mx, my, air);
            for ((i, j), cell) in slice.indexed_iter_mut() {
                *cell = air(i, j)
                    && !outside[i * my + j]
                    && hulls.contains(i * stride[0], j * stride[1], z);
            }
        });
    // Runs go along the last axis; any order of axes gives the same components.
    let runs = RunMask::from_view(enclosed.view(), |v| v);
    let voxel_mm3 = spacing.iter().product::<f64>() * (stride[0] * stride[1]) as f64;
    let least = (LEAST_PART * LEAST_LUNG_MM3 / voxel_mm3) as u64;
    let lungs = runs.large_components(Connectivity::Faces, LUNG_SHARE, least);
    let (mut first, mut last, mut voxels) = (usize::MAX, 0, 0);
    for lung in lungs {
        let bounds = lung.bounding_box()?;
        first = first.min(bounds[0][0]);
        last = last.max(bounds[0][1] - 1);
        voxels += lung.voxels();
    }
    (voxels as f64 * voxel_mm3 >= LEAST_LUNG_MM3).then_some([first, last])
}

/// Of the largest component's voxels: a smaller one is no lung.
const LUNG_SHARE: f64 = 0.2;

/// Of the least volume of lungs: smaller ones are noise, where there are no lungs.
const LEAST_PART: f64 = 0.01;

/// Flood fill of `air` from the edge of a slice of `mx` x `my` samples.
fn air_open_to_the_edge(mx: usize, my: usize, air: impl Fn(usize, usize) -> bool) -> Vec<bool> {
    let mut open = vec![false; mx * my];
    let mut queue = VecDeque::new();
    let mut visit = |i: usize, j: usize, queue: &mut VecDeque<(usize, usize)>| {
        if !open[i * my + j] && air(i, j) {
            open[i * my + j] = true;
            queue.push_back((i, j));
        }
    };
    for i in 0..mx {
        visit(i, 0, &mut queue);
        visit(i, my - 1, &mut queue);
    }
    for j in 0..my {
        visit(0, j, &mut queue);
        visit(mx - 1, j, &mut queue);
    }
    while let Some((i, j)) = queue.pop_front() {
        if i > 0 {
            visit(i - 1, j, &mut queue);
        }
        if j > 0 {
            visit(i, j - 1, &mut queue);
        }
        if i + 1 < mx {
            visit(i + 1, j, &mut queue);
        }
        if j + 1 < my {
            visit(i, j + 1, &mut queue);
        }
    }
    open
}
