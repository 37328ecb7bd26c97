//! From a mask on the model's grid to the target of the mask head.

use ndarray::ArrayView3;

use crate::error::{Error, Result};

/// Voxels along each side of a vision token's field.
const TOKEN: usize = 32;

/// How a mask is pooled and cut into patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskGrid {
    /// Mask logits along each side of a token.
    pub patch: usize,
    /// Tokens along x, y, z.
    pub tokens: [usize; 3],
}

impl MaskGrid {
    /// The grid of a model array of `shape` voxels.
    ///
    /// # Errors
    /// [`Error::Config`] where sides are not multiples of 32, or 32 not one of `patch`.
    pub fn new(shape: [usize; 3], patch: usize) -> Result<Self> {
        if shape.iter().any(|n| *n == 0 || n % TOKEN != 0) {
            return Err(Error::config(
                "model shape",
                "sides that are multiples of 32",
                format!("{shape:?}"),
            ));
        }
        if patch == 0 || !TOKEN.is_multiple_of(patch) {
            return Err(Error::config("patch", "a divisor of 32", patch));
        }
        Ok(Self {
            patch,
            tokens: shape.map(|n| n / TOKEN),
        })
    }

    /// Number of tokens and of logits each, `[L, P]`.
    pub fn target_shape(&self) -> [usize; 2] {
        [self.tokens.iter().product(), self.patch.pow(3)]
    }

    /// Side of the max-pooling window.
    pub fn pool(&self) -> usize {
        TOKEN / self.patch
    }
}

/// Max-pools a mask and cuts it into patches: tokens x-major, and x-major inside a patch.
///
/// # Shapes
/// `mask` `[X, Y, Z]` of the grid's array; `[L * P]` comes back in the order of the mask head's logits `[L, P]`.
///
/// # Errors
/// [`Error::Config`] for a mask of another shape.
///
/// # Reference
/// Paper, section 3.2: 256x160x128 is pooled by 8 to 32x20x16 and cut into 160 patches of 4x4x4.
pub fn mask_target<T: Copy + Into<f32>>(
    mask: ArrayView3<'_, T>,
    grid: &MaskGrid,
) -> Result<Vec<f32>> {
    let shape = grid.tokens.map(|n| n * TOKEN);
    if mask.shape() != shape {
        let (expected, got) = (format!("{shape:?}"), format!("{:?}", mask.shape()));
        return Err(Error::config("shape of the mask", expected, got));
    }
    let [length, patch_size] = grid.target_shape();
    let mut out = vec![0.0f32; length * patch_size];
    let (patch, pool) = (grid.patch, grid.pool());
    for ((x, y, z), &value) in mask.indexed_iter() {
        let value: f32 = value.into();
        if value == 0.0 {
            continue;
        }
        let cell = [x / pool, y / pool, z / pool];
        let token = cell.map(|c| c / patch);
        let inner = cell.map(|c| c % patch);
        let row = (token[0] * grid.tokens[1] + token[1]) * grid.tokens[2] + token[2];
        let column = (inner[0] * patch + inner[1]) * patch + inner[2];
        let target = &mut out[row * patch_size + column];
        *target = target.max(value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn each_voxel_lands_in_its_patch() {
        let grid = MaskGrid::new([64, 32, 96], 4).unwrap();
        assert_eq!(grid.target_shape(), [6, 64]);
        for at in [[0, 0, 0], [40, 7, 95], [63, 31, 33]] {
            let mut mask = Array3::<u8>::zeros((64, 32, 96));
            mask[at] = 1;
            let target = mask_target(mask.view(), &grid).unwrap();
            let token = at[0] / 32 * 3 + at[2] / 32;
            let inner = at.map(|c| c % 32 / 8);
            let column = (inner[0] * 4 + inner[1]) * 4 + inner[2];
            let set: Vec<usize> = (0..target.len()).filter(|&i| target[i] > 0.0).collect();
            assert_eq!(set, [token * 64 + column]);
        }
        assert!(MaskGrid::new([60, 32, 32], 4).is_err());
        assert!(MaskGrid::new([64, 32, 32], 5).is_err());
    }

    #[test]
    fn a_mask_of_another_shape_is_refused() {
        let grid = MaskGrid::new([32, 32, 32], 4).unwrap();
        for shape in [(32, 32, 64), (16, 16, 16), (64, 32, 32)] {
            let error = mask_target(Array3::<u8>::zeros(shape).view(), &grid).unwrap_err();
            assert!(error.to_string().contains("[32, 32, 32]"), "{error}");
        }
    }
}
