//! How scans become model arrays; saved beside a checkpoint so that prediction prepares them alike.

use std::path::Path;

use serde::{Deserialize, Serialize};
use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;

use crate::error::{Error, Result};

/// Standardisation and model transform of a model's input.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputSettings {
    /// From a scan as it was read to the standardised volume.
    pub standardise: StandardiseConfig,
    /// From the standardised volume to the model's array.
    pub transform: ModelTransform,
}

impl InputSettings {
    /// The file beside a checkpoint.
    pub const FILE_NAME: &'static str = "input.json";

    /// Reads the settings beside a checkpoint; the paper's where there are none.
    ///
    /// # Errors
    /// [`Error::Table`] for a file that cannot be read or has unknown fields.
    pub fn beside(checkpoint: &Path) -> Result<Self> {
        let folder = if checkpoint.is_dir() {
            Some(checkpoint)
        } else {
            checkpoint.parent()
        };
        let path = folder.unwrap_or(Path::new(".")).join(Self::FILE_NAME);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::table(&path, None, e))?;
        serde_json::from_str(&text).map_err(|e| Error::table(&path, None, e))
    }

    /// Writes the settings into a checkpoint's folder.
    ///
    /// # Errors
    /// [`Error::Table`] where the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE_NAME);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::table(&path, None, e))?;
        std::fs::write(&path, text).map_err(|e| Error::table(&path, None, e))
    }
}
