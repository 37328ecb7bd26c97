//! Who the patient is: read on request only, and by nothing else in this crate.

use std::path::Path;

use serde::Serialize;

use super::slice;
use crate::error::Result;

/// What DICOM files say of patient and examination.
///
/// Volumes, warnings, summaries and errors never carry any of it; only [`identity`] reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
#[non_exhaustive]
pub struct Identity {
    /// Patient's Name.
    pub patient_name: Option<String>,
    /// Patient ID.
    pub patient_id: Option<String>,
    /// Patient's Birth Date.
    pub birth_date: Option<String>,
    /// Patient's Sex.
    pub sex: Option<String>,
    /// Study Date.
    pub study_date: Option<String>,
    /// Accession Number.
    pub accession_number: Option<String>,
    /// Study Instance UID.
    pub study_uid: Option<String>,
    /// Study Description.
    pub study_description: Option<String>,
    /// Series Description.
    pub series_description: Option<String>,
}

/// Reads patient and examination of one DICOM file.
///
/// # Errors
/// As [`read_ct`](crate::read_ct) for a file that is not DICOM or damaged.
pub fn identity(path: impl AsRef<Path>) -> Result<Identity> {
    slice::with_fields(path.as_ref(), |fields| Identity {
        patient_name: fields.text(0x0010_0010),
        patient_id: fields.text(0x0010_0020),
        birth_date: fields.text(0x0010_0030),
        sex: fields.text(0x0010_0040),
        study_date: fields.text(0x0008_0020),
        accession_number: fields.text(0x0008_0050),
        study_uid: fields.text(0x0020_000d),
        study_description: fields.text(0x0008_1030),
        series_description: fields.text(0x0008_103e),
    })
}
