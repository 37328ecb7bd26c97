use serde::{Deserialize, Serialize};

use crate::error::{Result, check_len};

/// How two masks of the same voxels overlap.
///
/// ```
/// use uniferum_metrics::Overlap;
/// let found = [true, true, false, false];
/// let truth = [true, false, true, false];
/// let overlap = Overlap::new(&found, &truth)?;
/// assert_eq!(overlap.dice(), Some(0.5));
/// assert_eq!(overlap.iou(), Some(1.0 / 3.0));
/// # Ok::<(), uniferum_metrics::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// Weight of the voxels in both masks.
    pub both: f64,
    /// Weight of the voxels of the predicted mask.
    pub predicted: f64,
    /// Weight of the voxels of the reference mask.
    pub reference: f64,
}

impl Overlap {
    /// Counts voxels.
    ///
    /// # Errors
    /// [`crate::Error::Length`] when the masks differ in size.
    pub fn new(predicted: &[bool], reference: &[bool]) -> Result<Self> {
        check_len("reference mask", predicted.len(), reference.len())?;
        let mut counts = [0usize; 3];
        for (&p, &r) in predicted.iter().zip(reference) {
            counts[0] += usize::from(p && r);
            counts[1] += usize::from(p);
            counts[2] += usize::from(r);
        }
        Ok(Overlap {
            both: counts[0] as f64,
            predicted: counts[1] as f64,
            reference: counts[2] as f64,
        })
    }

    /// `2 both / (predicted + reference)`; `None` when both masks are empty, which is agreement on
    /// absence and no measure of overlap.
    ///
    /// # Reference
    /// Dice 1945; Sørensen 1948.
    pub fn dice(&self) -> Option<f64> {
        let sum = self.predicted + self.reference;
        (sum > 0.0).then(|| 2.0 * self.both / sum)
    }

    /// `both / either`; `None` when both masks are empty.
    ///
    /// # Reference
    /// Jaccard 1912.
    pub fn iou(&self) -> Option<f64> {
        let either = self.predicted + self.reference - self.both;
        (either > 0.0).then(|| self.both / either)
    }

    /// Share of the predicted mask that is right; `None` when it is empty.
    pub fn precision(&self) -> Option<f64> {
        (self.predicted > 0.0).then(|| self.both / self.predicted)
    }

    /// Share of the reference mask that is found; `None` when it is empty.
    pub fn recall(&self) -> Option<f64> {
        (self.reference > 0.0).then(|| self.both / self.reference)
    }
}

impl std::ops::Add for Overlap {
    type Output = Overlap;

    /// Pools the voxels of several scans.
    fn add(self, other: Overlap) -> Overlap {
        Overlap {
            both: self.both + other.both,
            predicted: self.predicted + other.predicted,
            reference: self.reference + other.reference,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_and_iou_are_one_another() {
        for code in 0u32..256 {
            let bits = |shift: u32| -> Vec<bool> {
                (0..4).map(|i| code >> (shift + i) & 1 == 1).collect()
            };
            let overlap = Overlap::new(&bits(0), &bits(4)).unwrap();
            match (overlap.dice(), overlap.iou()) {
                (None, None) => assert_eq!(code, 0),
                (Some(d), Some(j)) => assert!((d - 2.0 * j / (1.0 + j)).abs() < 1e-15),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn shares_are_of_either_mask_and_sizes_must_agree() {
        let half = Overlap::new(&[true, false], &[true, true]).unwrap();
        assert_eq!((half.precision(), half.recall()), (Some(1.0), Some(0.5)));
        assert!(Overlap::new(&[true], &[]).is_err());
    }
}
