//! From a scan, prepared as far as its owner says, to the array that the model sees.

use ndarray::{Array3, ArrayView3};
use uniferum_ct::io::hu::{check_chest, check_not_constant};
use uniferum_ct::prep::standardise;
use uniferum_ct::resample::linear_onto;
use uniferum_ct::transform::ModelTransform;
use uniferum_ct::{Affine, CtVolume, Volume};
use uniferum_data::{InputSettings, check_standardised};

use crate::error::{Error, Result};

/// How far a scan is prepared already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InputStage {
    /// As the scanner left it: standardise, crop, resize.
    #[default]
    Raw,
    /// Standardised (1 mm, cropped to the body): crop and resize.
    Standardised,
    /// The model's own array in HU (256x160x128 for the paper's model): nothing to do.
    Array,
}

/// A scan as the model sees it, with the way back to the scan's own grid.
#[derive(Debug, Clone)]
pub struct ModelInput {
    array: Array3<f32>,
    /// From indices of the array to the patient, RAS+ mm.
    affine: Affine,
    scan_shape: [usize; 3],
    scan_affine: Affine,
    warnings: Vec<String>,
}

impl ModelInput {
    pub(super) fn new(
        settings: &InputSettings,
        scan: &CtVolume,
        mask: Option<&Volume<u8>>,
        stage: InputStage,
    ) -> Result<Self> {
        check_chest(scan)?;
        let (array, affine, warnings) = match stage {
            InputStage::Raw => {
                let done = standardise(scan, mask, &settings.standardise)?;
                let (array, affine) = transformed(&settings.transform, &done.volume)?;
                (array, affine, done.report.warnings)
            }
            InputStage::Standardised => {
                let volume = scan.whole_hu().to_ras();
                check_standardised(&volume, settings.standardise.spacing_mm)?;
                let (array, affine) = transformed(&settings.transform, &volume)?;
                (array, affine, Vec::new())
            }
            InputStage::Array => {
                let ras = scan.clone().to_ras();
                let warnings = check_array(ras.shape(), settings.transform.shape)?;
                (
                    ras.voxels.mapv(|hu| hu / 2000.0 + 0.5),
                    ras.affine,
                    warnings,
                )
            }
        };
        let hu = |value: f32| (value - 0.5) * 2000.0;
        check_not_constant(&array, "the model's view of the scan", hu)?;
        Ok(Self {
            array,
            affine,
            scan_shape: scan.shape(),
            scan_affine: scan.affine,
            warnings,
        })
    }

    /// The model's array, `[X, Y, Z]` RAS+, HU / 2000 + 0.5.
    pub fn array(&self) -> &Array3<f32> {
        &self.array
    }

    /// What a person should know before trusting an answer.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Brings the cells of a predicted mask to the grid of the scan, between their centres
    /// trilinearly; 0 where the model saw nothing.
    ///
    /// # Shapes
    /// `cells` divides the model's array evenly; the result has the scan's shape and affine.
    ///
    /// # Errors
    /// [`Error::Ct`] where an affine cannot be inverted.
    pub fn in_scan(&self, cells: ArrayView3<'_, f32>) -> Result<Volume<f32>> {
        let sides = [self.array.dim().0, self.array.dim().1, self.array.dim().2];
        let scale: [f64; 3] = std::array::from_fn(|a| sides[a] as f64 / cells.shape()[a] as f64);
        let affine = self.affine.subgrid(scale.map(|s| s / 2.0 - 0.5), scale);
        let (shape, onto) = (self.scan_shape, &self.scan_affine);
        Ok(linear_onto(cells, &affine, shape, onto, 0.0)?)
    }
}

fn transformed(transform: &ModelTransform, volume: &Volume<i16>) -> Result<(Array3<f32>, Affine)> {
    let array = transform.model_array(volume)?;
    let affine = transform.grid_affine(volume.shape(), &volume.affine, transform.shape);
    Ok((array, affine))
}

/// Any sides that the encoder can take will do; others than those of the training are pointed out.
fn check_array(shape: [usize; 3], trained: [usize; 3]) -> Result<Vec<String>> {
    if shape.iter().any(|n| *n == 0 || n % 32 != 0) {
        return Err(Error::Input {
            what: "sides of the array",
            expected: format!("multiples of 32, such as {}", by(trained)),
            got: by(shape),
        });
    }
    if shape == trained {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "the array has {} voxels; the model was made for {}",
        by(shape),
        by(trained)
    )])
}

fn by(shape: [usize; 3]) -> String {
    format!("{}x{}x{}", shape[0], shape[1], shape[2])
}
