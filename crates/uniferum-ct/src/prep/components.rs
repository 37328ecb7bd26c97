//! Run-length masks and their connected components.
//!
//! A body mask of a 512x512x300 scan has tens of millions of voxels but only about a million runs
//! along z. Everything here works on the runs, so that labelling costs a fraction of the reading.

use ndarray::{Array3, ArrayView3, Axis};
use rayon::prelude::*;

/// Which neighbours of a voxel belong to its component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The 6 voxels that share a face.
    Faces,
    /// The 26 voxels that share a face, an edge or a corner.
    Corners,
}

/// Voxels `start..end` of one line along z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First voxel inside.
    pub start: u32,
    /// First voxel after the run.
    pub end: u32,
}

impl Run {
    fn len(self) -> u64 {
        u64::from(self.end - self.start)
    }
}

/// A binary mask of a volume `[X, Y, Z]`, kept as runs along z.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMask {
    shape: [usize; 3],
    /// Runs of line `x * Y + y` are `runs[lines[l]..lines[l + 1]]`.
    lines: Vec<usize>,
    runs: Vec<Run>,
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

    fn line_range(&self, line: usize) -> std::ops::Range<usize> {
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

    /// The component with the most voxels; of equals the one met first in C order. `None` if the
    /// mask is empty.
    pub fn largest_component(&self, connectivity: Connectivity) -> Option<Self> {
        let (mut sets, sizes) = self.sized(connectivity);
        let mut best = None;
        for (root, &size) in sizes.iter().enumerate() {
            if size > 0 && best.is_none_or(|(_, most)| size > most) {
                best = Some((root, size));
            }
        }
        let (root, _) = best?;
        Some(self.keep(|i| sets.find(i) == root))
    }

    /// The components with at least a `share` of the voxels of the largest, and `least` voxels, largest first.
    /// Noise makes tens of thousands of small ones, and each would be a mask of its own.
    pub fn large_components(
        &self,
        connectivity: Connectivity,
        share: f64,
        least: u64,
    ) -> Vec<Self> {
        let (mut sets, sizes) = self.sized(connectivity);
        let largest = sizes.iter().copied().max().unwrap_or(0);
        let least = ((share * largest as f64).ceil() as u64).max(least).max(1);
        let mut roots: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] >= least).collect();
        roots.sort_by_key(|&root| (std::cmp::Reverse(sizes[root]), root));
        roots
            .into_iter()
            .map(|root| self.keep(|i| sets.find(i) == root))
            .collect()
    }

    /// The components as sets of runs, and the voxels of each at the place of its root.
    fn sized(&self, connectivity: Connectivity) -> (DisjointSets, Vec<u64>) {
        let mut sets = self.label(connectivity);
        let mut sizes = vec![0u64; self.runs.len()];
        for (i, run) in self.runs.iter().enumerate() {
            sizes[sets.find(i)] += run.len();
        }
        (sets, sizes)
    }

    fn keep(&self, mut wanted: impl FnMut(usize) -> bool) -> Self {
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

    /// Joins every run with its neighbours in the lines before its own.
    fn label(&self, connectivity: Connectivity) -> DisjointSets {
        let [nx, ny, _] = self.shape;
        let mut sets = DisjointSets::new(self.runs.len());
        for x in 0..nx {
            for y in 0..ny {
                let here = self.line_range(x * ny + y);
                if here.is_empty() {
                    continue;
                }
                let mut join = |line: usize, reach: u32| {
                    self.join_lines(here.clone(), self.line_range(line), reach, &mut sets);
                };
                match connectivity {
                    Connectivity::Faces => {
                        if x > 0 {
                            join((x - 1) * ny + y, 0);
                        }
                        if y > 0 {
                            join(x * ny + y - 1, 0);
                        }
                    }
                    Connectivity::Corners => {
                        if x > 0 {
                            for other in y.saturating_sub(1)..(y + 2).min(ny) {
                                join((x - 1) * ny + other, 1);
                            }
                        }
                        if y > 0 {
                            join(x * ny + y - 1, 1);
                        }
                    }
                }
            }
        }
        sets
    }

    /// Joins the runs of two lines that overlap once grown by `reach` voxels.
    fn join_lines(
        &self,
        a: std::ops::Range<usize>,
        b: std::ops::Range<usize>,
        reach: u32,
        sets: &mut DisjointSets,
    ) {
        let (mut i, mut j) = (a.start, b.start);
        while i < a.end && j < b.end {
            let (p, q) = (self.runs[i], self.runs[j]);
            if p.start < q.end + reach && q.start < p.end + reach {
                sets.join(i, j);
            }
            if p.end < q.end {
                i += 1;
            } else {
                j += 1;
            }
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

/// Appends the runs of a contiguous line.
///
/// Sixteen voxels at a time are tested without branches; only blocks that are neither full nor
/// empty are looked at voxel by voxel.
fn scan_slice<T: Copy>(line: &[T], inside: &impl Fn(T) -> bool, runs: &mut Vec<Run>) {
    const BLOCK: usize = 16;
    let mut open: Option<u32> = None;
    let mut z = 0usize;
    let step =
        |z: usize, is_in: bool, open: &mut Option<u32>, runs: &mut Vec<Run>| match (is_in, *open) {
            (true, None) => *open = Some(z as u32),
            (false, Some(start)) => {
                runs.push(Run {
                    start,
                    end: z as u32,
                });
                *open = None;
            }
            _ => {}
        };
    let blocks = line.chunks_exact(BLOCK);
    let rest = blocks.remainder();
    for block in blocks {
        let count: u32 = block.iter().map(|&v| u32::from(inside(v))).sum();
        if count == 0 || count == BLOCK as u32 {
            step(z, count != 0, &mut open, runs);
        } else {
            for (k, &v) in block.iter().enumerate() {
                step(z + k, inside(v), &mut open, runs);
            }
        }
        z += BLOCK;
    }
    for (k, &v) in rest.iter().enumerate() {
        step(z + k, inside(v), &mut open, runs);
    }
    step(line.len(), false, &mut open, runs);
}

fn scan_line(line: impl Iterator<Item = bool>, len: usize, runs: &mut Vec<Run>) {
    let mut open: Option<u32> = None;
    for (z, is_in) in line.enumerate() {
        match (is_in, open) {
            (true, None) => open = Some(z as u32),
            (false, Some(start)) => {
                runs.push(Run {
                    start,
                    end: z as u32,
                });
                open = None;
            }
            _ => {}
        }
    }
    if let Some(start) = open {
        runs.push(Run {
            start,
            end: len as u32,
        });
    }
}

/// Union-find whose root is always the smallest member, so that labels follow C order.
struct DisjointSets {
    parent: Vec<u32>,
}

impl DisjointSets {
    fn new(len: usize) -> Self {
        Self {
            parent: (0..len as u32).collect(),
        }
    }

    fn find(&mut self, mut i: usize) -> usize {
        while self.parent[i] as usize != i {
            let grandparent = self.parent[self.parent[i] as usize];
            self.parent[i] = grandparent;
            i = grandparent as usize;
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parent[high] = low as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Flood fill, voxel by voxel: the definition.
    fn largest_by_flood_fill(mask: &Array3<bool>, connectivity: Connectivity) -> Array3<bool> {
        let (nx, ny, nz) = mask.dim();
        let mut seen = Array3::from_elem(mask.dim(), false);
        let mut best = Vec::new();
        for (seed, &is_in) in mask.indexed_iter() {
            if !is_in || seen[seed] {
                continue;
            }
            let mut members = Vec::new();
            let mut stack = vec![seed];
            seen[seed] = true;
            while let Some((x, y, z)) = stack.pop() {
                members.push((x, y, z));
                for (dx, dy, dz) in neighbours(connectivity) {
                    let (Some(u), Some(v), Some(w)) = (
                        x.checked_add_signed(dx).filter(|&u| u < nx),
                        y.checked_add_signed(dy).filter(|&v| v < ny),
                        z.checked_add_signed(dz).filter(|&w| w < nz),
                    ) else {
                        continue;
                    };
                    if mask[[u, v, w]] && !seen[[u, v, w]] {
                        seen[[u, v, w]] = true;
                        stack.push((u, v, w));
                    }
                }
            }
            if members.len() > best.len() {
                best = members;
            }
        }
        let mut out = Array3::from_elem(mask.dim(), false);
        best.into_iter().for_each(|at| out[at] = true);
        out
    }

    fn neighbours(connectivity: Connectivity) -> Vec<(isize, isize, isize)> {
        let mut all = Vec::new();
        for dx in -1..=1isize {
            for dy in -1..=1isize {
                for dz in -1..=1isize {
                    let distance = dx.abs() + dy.abs() + dz.abs();
                    let near = match connectivity {
                        Connectivity::Faces => distance == 1,
                        Connectivity::Corners => distance > 0,
                    };
                    if near {
                        all.push((dx, dy, dz));
                    }
                }
            }
        }
        all
    }

    fn masks() -> impl Strategy<Value = Array3<bool>> {
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
        fn largest_component_equals_flood_fill(mask in masks()) {
            for connectivity in [Connectivity::Faces, Connectivity::Corners] {
                let found = RunMask::from_view(mask.view(), |v| v).largest_component(connectivity);
                let found = found.map(|m| m.to_array());
                let expected = largest_by_flood_fill(&mask, connectivity);
                prop_assert_eq!(found.unwrap_or(Array3::from_elem(mask.dim(), false)), expected);
            }
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

    #[test]
    fn components_come_largest_first() {
        let mut mask = Array3::from_elem((4, 4, 9), false);
        mask[[0, 0, 0]] = true;
        (3..8).for_each(|z| mask[[2, 2, z]] = true);
        mask[[3, 3, 1]] = true;
        mask[[3, 3, 2]] = true;
        let runs = RunMask::from_view(mask.view(), |v| v);
        let sizes: Vec<u64> = runs
            .large_components(Connectivity::Faces, 0.4, 0)
            .iter()
            .map(RunMask::voxels)
            .collect();
        assert_eq!(sizes, [5, 2]);
        // Corner to corner, (3,3,2) touches (2,2,3).
        assert_eq!(
            runs.largest_component(Connectivity::Corners)
                .unwrap()
                .voxels(),
            7
        );
    }
}
