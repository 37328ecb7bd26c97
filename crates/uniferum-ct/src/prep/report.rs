//! What a standardisation did.

use serde::{Deserialize, Serialize};

use super::config::Compat;
use super::lungs::LungRange;
use crate::Volume;

/// A standardised scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardised {
    /// HU on the common grid, RAS.
    pub volume: Volume<i16>,
    /// Labels on the same grid, if a mask was given.
    pub mask: Option<Volume<u8>>,
    /// What was found and done.
    pub report: StandardiseReport,
}

/// What was found and done, for the ledger and for quality control.
///
/// Voxels are those of the scan with its axes along R, A and S.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StandardiseReport {
    /// Paper or release.
    pub compat: Compat,
    /// Directions of the scan's array axes as it came.
    pub input_orientation: String,
    /// Voxels of the scan, RAS order.
    pub input_shape: [usize; 3],
    /// Spacing of the scan in mm, RAS order.
    pub input_spacing_mm: [f64; 3],
    /// Voxels of the largest soft-tissue component.
    pub body_voxels: u64,
    /// The point of the scan that became the middle of the result, in voxels.
    pub centre_voxel: [f64; 3],
    /// The same point in RAS+ mm.
    pub centre_mm: [f64; 3],
    /// Slices that hold lung, if known.
    pub lung_range: Option<LungRange>,
    /// The voxels that the result shows, `[first, past the last]` along each axis.
    pub crop_box: [[usize; 2]; 3],
    /// Voxels of the result.
    pub output_shape: [usize; 3],
    /// What a person should know before trusting the result.
    pub warnings: Vec<String>,
}
