//! From a stack of slices to voxels.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ndarray::Array3;
use rayon::prelude::*;

use super::pixels::{self, Padding};
use super::slice::{self, Loaded, Pieces, Slice};
use super::stack::Stack;
use super::syntax::Compression;
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
    let mut files = MultiFrame::default();
    for (batch, slices) in stack.slices.chunks(BATCH).enumerate() {
        files.open(slices)?;
        let decoded: Vec<Vec<f32>> = slices
            .par_iter()
            .map(|header| files.decode(header, hu, padding))
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
    let (mut bytes, mut seen) = (0u64, None);
    for slice in slices {
        slice.check_image()?;
        if seen.replace(&slice.path) == Some(&slice.path) {
            continue;
        }
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

/// Files of several frames, held as long as slices of them are decoded.
#[derive(Default)]
struct MultiFrame {
    open: BTreeMap<PathBuf, (Loaded, Vec<Pieces>)>,
}

impl MultiFrame {
    /// Reads the files of several frames that these slices are in, and lets go of the others.
    fn open(&mut self, slices: &[Slice]) -> Result<()> {
        let framed = slices.iter().filter(|s| s.frame.is_some());
        let wanted: BTreeSet<&Path> = framed.map(|s| s.path.as_path()).collect();
        self.open.retain(|path, _| wanted.contains(path.as_path()));
        for path in wanted {
            if !self.open.contains_key(path) {
                let loaded = slice::read(path)?;
                let frames = loaded.frames()?;
                self.open.insert(path.to_owned(), (loaded, frames));
            }
        }
        Ok(())
    }

    fn decode(&self, header: &Slice, hu: HuSource, padding: Padding) -> Result<Vec<f32>> {
        let changed = || Error::corrupt(&header.path, "the file changed while it was read");
        // The file may have changed since its header was read.
        let check = |now: &Slice| {
            let size = |s: &Slice| (s.rows, s.columns, s.frames, s.bits);
            (size(now) == size(header))
                .then_some(())
                .ok_or_else(changed)
        };
        if let Some(frame) = header.frame {
            let (loaded, frames) = self.open.get(&header.path).ok_or_else(changed)?;
            check(&loaded.slice)?;
            let ranges = frames.get(frame).ok_or_else(changed)?;
            return pixels::hu(header, &loaded.piece(ranges)?, hu, padding);
        }
        let loaded = slice::read(&header.path)?;
        check(&loaded.slice)?;
        let frames = loaded.frames()?;
        let ranges = frames.first().ok_or_else(changed)?;
        let data = loaded.piece(ranges)?;
        if loaded.slice.syntax.compression != Compression::None {
            pixels::check_size(&loaded.slice, data.len() as u64)?;
        }
        pixels::hu(&loaded.slice, &data, hu, padding)
    }
}

/// CT must carry slope and intercept to HU.
fn rescale_doubts(slices: &[Slice]) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(slice) = slices.iter().find(|s| s.scaling.is_none()) {
        let name = slice.name();
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
        out.push(format!("{}: RescaleType is {kind:?}, not HU", slice.name()));
    }
    out
}
