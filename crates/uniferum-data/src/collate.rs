//! The one place where arrays become tensors.

use candle_core::{Device, Tensor};
use ndarray::Array3;

use crate::error::{Error, Result};

/// A step's images, questions and targets.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[B, 1, X, Y, Z]`, HU / 2000 + 0.5.
    pub images: Tensor,
    /// For each question the index of its image, `[Q]` of type `u32`: images are encoded once, and
    /// `index_select(&image_of, 0)` of the tokens are those of each question.
    pub image_of: Tensor,
    /// The sentences, `Q` of them.
    pub prompts: Vec<String>,
    /// Labels `[Q]`; 0 for segmentation questions.
    pub labels: Tensor,
    /// Mask targets `[Q, L, P]`; 0 for label questions.
    pub masks: Tensor,
    /// `[Q]`: 1 for segmentation.
    pub is_segmentation: Tensor,
    /// What each question is, for messages: `task @ scan`.
    pub names: Vec<String>,
}

/// Stacks model arrays into an image tensor.
///
/// # Shapes
/// `B` arrays `[X, Y, Z]` to `[B, 1, X, Y, Z]`.
///
/// # Units
/// As in the arrays: HU / 2000 + 0.5.
///
/// # Errors
/// [`Error::Config`] where there is no array or shapes differ.
pub fn image_tensor(arrays: &[Array3<f32>], device: &Device) -> Result<Tensor> {
    let Some(first) = arrays.first() else {
        return Err(Error::config("images", "at least one", 0));
    };
    let (x, y, z) = first.dim();
    let mut data: Vec<f32> = Vec::with_capacity(arrays.len() * first.len());
    for array in arrays {
        if array.dim() != first.dim() {
            let (expected, got) = (format!("{:?}", first.dim()), format!("{:?}", array.dim()));
            return Err(Error::config("shape of images", expected, got));
        }
        data.extend(array.iter());
    }
    Ok(Tensor::from_vec(data, (arrays.len(), 1, x, y, z), device)?)
}
