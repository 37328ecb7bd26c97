//! From a stack of slices to voxels.

use std::path::Path;

use ndarray::Array3;
use rayon::prelude::*;

use super::pixels::{self, Padding};
use super::slice::{self, Loaded, Slice};
use super::stack::Stack;
use crate::error::{Error, Result};
use crate::io::read::Decoded;
use crate::{Format, HuSource, Volume};

/// Slices decoded at a time: their pixels are all that is held beside the volume.
const BATCH: usize = 16;

/// Reads the pixels of a stack; slices are decoded in parallel.
pub(crate) fn read(
    folder: &Path,
    stack: Stack,
    hu: HuSource,
    padding: Padding,
) -> Result<Decoded<f32>> {
    let (nz, first) = (stack.slices.len(), &stack.slices[0]);
    let (nx, ny) = (first.columns, first.rows);
    check_claims(folder, &stack.slices)?;
    let mut out = vec![0f32; nx * ny * nz];
    for (batch, slices) in stack.slices.chunks(BATCH).enumerate() {
        let decoded: Vec<Vec<f32>> = slices
            .par_iter()
            .map(|header| decode(header, hu, padding))
            .collect::<Result<_>>()?;
        let z0 = batch * BATCH;
        out.par_chunks_mut(ny * nz)
            .enumerate()
            .for_each(|(x, plane)| {
                for (y, row) in plane.chunks_exact_mut(nz).enumerate() {
                    for (cell, slice) in row[z0..].iter_mut().zip(&decoded) {
                        *cell = slice[x + nx * y];
                    }
                }
            });
    }
    let mut warnings = stack.warnings;
    if hu == HuSource::Header {
        warnings.extend(rescale_doubts(&stack.slices));
    }
    let voxels =
        Array3::from_shape_vec((nx, ny, nz), out).map_err(|error| Error::corrupt(folder, error))?;
    if let Some(bad) = voxels.iter().find(|v| !v.is_finite()) {
        return Err(Error::field(folder, "voxels", "finite HU", bad));
    }
    Ok(Decoded {
        volume: Volume::new(voxels, stack.affine),
        format: Format::Dicom,
        warnings,
    })
}

/// The volume is allocated only once its slices' files can hold what their headers say.
fn check_claims(folder: &Path, slices: &[Slice]) -> Result<()> {
    let mut bytes = 0u64;
    for slice in slices {
        slice.check_image()?;
        let meta = std::fs::metadata(&slice.path).map_err(|e| Error::io(&slice.path, e))?;
        bytes += meta.len();
        pixels::check_size(slice, meta.len())?;
    }
    let voxels = slices.len() as u64 * (slices[0].rows * slices[0].columns) as u64;
    if voxels < 1 << 38 {
        return Ok(());
    }
    let expected = format!("a volume below 1 TiB in {bytes} bytes of files");
    Err(Error::field(
        folder,
        "slices",
        expected,
        format!("{voxels} voxels"),
    ))
}

fn decode(header: &Slice, hu: HuSource, padding: Padding) -> Result<Vec<f32>> {
    let loaded: Loaded = slice::read(&header.path)?;
    // The file may have changed since its header was read.
    if (loaded.slice.rows, loaded.slice.columns) != (header.rows, header.columns) {
        return Err(Error::corrupt(
            &header.path,
            "the file changed while it was read",
        ));
    }
    pixels::hu(&loaded, hu, padding)
}

/// CT must carry slope and intercept to HU.
fn rescale_doubts(slices: &[Slice]) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(slice) = slices.iter().find(|s| s.scaling.is_none()) {
        let name = slice.path.display();
        out.push(format!(
            "{name}: no RescaleSlope and RescaleIntercept: stored values are taken as HU"
        ));
    }
    let other = |s: &&Slice| s.rescale_type.as_deref().is_some_and(|t| t != "HU");
    if let Some(slice) = slices.iter().find(other) {
        let kind: String = slice
            .rescale_type
            .iter()
            .flat_map(|t| t.chars())
            .take(16)
            .collect();
        out.push(format!(
            "{}: RescaleType is {kind:?}, not HU",
            slice.path.display()
        ));
    }
    out
}
