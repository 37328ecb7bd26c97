//! Settings of the standardisation.

use serde::{Deserialize, Serialize};

use crate::resample::{Interpolation, MOST_VOXELS, check_sides};
use crate::{Error, Result};

/// Whose steps to follow where the paper and its public release differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// The paper's text.
    #[default]
    Paper,
    /// The public release's code, voxel for voxel.
    Release,
}

/// Settings of [`standardise`](super::standardise); the default is the paper's.
///
/// With [`Compat::Release`] only `spacing_mm`, `size` and `compat` count: the release's thresholds,
/// interpolation and clipping are fixed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandardiseConfig {
    /// Paper or release.
    pub compat: Compat,
    /// Distance between voxels of the result, in mm.
    pub spacing_mm: [f64; 3],
    /// Voxels of the result; `None` keeps what the body needs.
    pub size: Option<[usize; 3]>,
    /// How the scan is interpolated. The mask is always nearest.
    ///
    /// The paper does not say; cubic is what its release uses.
    pub interpolation: Interpolation,
    /// Widen the interpolation kernel where voxels get larger.
    pub antialias: bool,
    /// HU range of the body, both ends included.
    pub body_hu: [f32; 2],
    /// HU range of the result. The lower end is also the air that the volume is padded with.
    pub clip_hu: [i16; 2],
    /// What is kept above and below the lungs, in mm: of the scan's slices as many as lie within.
    pub lung_margin_mm: f64,
    /// Estimate the lungs from the air in the body when no mask shows them.
    pub estimate_lungs: bool,
}

impl Default for StandardiseConfig {
    fn default() -> Self {
        Self {
            compat: Compat::Paper,
            spacing_mm: [1.0; 3],
            size: Some([416, 336, 256]),
            interpolation: Interpolation::Cubic,
            antialias: true,
            body_hu: [-150.0, 250.0],
            clip_hu: [-1000, 1000],
            lung_margin_mm: 5.0,
            estimate_lungs: false,
        }
    }
}

/// Refuses a result of more voxels than [`MOST_VOXELS`]: a spacing that is not in mm asks for them.
pub(super) fn check_size(len: [f64; 3]) -> Result<()> {
    if len.iter().product::<f64>() <= MOST_VOXELS as f64 {
        return Ok(());
    }
    let got = format!("{len:.0?}: is the scan's spacing in mm?");
    Err(Error::volume(
        "size after resampling",
        "2^30 voxels at most",
        got,
    ))
}

impl StandardiseConfig {
    /// The release's settings: its steps, and no crop or pad to a common size.
    pub fn release() -> Self {
        Self {
            compat: Compat::Release,
            size: None,
            ..Self::default()
        }
    }

    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field, expected: &str, got: String| Err(Error::config(field, expected, got));
        if !self.spacing_mm.iter().all(|s| (0.05..=100.0).contains(s)) {
            return refuse(
                "spacing_mm",
                "0.05 to 100 mm",
                format!("{:?}", self.spacing_mm),
            );
        }
        if let Some(size) = self.size {
            check_sides("size", size)?;
        }
        if self.body_hu[0].is_nan()
            || self.body_hu[1].is_nan()
            || self.body_hu[0] >= self.body_hu[1]
        {
            return refuse("body_hu", "[low, high]", format!("{:?}", self.body_hu));
        }
        if self.clip_hu[0] >= self.clip_hu[1] {
            return refuse("clip_hu", "[low, high]", format!("{:?}", self.clip_hu));
        }
        if !(0.0..=1000.0).contains(&self.lung_margin_mm) {
            return refuse(
                "lung_margin_mm",
                "0 to 1000 mm",
                self.lung_margin_mm.to_string(),
            );
        }
        Ok(())
    }
}
