//! Resampling: to another spacing along the volume's own axes, one sparse operator an axis, and onto any
//! other grid.

mod axis;
mod onto;
mod separable;
mod spacing;
mod spline;

pub(crate) use axis::shift_weights;
pub use axis::{AxisOperator, Interpolation};
pub use onto::{linear_onto, nearest_onto};
pub(crate) use separable::{pick, resample, resample_into};
pub use spacing::{labels_to_spacing, to_spacing};
pub(crate) use spline::CubicSpline;

/// Voxels of a result at most: more than any model sees. A spacing that is not in mm asks for more.
pub(crate) const MOST_VOXELS: usize = 1 << 30;
