//! From the standardised volume to the array of the model, and back.

mod augment;
mod buffer;
pub mod composed;
mod field;
mod fused;
mod model;
mod noise;
mod sampling;

pub use augment::{Augment, AugmentDraw};
pub use model::ModelTransform;
pub(crate) use model::window_offset;
pub use sampling::{Sampling, Turned};
