//! From LPS, the language of DICOM, MetaImage and NRRD, to the RAS+ of an [`Affine`].

use std::path::Path;

use crate::Affine;
use crate::error::{Error, Result};

/// The affine of a grid whose array axes step by `steps` (mm in LPS) from `origin`.
///
/// # Errors
/// [`Error::Field`] where the steps are not finite or do not span space.
pub(crate) fn affine_from_lps(
    path: &Path,
    field: &'static str,
    steps: [[f64; 3]; 3],
    origin: [f64; 3],
) -> Result<Affine> {
    let mut m = Affine::IDENTITY.0;
    for row in 0..3 {
        let sign = if row == 2 { 1.0 } else { -1.0 };
        for axis in 0..3 {
            // The comparison keeps -0.0 out of affines that people read.
            m[row][axis] = if steps[axis][row] == 0.0 {
                0.0
            } else {
                sign * steps[axis][row]
            };
        }
        m[row][3] = sign * origin[row];
    }
    usable(path, field, Affine(m))
}

/// Refuses an affine that is not finite or not invertible.
pub(crate) fn usable(path: &Path, field: &'static str, affine: Affine) -> Result<Affine> {
    let finite = affine.0.iter().flatten().all(|v| v.is_finite());
    if finite && affine.inverse().is_some() {
        return Ok(affine);
    }
    let got = format!("{:?}", &affine.0[..3]);
    Err(Error::field(
        path,
        field,
        "a finite, invertible affine",
        got,
    ))
}
