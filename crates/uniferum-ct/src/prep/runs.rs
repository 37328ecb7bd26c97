//! Binary masks as runs along z.
//!
//! A body mask of a 512x512x300 scan has tens of millions of voxels but only about a million runs along z.

use std::ops::Range;

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

/// Voxels `start..end` of one line along z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First voxel inside.
    pub start: u32,
    /// First voxel after the run.
    pub end: u32,
}

impl Run {
    pub(super) fn len(self) -> u64 {
        u64::from(self.end - self.start)
    }
}

/// A binary mask of a volume `[X, Y, Z]`, kept as runs along z.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMask {
    pub(super) shape: [usize; 3],
    /// Runs of line `x * Y + y` are `runs[lines[l]..lines[l + 1]]`.
    lines: Vec<usize>,
    pub(super) runs: Vec<Run>,
}

impl RunMask {
    /// Collects the voxels for which `inside` holds.
    ///
    /// Lines are scanned in parallel; a view whose z axis is contiguous is the fast case.
    pub fn from_view<T, F>(view: ArrayView3<'_, T>, inside: F) -> Self
    where
        T: Copy + Sync,
        F: Fn(T) -> bool + Sync,
    {
        let (nx, ny, nz) = view.dim();
        let planes: Vec<(Vec<usize>, Vec<Run>)> = (0..nx)
            .into_par_iter()
            .map(|x| {
                let plane = view.index_axis(Axis(0), x);
                let (mut counts, mut runs) = (Vec::with_capacity(ny), Vec::new());
                for line in plane.rows() {
                    let before = runs.len();
                    match line.as_slice() {
                        Some(line) => scan_slice(line, &inside, &mut runs),
                        None => scan_line(line.iter().map(|&v| inside(v)), nz, &mut runs),
                    }
                    counts.push(runs.len() - before);
                }
                (counts, runs)
            })
            .collect();
        Self::from_planes([nx, ny, nz], planes)
    }

    fn from_planes(shape: [usize; 3], planes: Vec<(Vec<usize>, Vec<Run>)>) -> Self {
        let mut lines = Vec::with_capacity(shape[0] * shape[1] + 1);
        let mut runs = Vec::with_capacity(planes.iter().map(|(_, runs)| runs.len()).sum());
        lines.push(0);
        let mut total = 0;
        for (counts, plane_runs) in planes {
            for count in counts {
                total += count;
                lines.push(total);
            }
            runs.extend_from_slice(&plane_runs);
        }
        Self { shape, lines, runs }
    }

    /// Shape `[X, Y, Z]` of the volume.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The runs of line (`x`, `y`), in order of z.
    pub fn line(&self, x: usize, y: usize) -> &[Run] {
        &self.runs[self.line_range(x * self.shape[1] + y)]
    }

    /// Numbers of the runs of a line, `x * Y + y`.
    pub(super) fn line_range(&self, line: usize) -> Range<usize> {
        self.lines[line]..self.lines[line + 1]
    }

    /// Number of voxels inside.
    pub fn voxels(&self) -> u64 {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// Whether no voxel is inside.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The runs whose number is `wanted`.
    pub(super) fn keep(&self, mut wanted: impl FnMut(usize) -> bool) -> Self {
        let mut lines = Vec::with_capacity(self.lines.len());
        let mut runs = Vec::new();
        lines.push(0);
        for line in 0..self.lines.len() - 1 {
            runs.extend(
                self.line_range(line)
                    .filter(|&i| wanted(i))
                    .map(|i| self.runs[i]),
            );
            lines.push(runs.len());
        }
        runs.shrink_to_fit();
        Self {
            shape: self.shape,
            lines,
            runs,
        }
    }

    /// The mask as an array.
    pub fn to_array(&self) -> Array3<bool> {
        let mut array = Array3::from_elem(self.shape, false);
        for (x, y, run) in self.iter() {
            for z in run.start..run.end {
                array[[x, y, z as usize]] = true;
            }
        }
        array
    }

    /// Every run with its line, in C order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, Run)> + '_ {
        let ny = self.shape[1];
        (0..self.shape[0] * ny).flat_map(move |line| {
            self.runs[self.line_range(line)]
                .iter()
                .map(move |&run| (line / ny, line % ny, run))
        })
    }

    /// Smallest box `[[first, past the last]; 3]` around the mask, `None` if it is empty.
    pub fn bounding_box(&self) -> Option<[[usize; 2]; 3]> {
        if self.is_empty() {
            return None;
        }
        let mut bounds = [[usize::MAX, 0]; 3];
        let mut grow = |axis: usize, first: usize, past: usize| {
            bounds[axis][0] = bounds[axis][0].min(first);
            bounds[axis][1] = bounds[axis][1].max(past);
        };
        for (x, y, run) in self.iter() {
            grow(0, x, x + 1);
            grow(1, y, y + 1);
            grow(2, run.start as usize, run.end as usize);
        }
        Some(bounds)
    }

    /// Mean voxel index of the mask, `None` if it is empty.
    pub fn centroid(&self) -> Option<[f64; 3]> {
        let (mut count, mut sums) = (0u64, [0u64; 3]);
        for (x, y, run) in self.iter() {
            let n = run.len();
            count += n;
            sums[0] += n * x as u64;
            sums[1] += n * y as u64;
            // Sum of an arithmetic series; start + end - 1 times n is always even.
            sums[2] += n * u64::from(run.start + run.end - 1) / 2;
        }
        (count > 0).then(|| sums.map(|sum| sum as f64 / count as f64))
    }
}

/// Puts the runs of one line together, voxel after voxel.
struct LineScan<'a> {
    runs: &'a mut Vec<Run>,
    /// Where the run that is not at its end yet has started.
    open: Option<u32>,
}

impl<'a> LineScan<'a> {
    fn new(runs: &'a mut Vec<Run>) -> Self {
        Self { runs, open: None }
    }

    /// Takes voxel `z`, and those after it up to the next call, as inside or not.
    #[inline(always)]
    fn step(&mut self, z: usize, is_in: bool) {
        match (is_in, self.open) {
            (true, None) => self.open = Some(z as u32),
            (false, Some(start)) => {
                let end = z as u32;
                self.runs.push(Run { start, end });
                self.open = None;
            }
            _ => {}
        }
    }

    /// Takes the voxels from `z` on one by one.
    #[inline(always)]
    fn steps(&mut self, z: usize, inside: impl Iterator<Item = bool>) {
        for (z, is_in) in (z..).zip(inside) {
            self.step(z, is_in);
        }
    }
}

/// Appends the runs of a contiguous line.
///
/// Sixteen voxels at a time are tested without branches; only blocks that are neither full nor
/// empty are looked at voxel by voxel.
fn scan_slice<T: Copy>(line: &[T], inside: &impl Fn(T) -> bool, runs: &mut Vec<Run>) {
    const BLOCK: usize = 16;
    let mut scan = LineScan::new(runs);
    let (blocks, rest) = line.as_chunks::<BLOCK>();
    for (z, block) in (0..).step_by(BLOCK).zip(blocks) {
        let count: u32 = block.iter().map(|&v| u32::from(inside(v))).sum();
        if count == 0 || count == BLOCK as u32 {
            scan.step(z, count != 0);
        } else {
            scan.steps(z, block.iter().map(|&v| inside(v)));
        }
    }
    scan.steps(line.len() - rest.len(), rest.iter().map(|&v| inside(v)));
    scan.step(line.len(), false);
}

/// Appends the runs of any line of `len` voxels.
fn scan_line(line: impl Iterator<Item = bool>, len: usize, runs: &mut Vec<Run>) {
    let mut scan = LineScan::new(runs);
    scan.steps(0, line);
    scan.step(len, false);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Masks of all shapes and densities.
    pub(in crate::prep) fn masks() -> impl Strategy<Value = Array3<bool>> {
        (1..6usize, 1..6usize, 1..40usize, 0.05..0.9f64).prop_flat_map(|(x, y, z, density)| {
            proptest::collection::vec(proptest::bool::weighted(density), x * y * z)
                .prop_map(move |cells| Array3::from_shape_vec((x, y, z), cells).unwrap())
        })
    }

    proptest! {
        #[test]
        fn round_trip(mask in masks()) {
            prop_assert_eq!(RunMask::from_view(mask.view(), |v| v).to_array(), mask.clone());
            let mut flipped = mask.view();
            flipped.invert_axis(Axis(0));
            flipped.invert_axis(Axis(2));
            prop_assert_eq!(RunMask::from_view(flipped, |v| v).to_array(), flipped.to_owned());
        }

        #[test]
        fn moments_equal_sums_over_voxels(mask in masks()) {
            let runs = RunMask::from_view(mask.view(), |v| v);
            let inside: Vec<_> = mask.indexed_iter().filter(|(_, v)| **v).map(|(i, _)| i).collect();
            prop_assert_eq!(runs.voxels(), inside.len() as u64);
            if inside.is_empty() {
                prop_assert!(runs.centroid().is_none() && runs.bounding_box().is_none());
            } else {
                let n = inside.len() as f64;
                let mean = [
                    inside.iter().map(|i| i.0 as f64).sum::<f64>() / n,
                    inside.iter().map(|i| i.1 as f64).sum::<f64>() / n,
                    inside.iter().map(|i| i.2 as f64).sum::<f64>() / n,
                ];
                for (found, expected) in runs.centroid().unwrap().iter().zip(mean) {
                    prop_assert!((found - expected).abs() < 1e-9);
                }
                let bounds = runs.bounding_box().unwrap();
                prop_assert_eq!(bounds[2][0], inside.iter().map(|i| i.2).min().unwrap());
                prop_assert_eq!(bounds[2][1], inside.iter().map(|i| i.2).max().unwrap() + 1);
            }
        }
    }
}
