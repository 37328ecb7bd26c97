//! How scans become model arrays; saved beside a checkpoint so that prediction prepares them alike.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uniferum_ct::batch::PrepareSettings;
use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;
use uniferum_tasks::trained;

use crate::changes;
use crate::error::{Error, Result};
use crate::manifest::Manifest;

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
    /// As [`find`](Self::find).
    pub fn beside(checkpoint: &Path) -> Result<Self> {
        Ok(Self::find(checkpoint)?.unwrap_or_default())
    }

    /// Reads the settings beside a checkpoint, if there are some.
    ///
    /// # Errors
    /// [`Error::Table`] for a file that cannot be read or has unknown fields.
    pub fn find(checkpoint: &Path) -> Result<Option<Self>> {
        let path = trained::folder(checkpoint).join(Self::FILE_NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::table(&path, None, e))?;
        let found = serde_json::from_str(&text).map_err(|e| Error::table(&path, None, e))?;
        Ok(Some(found))
    }

    /// Refuses scans that `uniferum prepare` made with other settings than these, by the `prepare.json` above
    /// them: beside a trained model these settings would then be wrong. How lungs are found where there is no
    /// mask may differ.
    ///
    /// # Errors
    /// [`Error::Config`] with what differs, [`Error::Table`] for a `prepare.json` that cannot be read.
    pub fn check_prepared(&self, manifest: &Manifest) -> Result<()> {
        let folders: BTreeSet<&Path> = manifest
            .scans
            .iter()
            .filter_map(|s| s.path.parent())
            .collect();
        let files: BTreeSet<PathBuf> = folders.into_iter().filter_map(prepared_with).collect();
        let ours = serde_json::json!(self.standardise);
        for file in files {
            let fail = |e: &dyn std::fmt::Display| Error::table(&file, None, e);
            let text = std::fs::read_to_string(&file).map_err(|e| fail(&e))?;
            let theirs: PrepareSettings = serde_json::from_str(&text).map_err(|e| fail(&e))?;
            let theirs = serde_json::json!(theirs.standardise);
            let differ = changes("", &theirs, &ours, &["estimate_lungs"]);
            if !differ.is_empty() {
                let expected = format!("what {} says", file.display());
                let got = format!("others ({})", differ.join("; "));
                return Err(Error::config("input.standardise", expected, got));
            }
        }
        Ok(())
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

/// The nearest `prepare.json` above a folder: scans may lie some folders below it.
fn prepared_with(folder: &Path) -> Option<PathBuf> {
    const MOST: usize = 6;
    let above = folder.ancestors().take(MOST);
    above
        .map(|folder| folder.join(PrepareSettings::FILE_NAME))
        .find(|file| file.is_file())
}
