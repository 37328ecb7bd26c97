//! Losses of the unified supervision: labels by cross-entropy, masks by focal loss, mixed in one batch.
//!
//! All are computed in `f32` whatever the logits' type, and stay finite for logits of any size.

use candle_core::{D, DType, Result, Tensor};
use uniferum_kernels as kernels;

/// Settings of the focal loss and its weight in the mixture.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of foreground voxels; background has `1 - focal_alpha`.
    pub focal_alpha: f32,
    /// Exponent that quiets voxels which are already right.
    pub focal_gamma: f32,
    /// Weight of the mask loss against the label loss.
    pub mask_weight: f64,
}

impl Default for LossConfig {
    /// The paper's: alpha 0.25 and gamma 2 of Lin et al., masks times 10 (section 3.2).
    fn default() -> Self {
        Self {
            focal_alpha: 0.25,
            focal_gamma: 2.0,
            mask_weight: 10.0,
        }
    }
}

impl LossConfig {
    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option).
    pub fn validate(&self) -> crate::Result<()> {
        let (alpha, gamma) = (f64::from(self.focal_alpha), f64::from(self.focal_gamma));
        let positive = 0.0..=f64::MAX;
        for (name, expected, range, got) in [
            ("focal_alpha", "0 to 1", 0.0..=1.0, alpha),
            ("focal_gamma", "0 or more", positive.clone(), gamma),
            ("mask_weight", "0 or more", positive, self.mask_weight),
        ] {
            if !range.contains(&got) {
                return Err(crate::Error::Option {
                    name,
                    expected,
                    got,
                });
            }
        }
        Ok(())
    }
}

/// The targets of a mixed batch.
#[derive(Debug, Clone)]
pub struct Targets<'a> {
    /// Labels `[B]`, 0 or 1; the values of segmentation samples are not looked at, but must be finite.
    pub labels: &'a Tensor,
    /// Masks `[B, L, P]`, 0 to 1; those of classification samples are not looked at, but must be finite.
    pub masks: &'a Tensor,
    /// `[B]`: 1 for a segmentation sample, 0 for a classification sample.
    pub is_segmentation: &'a Tensor,
}

/// The loss of a mixed batch and its parts.
#[derive(Debug, Clone)]
pub struct MultitaskLoss {
    /// What is trained on: the mean over samples, a scalar.
    pub total: Tensor,
    /// The loss of each sample `[B]`, outside the graph: it names the sample when one is not finite.
    pub per_sample: Tensor,
}

/// Mean binary cross-entropy with logits.
///
/// # Shapes
/// `logits` and `targets` alike; a scalar comes back.
///
/// # Errors
/// When the shapes differ.
pub fn bce_with_logits(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    kernels::bce_with_logits(logits, targets)?.mean_all()
}

/// Mean sigmoid focal loss.
///
/// # Shapes
/// `logits` and `targets` alike; a scalar comes back.
///
/// # Errors
/// When the shapes differ.
///
/// # Reference
/// Lin et al. 2017, equation 5.
pub fn sigmoid_focal_loss(
    logits: &Tensor,
    targets: &Tensor,
    config: &LossConfig,
) -> Result<Tensor> {
    kernels::sigmoid_focal(logits, targets, config.focal_alpha, config.focal_gamma)?.mean_all()
}

/// Each sample counts by its own task alone: cross-entropy of its label, or the mean focal loss over its
/// mask times `mask_weight`; the batch's loss is the mean over samples.
///
/// # Shapes
/// `cls` `[B, 1]`, `seg` `[B, L, P]`.
///
/// # Errors
/// When shapes do not fit together.
///
/// # Reference
/// Section 3.2.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use uniferum_metrics::losses::{LossConfig, Targets, multitask_loss};
/// # fn main() -> candle_core::Result<()> {
/// let device = Device::Cpu;
/// let cls = Tensor::new(&[[0f32], [9.0]], &device)?;
/// let seg = Tensor::zeros((2, 3, 4), candle_core::DType::F32, &device)?;
/// let targets = Targets {
///     labels: &Tensor::new(&[1f32, 0.0], &device)?,
///     masks: &seg,
///     is_segmentation: &Tensor::new(&[0f32, 1.0], &device)?,
/// };
/// let loss = multitask_loss(&cls, &seg, &targets, &LossConfig::default())?;
/// let parts = loss.per_sample.to_vec1::<f32>()?;
/// assert!((parts[0] - 2f32.ln()).abs() < 1e-6);
/// assert!((parts[1] - 10.0 * 0.75 * 0.25 * 2f32.ln()).abs() < 1e-6);
/// # Ok(()) }
/// ```
pub fn multitask_loss(
    cls: &Tensor,
    seg: &Tensor,
    targets: &Targets<'_>,
    config: &LossConfig,
) -> Result<MultitaskLoss> {
    let mask_share = targets.is_segmentation.to_dtype(DType::F32)?;
    let label_share = mask_share.affine(-1.0, 1.0)?;
    let labels = kernels::bce_with_logits(&cls.squeeze(1)?, targets.labels)?;
    let voxels =
        kernels::sigmoid_focal(seg, targets.masks, config.focal_alpha, config.focal_gamma)?;
    let masks = voxels.mean(D::Minus1)?.mean(D::Minus1)?;
    let labels = (labels * label_share)?;
    let masks = (masks * (mask_share * config.mask_weight)?)?;
    let per_sample = (labels + masks)?;
    Ok(MultitaskLoss {
        total: per_sample.mean_all()?,
        per_sample: per_sample.detach(),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    /// Numbers of PyTorch 2: `binary_cross_entropy_with_logits` and torchvision's `sigmoid_focal_loss`
    /// of logits (-2, -0.5, 0, 1.5, 3) and targets (0, 1, 1, 0, 1).
    #[test]
    fn means_agree_with_pytorch() {
        let x = Tensor::new(&[-2f32, -0.5, 0.0, 1.5, 3.0], &Device::Cpu).unwrap();
        let t = Tensor::new(&[0f32, 1.0, 1.0, 0.0, 1.0], &Device::Cpu).unwrap();
        let bce = bce_with_logits(&x, &t).unwrap().to_scalar::<f32>().unwrap();
        assert!((bce - 0.708_830_54).abs() < 1e-6, "{bce}");
        let focal = sigmoid_focal_loss(&x, &t, &LossConfig::default()).unwrap();
        let focal = focal.to_scalar::<f32>().unwrap();
        assert!((focal - 0.198_401_75).abs() < 1e-6, "{focal}");
    }

    #[test]
    fn a_sample_trains_only_its_own_head() {
        let device = Device::Cpu;
        let cls = Var::new(&[[0.3f32], [0.7]], &device).unwrap();
        let seg = Var::from_tensor(&Tensor::full(0.4f32, (2, 2, 3), &device).unwrap()).unwrap();
        let targets = Targets {
            labels: &Tensor::new(&[1f32, 1.0], &device).unwrap(),
            masks: &Tensor::ones((2, 2, 3), DType::F32, &device).unwrap(),
            is_segmentation: &Tensor::new(&[0f32, 1.0], &device).unwrap(),
        };
        let loss = multitask_loss(
            cls.as_tensor(),
            seg.as_tensor(),
            &targets,
            &LossConfig::default(),
        )
        .unwrap();
        let grads = loss.total.backward().unwrap();
        let dcls = grads
            .get(cls.as_tensor())
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let dseg = grads
            .get(seg.as_tensor())
            .unwrap()
            .to_vec3::<f32>()
            .unwrap();
        assert!(dcls[0][0] != 0.0 && dcls[1][0] == 0.0, "{dcls:?}");
        assert!(dseg[0].iter().flatten().all(|g| *g == 0.0));
        assert!(dseg[1].iter().flatten().all(|g| *g < 0.0));
    }
}
