//! Resampling on grids whose axes follow the volume's: one sparse operator an axis.

mod axis;
mod separable;
mod spline;

pub(crate) use axis::shift_weights;
pub use axis::{AxisOperator, Interpolation};
pub(crate) use separable::{pick, resample, resample_into};
pub(crate) use spline::CubicSpline;
