//! Resampling on grids whose axes follow the volume's: one sparse operator an axis.

mod axis;
mod separable;

pub use axis::{AxisOperator, Interpolation};
pub(crate) use separable::{pick, resample};
