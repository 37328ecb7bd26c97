//! The map from voxel indices to patient millimetres.

use serde::{Deserialize, Serialize};

/// Maps voxel indices `(i, j, k, 1)` to RAS+ millimetres, row-major, as NIfTI and nibabel do.
///
/// # Units
/// Millimetres a voxel in the left three columns, millimetres in the last.
///
/// ```
/// use uniferum_ct::Affine;
/// let lps = Affine::from_spacing([0.7, 0.7, 1.5], [-1.0, -1.0, 1.0], [180.0, 170.0, -300.0]);
/// assert_eq!(lps.orientation(), "LPS");
/// assert!((lps.spacing()[2] - 1.5).abs() < 1e-12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Affine(pub [[f64; 4]; 4]);

impl Affine {
    /// One millimetre a voxel, RAS+, origin 0.
    pub const IDENTITY: Affine = Affine([
        [1.0, 0.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]);

    /// An axis-parallel affine.
    ///
    /// # Units
    /// `spacing` and `origin` (centre of voxel `[0, 0, 0]`) in mm; `direction` is 1 where the index
    /// grows towards right, anterior, superior and -1 where it grows the other way.
    pub fn from_spacing(spacing: [f64; 3], direction: [f64; 3], origin: [f64; 3]) -> Self {
        let mut m = Self::IDENTITY.0;
        for axis in 0..3 {
            m[axis][axis] = spacing[axis] * direction[axis];
            m[axis][3] = origin[axis];
        }
        Affine(m)
    }

    /// Distance between neighbouring voxel centres along each array axis, in mm.
    pub fn spacing(&self) -> [f64; 3] {
        std::array::from_fn(|axis| {
            let c = self.column(axis);
            (c[0] * c[0] + c[1] * c[1] + c[2] * c[2]).sqrt()
        })
    }

    /// Position of voxel `[0, 0, 0]`'s centre in RAS+ mm.
    pub fn origin(&self) -> [f64; 3] {
        self.column(3)
    }

    /// RAS+ millimetres of a (fractional) voxel index.
    pub fn apply(&self, index: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|row| {
            let r = &self.0[row];
            r[0] * index[0] + r[1] * index[1] + r[2] * index[2] + r[3]
        })
    }

    /// The affine of a grid whose voxel `[0, 0, 0]` lies at `offset` voxels of this one and whose
    /// voxels are `scale` of this one's voxels apart.
    pub fn subgrid(&self, offset: [f64; 3], scale: [f64; 3]) -> Self {
        let origin = self.apply(offset);
        let mut m = self.0;
        for row in 0..3 {
            for axis in 0..3 {
                m[row][axis] *= scale[axis];
            }
            m[row][3] = origin[row];
        }
        Affine(m)
    }

    /// `self` after `other`: first `other`, then `self`.
    pub fn compose(&self, other: &Affine) -> Self {
        let mut m = [[0.0; 4]; 4];
        for (row, out) in m.iter_mut().enumerate() {
            for (column, cell) in out.iter_mut().enumerate() {
                *cell = (0..4).map(|k| self.0[row][k] * other.0[k][column]).sum();
            }
        }
        Affine(m)
    }

    /// From RAS+ millimetres back to voxel indices; `None` where the affine is singular or not finite.
    pub fn inverse(&self) -> Option<Self> {
        let m = &self.0;
        let minor = |r0: usize, r1: usize, c0: usize, c1: usize| {
            m[r0][c0] * m[r1][c1] - m[r0][c1] * m[r1][c0]
        };
        let det = self.determinant();
        if !det.is_finite() || det.abs() < 1e-12 {
            return None;
        }
        let mut inv = Self::IDENTITY.0;
        for row in 0..3 {
            for column in 0..3 {
                let (r0, r1) = ((column + 1) % 3, (column + 2) % 3);
                let (c0, c1) = ((row + 1) % 3, (row + 2) % 3);
                inv[row][column] = minor(r0, r1, c0, c1) / det;
            }
        }
        for row in 0..3 {
            inv[row][3] = -(0..3).map(|k| inv[row][k] * m[k][3]).sum::<f64>();
        }
        Some(Affine(inv))
    }

    /// Volume of a voxel in mm³, negative for a left-handed grid.
    pub fn determinant(&self) -> f64 {
        let m = &self.0;
        m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
            - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
            + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
    }

    /// For each array axis the patient axis (0 = R, 1 = A, 2 = S) that it is closest to, and the sign.
    ///
    /// Each patient axis is used once; the largest direction cosines are assigned first.
    pub fn axes(&self) -> [(usize, f64); 3] {
        let spacing = self.spacing();
        let mut cosines: Vec<(f64, usize, usize)> = (0..3)
            .flat_map(|axis| (0..3).map(move |row| (row, axis)))
            .map(|(row, axis)| {
                (
                    self.0[row][axis] / spacing[axis].max(f64::MIN_POSITIVE),
                    row,
                    axis,
                )
            })
            .collect();
        cosines.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
        let mut out = [None; 3];
        let mut used = [false; 3];
        for (cosine, row, axis) in cosines {
            if out[axis].is_none() && !used[row] {
                out[axis] = Some((row, if cosine < 0.0 { -1.0 } else { 1.0 }));
                used[row] = true;
            }
        }
        out.map(|entry| entry.unwrap_or((0, 1.0)))
    }

    /// The direction of increasing index of each array axis, such as `"LPS"` (as nibabel's
    /// `aff2axcodes`).
    pub fn orientation(&self) -> String {
        self.axes()
            .iter()
            .map(|&(axis, sign)| {
                if sign > 0.0 {
                    ['R', 'A', 'S'][axis]
                } else {
                    ['L', 'P', 'I'][axis]
                }
            })
            .collect()
    }

    /// Largest cosine between two array axes: 0 for a rectangular grid, more for a sheared one
    /// (gantry tilt).
    pub fn shear(&self) -> f64 {
        let s = self.spacing();
        let cosine = |a: usize, b: usize| {
            (0..3)
                .map(|row| self.0[row][a] * self.0[row][b])
                .sum::<f64>()
                / (s[a] * s[b])
        };
        [cosine(0, 1), cosine(0, 2), cosine(1, 2)]
            .into_iter()
            .map(f64::abs)
            .fold(0.0, f64::max)
    }

    /// Largest angle in degrees between an array axis and the patient axis closest to it.
    pub fn obliqueness_degrees(&self) -> f64 {
        let s = self.spacing();
        let axes = self.axes();
        (0..3)
            .map(|axis| {
                (self.0[axes[axis].0][axis] / s[axis])
                    .abs()
                    .clamp(0.0, 1.0)
                    .acos()
            })
            .fold(0.0, f64::max)
            .to_degrees()
    }

    fn column(&self, axis: usize) -> [f64; 3] {
        [self.0[0][axis], self.0[1][axis], self.0[2][axis]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_undoes_apply() {
        let a = Affine([
            [0.7, 0.1, -0.2, 5.0],
            [-0.1, 0.8, 0.3, -7.0],
            [0.2, -0.25, 1.5, 11.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        let back = a.inverse().unwrap().compose(&a);
        for row in 0..4 {
            for column in 0..4 {
                let expected = f64::from(u8::from(row == column));
                assert!((back.0[row][column] - expected).abs() < 1e-12);
            }
        }
        assert!(Affine([[0.0; 4]; 4]).inverse().is_none());
    }

    #[test]
    fn orientation_names_the_direction_of_increasing_index() {
        let ipl = Affine([
            [0.0, 0.0, -0.8, 0.0],
            [0.0, -0.8, 0.0, 0.0],
            [-0.8, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]);
        assert_eq!(ipl.orientation(), "IPL");
        assert_eq!(Affine::IDENTITY.orientation(), "RAS");
        assert!(ipl.shear() < 1e-12 && ipl.obliqueness_degrees() < 1e-6);
    }
}
