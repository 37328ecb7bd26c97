//! From tissues and solids to voxels: planes of constant x in parallel.

use ndarray::Array3;
use rayon::prelude::*;

use crate::geometry::{Bounds, Point, Solid};
use crate::patient::Patient;
use crate::texture::Texture;
use crate::tissue::{Class, Over};

/// A solid and what its voxels become.
#[derive(Debug, Clone)]
pub(crate) struct Paint {
    pub(crate) solid: Solid,
    pub(crate) over: Over,
    pub(crate) class: Class,
    pub(crate) hu: f32,
    pub(crate) label: Mark,
}

/// What a paint does to the label map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Leaves it.
    Keep,
    /// Sets the number; 0 clears it.
    Set(u8),
    /// Leaves it and marks the voxel in the nodule mask.
    Nodule,
}

/// A change of the lung's tissue, point by point.
pub(crate) trait Alter: Sync {
    /// New class and HU of a lung voxel, or `None` to leave it.
    fn alter(&self, p: Point, texture: &Texture) -> Option<(Class, f32)>;
}

/// Voxel grid in the patient's frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) shape: [usize; 3],
    pub(crate) spacing: Point,
    /// Rows: the patient's axes in scanner coordinates.
    pub(crate) rotation: [Point; 3],
    pub(crate) shift: Point,
}

impl Grid {
    fn scanner_point(&self, index: [f32; 3]) -> Point {
        std::array::from_fn(|a| (index[a] - (self.shape[a] as f32 - 1.0) / 2.0) * self.spacing[a])
    }

    /// Where a voxel lies in the patient, mm.
    pub(crate) fn point(&self, index: [usize; 3]) -> Point {
        let w = self.scanner_point(index.map(|i| i as f32));
        let d: Point = std::array::from_fn(|a| w[a] - self.shift[a]);
        std::array::from_fn(|a| (0..3).map(|b| self.rotation[a][b] * d[b]).sum())
    }

    /// The voxels whose centres may lie in a box of the patient.
    fn voxel_box(&self, bounds: &Bounds) -> [[usize; 2]; 3] {
        let mut low = [f32::MAX; 3];
        let mut high = [f32::MIN; 3];
        for corner in bounds.corners() {
            for a in 0..3 {
                let w: f32 =
                    (0..3).map(|b| self.rotation[b][a] * corner[b]).sum::<f32>() + self.shift[a];
                let index = w / self.spacing[a] + (self.shape[a] as f32 - 1.0) / 2.0;
                low[a] = low[a].min(index);
                high[a] = high[a].max(index);
            }
        }
        std::array::from_fn(|a| {
            let n = self.shape[a] as f32;
            let start = low[a].floor().clamp(0.0, n) as usize;
            [
                start,
                (high[a].ceil() + 1.0).clamp(start as f32, n) as usize,
            ]
        })
    }
}

/// The rendered body.
pub(crate) struct Rendered {
    pub(crate) hu: Array3<f32>,
    pub(crate) labels: Array3<u8>,
    pub(crate) nodules: Array3<u8>,
}

pub(crate) fn render(
    grid: &Grid,
    patient: &Patient,
    texture: &Texture,
    alterations: &[Box<dyn Alter>],
    paints: &[Paint],
) -> Rendered {
    let [nx, ny, nz] = grid.shape;
    let size = ny * nz;
    let boxes: Vec<_> = paints
        .iter()
        .map(|p| grid.voxel_box(&p.solid.bounds(0.0)))
        .collect();
    let mut hu = vec![0.0f32; nx * size];
    let mut labels = vec![0u8; nx * size];
    let mut nodules = vec![0u8; nx * size];
    hu.par_chunks_mut(size)
        .zip(labels.par_chunks_mut(size))
        .zip(nodules.par_chunks_mut(size))
        .enumerate()
        .for_each(|(x, ((hu, labels), nodules))| {
            let mut plane = Plane {
                grid,
                texture,
                x,
                classes: vec![0u8; size],
                hu,
                labels,
                nodules,
            };
            plane.fill(patient, alterations);
            for (paint, voxels) in paints.iter().zip(&boxes) {
                plane.paint(paint, voxels);
            }
        });
    let array = |data| Array3::from_shape_vec(grid.shape, data);
    Rendered {
        hu: Array3::from_shape_vec(grid.shape, hu).unwrap_or_default(),
        labels: array(labels).unwrap_or_default(),
        nodules: array(nodules).unwrap_or_default(),
    }
}

/// The voxels of one x in the making, z fastest.
struct Plane<'a> {
    grid: &'a Grid,
    texture: &'a Texture,
    x: usize,
    /// The [`Class`] of each voxel, which decides what a paint may cover.
    classes: Vec<u8>,
    hu: &'a mut [f32],
    labels: &'a mut [u8],
    nodules: &'a mut [u8],
}

impl Plane<'_> {
    /// The patient's tissues, those of the lung altered.
    fn fill(&mut self, patient: &Patient, alterations: &[Box<dyn Alter>]) {
        let [_, ny, nz] = self.grid.shape;
        for y in 0..ny {
            for z in 0..nz {
                let i = y * nz + z;
                let p = self.grid.point([self.x, y, z]);
                let tissue = patient.tissue(p);
                (self.classes[i], self.labels[i]) = (tissue.class as u8, tissue.label);
                self.hu[i] = tissue.hu
                    + match tissue.class {
                        Class::Lung => 28.0 * self.texture.at(p, 7.0),
                        Class::Outside => 0.0,
                        _ => 9.0 * self.texture.at(p, 9.0),
                    };
                if tissue.class == Class::Lung {
                    self.alter(i, p, alterations);
                }
            }
        }
    }

    /// The last of the alterations that speaks of a lung voxel decides.
    fn alter(&mut self, i: usize, p: Point, alterations: &[Box<dyn Alter>]) {
        for alteration in alterations {
            if let Some((class, hu)) = alteration.alter(p, self.texture) {
                (self.classes[i], self.hu[i]) = (class as u8, hu);
                if class != Class::Lung {
                    self.labels[i] = 0;
                }
            }
        }
    }

    /// What of a paint lies in the plane, over the classes that it may cover, inside a box of voxels.
    fn paint(&mut self, paint: &Paint, [xs, ys, zs]: &[[usize; 2]; 3]) {
        if !(xs[0]..xs[1]).contains(&self.x) {
            return;
        }
        let nz = self.grid.shape[2];
        for y in ys[0]..ys[1] {
            for z in zs[0]..zs[1] {
                let i = y * nz + z;
                if !paint.over.allows(self.classes[i]) {
                    continue;
                }
                let p = self.grid.point([self.x, y, z]);
                if paint.solid.depth(p) < 0.0 {
                    continue;
                }
                self.classes[i] = paint.class as u8;
                self.hu[i] = paint.hu + 7.0 * self.texture.at(p, 6.0);
                match paint.label {
                    Mark::Keep => {}
                    Mark::Set(label) => self.labels[i] = label,
                    Mark::Nodule => self.nodules[i] = 1,
                }
            }
        }
    }
}
