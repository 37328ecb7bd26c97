//! Nodule masks from a list of centres and diameters.

use ndarray::Array3;
use uniferum_ct::{Affine, Volume};

/// A nodule as LUNA16 lists it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nodule {
    /// The centre in world coordinates, mm, LPS (as ITK and DICOM have them).
    pub centre_lps_mm: [f64; 3],
    /// The diameter, mm.
    pub diameter_mm: f64,
}

impl Nodule {
    /// The centre in the RAS+ coordinates of this crate's affines.
    pub fn centre_ras_mm(&self) -> [f64; 3] {
        let [x, y, z] = self.centre_lps_mm;
        [-x, -y, z]
    }
}

/// Draws nodules as spheres: voxels whose centre is at most the radius away, and always the nearest one.
///
/// Returns the mask and the nodules whose centre lies outside the grid, which are not drawn.
///
/// # Units
/// mm; voxels are 0 or 1.
pub fn draw_nodules(
    shape: [usize; 3],
    affine: Affine,
    nodules: &[Nodule],
) -> (Volume<u8>, Vec<Nodule>) {
    let mut voxels = Array3::zeros(shape);
    let mut outside = Vec::new();
    let Some(inverse) = affine.inverse() else {
        return (Volume::new(voxels, affine), nodules.to_vec());
    };
    let spacing = affine.spacing();
    for nodule in nodules {
        let centre = inverse.apply(nodule.centre_ras_mm());
        let within = |a: usize| centre[a] > -0.5 && centre[a] < shape[a] as f64 - 0.5;
        if !(0..3).all(within) {
            outside.push(*nodule);
            continue;
        }
        voxels[centre.map(|c| c.round() as usize)] = 1;
        let radius = nodule.diameter_mm / 2.0;
        // A sheared or oblique grid needs more than radius / spacing; twice is more than enough.
        let range = |a: usize| {
            let reach = 2.0 * radius / spacing[a] + 1.0;
            let low = (centre[a] - reach).max(0.0) as usize;
            let high = ((centre[a] + reach) as usize + 1).min(shape[a]);
            low..high
        };
        for i in range(0) {
            for j in range(1) {
                for k in range(2) {
                    let at = affine.apply([i as f64, j as f64, k as f64]);
                    let to = nodule.centre_ras_mm();
                    let squared: f64 = (0..3).map(|a| (at[a] - to[a]).powi(2)).sum();
                    if squared <= radius * radius {
                        voxels[[i, j, k]] = 1;
                    }
                }
            }
        }
    }
    (Volume::new(voxels, affine), outside)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LPS axes as a LUNA16 scan has them, 0.7 x 0.7 x 1.25 mm.
    fn grid() -> ([usize; 3], Affine) {
        let affine = Affine([
            [-0.7, 0.0, 0.0, 30.0],
            [0.0, -0.7, 0.0, 25.0],
            [0.0, 0.0, 1.25, -300.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        ([90, 80, 60], affine)
    }

    #[test]
    fn a_sphere_has_its_volume_and_its_place() {
        let (shape, affine) = grid();
        let nodule = Nodule {
            centre_lps_mm: [2.0, -1.5, -262.0],
            diameter_mm: 12.0,
        };
        let (mask, outside) = draw_nodules(shape, affine, &[nodule]);
        assert!(outside.is_empty());
        let count = mask.voxels.iter().filter(|v| **v == 1).count();
        let expected = 4.0 / 3.0 * std::f64::consts::PI * 6.0f64.powi(3) / (0.7 * 0.7 * 1.25);
        assert!(
            (count as f64 / expected - 1.0).abs() < 0.03,
            "{count} {expected}"
        );
        let mut centre = [0.0; 3];
        for ((i, j, k), _) in mask.voxels.indexed_iter().filter(|(_, v)| **v == 1) {
            let p = affine.apply([i as f64, j as f64, k as f64]);
            (0..3).for_each(|a| centre[a] += p[a] / count as f64);
        }
        // LPS (2, -1.5) is RAS (-2, 1.5).
        for (a, wanted) in [-2.0, 1.5, -262.0].into_iter().enumerate() {
            assert!((centre[a] - wanted).abs() < 0.2, "{centre:?}");
        }
    }

    #[test]
    fn tiny_nodules_keep_a_voxel_and_strays_are_told() {
        let (shape, affine) = grid();
        let tiny = Nodule {
            centre_lps_mm: [0.2, 0.2, -262.4],
            diameter_mm: 0.1,
        };
        let stray = Nodule {
            centre_lps_mm: [200.0, 0.0, -262.0],
            diameter_mm: 5.0,
        };
        let (mask, outside) = draw_nodules(shape, affine, &[tiny, stray]);
        assert_eq!(mask.voxels.iter().filter(|v| **v == 1).count(), 1);
        assert_eq!(outside, [stray]);
    }
}
