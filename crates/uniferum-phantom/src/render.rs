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
    let plane = ny * nz;
    let boxes: Vec<_> = paints
        .iter()
        .map(|p| grid.voxel_box(&p.solid.bounds(0.0)))
        .collect();
    let mut hu = vec![0.0f32; nx * plane];
    let mut labels = vec![0u8; nx * plane];
    let mut nodules = vec![0u8; nx * plane];
    hu.par_chunks_mut(plane)
        .zip(labels.par_chunks_mut(plane))
        .zip(nodules.par_chunks_mut(plane))
        .enumerate()
        .for_each(|(x, ((hu, labels), nodules))| {
            let mut classes = vec![0u8; plane];
            for y in 0..ny {
                for z in 0..nz {
                    let i = y * nz + z;
                    let p = grid.point([x, y, z]);
                    let tissue = patient.tissue(p);
                    (classes[i], hu[i], labels[i]) = (tissue.class as u8, tissue.hu, tissue.label);
                    match tissue.class {
                        Class::Lung => hu[i] += 28.0 * texture.at(p, 7.0),
                        Class::Outside => {}
                        _ => hu[i] += 9.0 * texture.at(p, 9.0),
                    }
                    if tissue.class == Class::Lung {
                        for alteration in alterations {
                            if let Some((class, value)) = alteration.alter(p, texture) {
                                (classes[i], hu[i]) = (class as u8, value);
                                if class != Class::Lung {
                                    labels[i] = 0;
                                }
                            }
                        }
                    }
                }
            }
            for (paint, [xs, ys, zs]) in paints.iter().zip(&boxes) {
                if !(xs[0]..xs[1]).contains(&x) {
                    continue;
                }
                for y in ys[0]..ys[1] {
                    for z in zs[0]..zs[1] {
                        let i = y * nz + z;
                        if !paint.over.allows(classes[i]) {
                            continue;
                        }
                        let p = grid.point([x, y, z]);
                        if paint.solid.depth(p) < 0.0 {
                            continue;
                        }
                        classes[i] = paint.class as u8;
                        hu[i] = paint.hu + 7.0 * texture.at(p, 6.0);
                        match paint.label {
                            Mark::Keep => {}
                            Mark::Set(label) => labels[i] = label,
                            Mark::Nodule => nodules[i] = 1,
                        }
                    }
                }
            }
        });
    let array = |data| Array3::from_shape_vec(grid.shape, data);
    Rendered {
        hu: Array3::from_shape_vec(grid.shape, hu).unwrap_or_default(),
        labels: array(labels).unwrap_or_default(),
        nodules: array(nodules).unwrap_or_default(),
    }
}
