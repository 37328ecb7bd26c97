//! Resampling: to another spacing along the volume's own axes, one sparse operator an axis, and onto any
//! other grid.

mod axis;
mod onto;
mod pick;
mod separable;
mod spacing;
mod spline;

use crate::{Error, Result};

pub(crate) use axis::shift_weights;
pub use axis::{AxisOperator, Interpolation};
pub use onto::{linear_onto, nearest_onto};
pub(crate) use pick::pick;
pub(crate) use separable::{resample, resample_into};
pub use spacing::{labels_to_spacing, to_spacing};
pub(crate) use spline::CubicSpline;

/// Voxels of a result at most: more than any model sees. A spacing that is not in mm asks for more.
pub(crate) const MOST_VOXELS: usize = 1 << 30;

/// Refuses a setting that asks for a volume of no voxel, or of more than [`MOST_VOXELS`].
pub(crate) fn check_sides(field: &'static str, sides: [usize; 3]) -> Result<()> {
    let voxels = sides.iter().try_fold(1usize, |n, &s| n.checked_mul(s));
    if voxels.is_some_and(|n| (1..=MOST_VOXELS).contains(&n)) {
        return Ok(());
    }
    let expected = "three numbers from 1 up, 2^30 voxels at most";
    Err(Error::config(field, expected, format!("{sides:?}")))
}
