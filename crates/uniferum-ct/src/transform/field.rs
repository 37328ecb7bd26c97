//! The parts that the fused and the composed augmentation share.

use super::model::{ModelTransform, window_offset};
use crate::resample::AxisOperator;

/// Voxels that are turned and zoomed: the volume, padded with air where the crop needs more.
pub(super) fn field_of(transform: &ModelTransform, volume: [usize; 3]) -> [usize; 3] {
    std::array::from_fn(|a| volume[a].max(transform.crop[a]))
}

/// The volume in its field.
pub(super) fn padding(volume: usize, field: usize) -> AxisOperator {
    AxisOperator::window(volume, field, window_offset(volume, field))
}

/// Samples of a field after the zoom.
pub(super) fn zoomed_len(field: usize, zoom: f64) -> usize {
    ((field as f64 * zoom).floor() as usize).max(1)
}

/// Back to the size of the field: cropped, or its edge repeated.
pub(super) fn restore(zoomed: usize, field: usize) -> AxisOperator {
    AxisOperator::window_clamped(zoomed, field, window_offset(zoomed, field))
}

/// The crop that the model sees.
pub(super) fn crop(field: usize, crop: usize) -> AxisOperator {
    AxisOperator::window(field, crop, window_offset(field, crop))
}
