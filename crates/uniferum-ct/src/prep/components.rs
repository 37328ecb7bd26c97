//! Connected components of run-length masks.
//!
//! Everything here works on the runs, of which there are far fewer than voxels, so that labelling costs a
//! fraction of the reading.

use std::ops::Range;

pub use super::runs::{Run, RunMask};

/// Which neighbours of a voxel belong to its component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The 6 voxels that share a face.
    Faces,
    /// The 26 voxels that share a face, an edge or a corner.
    Corners,
}

impl Connectivity {
    /// By how many voxels runs of neighbouring planes may miss each other along y and z and still touch.
    fn reach(self) -> usize {
        match self {
            Connectivity::Faces => 0,
            Connectivity::Corners => 1,
        }
    }
}

impl RunMask {
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

    /// Joins every run with its neighbours in the lines before its own.
    fn label(&self, connectivity: Connectivity) -> DisjointSets {
        let [nx, ny, _] = self.shape;
        let reach = connectivity.reach();
        let mut sets = DisjointSets::new(self.runs.len());
        for x in 0..nx {
            for y in 0..ny {
                let here = self.line_range(x * ny + y);
                if here.is_empty() {
                    continue;
                }
                let mut join = |line: usize| {
                    let there = self.line_range(line);
                    self.join_lines(here.clone(), there, reach as u32, &mut sets);
                };
                if x > 0 {
                    for other in y.saturating_sub(reach)..(y + reach + 1).min(ny) {
                        join((x - 1) * ny + other);
                    }
                }
                if y > 0 {
                    join(x * ny + y - 1);
                }
            }
        }
        sets
    }

    /// Joins the runs of two lines that overlap once grown by `reach` voxels.
    fn join_lines(&self, a: Range<usize>, b: Range<usize>, reach: u32, sets: &mut DisjointSets) {
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
    use ndarray::Array3;
    use proptest::prelude::*;

    use super::*;
    use crate::prep::runs::tests::masks;

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

    proptest! {
        #[test]
        fn largest_component_equals_flood_fill(mask in masks()) {
            for connectivity in [Connectivity::Faces, Connectivity::Corners] {
                let found = RunMask::from_view(mask.view(), |v| v).largest_component(connectivity);
                let found = found.map(|m| m.to_array());
                let expected = largest_by_flood_fill(&mask, connectivity);
                prop_assert_eq!(found.unwrap_or(Array3::from_elem(mask.dim(), false)), expected);
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
