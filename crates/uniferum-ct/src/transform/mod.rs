//! From the standardised volume to the array of the model, and back.

mod coarse;
mod model;

pub use coarse::resample_onto;
pub use model::ModelTransform;
pub(crate) use model::window_offset;
