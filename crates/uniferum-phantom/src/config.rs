//! What kind of scans a cohort has.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Scanner, anatomy and prevalence of a cohort.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PhantomConfig {
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Distance of voxel centres, mm, before scanners differ.
    pub spacing_mm: [f64; 3],
    /// Share of scans with each finding; findings are independent of one another.
    pub prevalence: f64,
    /// The slightest grade that a finding has, 0 to 1; grades are uniform from here to 1.
    pub least_grade: f64,
    /// How far scanners differ in spacing, sharpness, noise, field of view and orientation: 0 to 1.
    pub scanner_variation: f64,
    /// How far patients differ in size, proportions and pose: 0 to 1.
    pub patient_variation: f64,
    /// Share of patients in the test split.
    pub test_fraction: f64,
}

impl Default for PhantomConfig {
    /// A thorax of 384 x 320 x 256 mm on a 4 mm grid.
    fn default() -> Self {
        Self {
            shape: [96, 80, 64],
            spacing_mm: [4.0; 3],
            prevalence: 0.4,
            least_grade: 0.0,
            scanner_variation: 1.0,
            patient_variation: 1.0,
            test_fraction: 0.3,
        }
    }
}

impl PhantomConfig {
    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field, expected, got: String| {
            Err(Error::Config {
                field,
                expected,
                got,
            })
        };
        if self.shape.iter().any(|&n| !(8..=2048).contains(&n)) {
            return refuse(
                "shape",
                "8 to 2048 voxels a side",
                format!("{:?}", self.shape),
            );
        }
        if self.spacing_mm.iter().any(|s| !(0.2..=20.0).contains(s)) {
            return refuse(
                "spacing_mm",
                "0.2 to 20 mm",
                format!("{:?}", self.spacing_mm),
            );
        }
        for (field, share) in [
            ("prevalence", self.prevalence),
            ("least_grade", self.least_grade),
            ("scanner_variation", self.scanner_variation),
            ("patient_variation", self.patient_variation),
            ("test_fraction", self.test_fraction),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(field, "a number from 0 to 1", share.to_string());
            }
        }
        Ok(())
    }
}
