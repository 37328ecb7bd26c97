//! Writing NIfTI-1 with the `nifti` crate: affine as sform and qform where possible, atomically, gzip by
//! name.

use std::path::Path;

use nifti::NiftiHeader;
use nifti::writer::WriterOptions;

use crate::error::{Error, Result};
use crate::io::atomic::replace_atomically;
use crate::{Affine, Volume};

/// Bytes of a header without extensions, up to the first voxel.
const HEADER_BYTES: u64 = 352;

/// A voxel type that can be written.
pub trait NiftiVoxel: nifti::DataElement + bytemuck::Pod + Sync {}

impl NiftiVoxel for u8 {}
impl NiftiVoxel for i16 {}
impl NiftiVoxel for u16 {}
impl NiftiVoxel for f32 {}

/// Writes a volume as NIfTI-1, compressed where the name ends in `.nii.gz`.
///
/// The file appears whole or not at all: it is written beside its place and renamed.
///
/// # Units
/// Millimetres are declared in `xyzt_units`; values are stored unscaled (slope 1, intercept 0).
///
/// # Errors
/// [`Error::Io`]; [`Error::Field`] for a name that ends otherwise than in `.nii` or `.nii.gz`;
/// [`Error::Volume`] for a side of no voxel or of more than NIfTI-1 can say (32 767), and
/// for an affine that cannot be inverted.
pub fn write_nifti<T: NiftiVoxel>(path: impl AsRef<Path>, volume: &Volume<T>) -> Result<()> {
    let path = path.as_ref();
    check_name(path)?;
    check_sides(volume.shape())?;
    check_affine(&volume.affine)?;
    let header = header_of(&volume.affine);
    let compressed = path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gz"));
    // The crate makes the ending of the name anew, so it is given one that it keeps.
    let ending = if compressed { ".nii.gz" } else { ".nii" };
    let written = replace_atomically(path, ending, |temporary| {
        // Level 1, the crate's own choice: a third of zlib's usual time for a few per cent of size on CT.
        WriterOptions::new(temporary)
            .reference_header(&header)
            .write_nifti(&volume.voxels)
            .map_err(|error| match error {
                nifti::NiftiError::Io(error) => error,
                other => std::io::Error::other(other),
            })?;
        if compressed {
            return Ok(());
        }
        // The crate does not look whether its last buffer reached the disk.
        let expected = HEADER_BYTES + (volume.voxels.len() * size_of::<T>()) as u64;
        let got = std::fs::metadata(temporary)?.len();
        if got == expected {
            return Ok(());
        }
        let what = format!("{got} of {expected} bytes written; is the disk full?");
        Err(std::io::Error::other(what))
    });
    written.map_err(|source| Error::io(path, source))
}

/// The name says NIfTI to every other program.
fn check_name(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.to_lowercase();
    if name.ends_with(".nii") || name.ends_with(".nii.gz") {
        return Ok(());
    }
    let expected = "a name that ends in .nii or .nii.gz";
    Err(Error::field(path, "name", expected, format!("{name:?}")))
}

/// Nobody could read it again.
fn check_affine(affine: &Affine) -> Result<()> {
    let determinant = affine.determinant();
    if determinant.is_finite() && determinant != 0.0 {
        return Ok(());
    }
    let got = format!("a determinant of {determinant}");
    Err(Error::volume(
        "affine",
        "axes of three directions, in mm",
        got,
    ))
}

fn check_sides(shape: [usize; 3]) -> Result<()> {
    let sides = 1..=i16::MAX as usize;
    match shape.into_iter().find(|side| !sides.contains(side)) {
        None => Ok(()),
        Some(side) => Err(Error::volume(
            "side of a NIfTI-1 volume",
            "1 to 32767 voxels",
            side,
        )),
    }
}

/// Everything that the voxels do not say: spacing, orientation and units.
fn header_of(affine: &Affine) -> NiftiHeader {
    let row = |r: usize| affine.0[r].map(|value| value as f32);
    let spacing = affine.spacing().map(|mm| mm as f32);
    let mut header = NiftiHeader {
        pixdim: [1.0, spacing[0], spacing[1], spacing[2], 0.0, 0.0, 0.0, 0.0],
        xyzt_units: 2, // mm
        qform_code: 0,
        sform_code: 1,
        srow_x: row(0),
        srow_y: row(1),
        srow_z: row(2),
        ..NiftiHeader::default()
    };
    put_qform(&mut header, affine);
    header
}

/// A quaternion cannot say shear: then only the sform is declared.
fn put_qform(header: &mut NiftiHeader, affine: &Affine) {
    if affine.shear() > 1e-4 {
        return;
    }
    let spacing = affine.spacing();
    let qfac = if affine.determinant() < 0.0 {
        -1.0
    } else {
        1.0
    };
    let mut r = [[0.0; 3]; 3];
    for row in 0..3 {
        for axis in 0..3 {
            r[row][axis] = affine.0[row][axis] / spacing[axis] * if axis == 2 { qfac } else { 1.0 };
        }
    }
    header.qform_code = 1;
    header.pixdim[0] = qfac as f32;
    let [b, c, d] = quaternion(&r).map(|part| part as f32);
    (header.quatern_b, header.quatern_c, header.quatern_d) = (b, c, d);
    let [x, y, z] = affine.origin().map(|mm| mm as f32);
    (header.quatern_x, header.quatern_y, header.quatern_z) = (x, y, z);
}

/// `(b, c, d)` of a rotation matrix, from its largest component for precision.
fn quaternion(r: &[[f64; 3]; 3]) -> [f64; 3] {
    let squares = [
        1.0 + r[0][0] + r[1][1] + r[2][2],
        1.0 + r[0][0] - r[1][1] - r[2][2],
        1.0 - r[0][0] + r[1][1] - r[2][2],
        1.0 - r[0][0] - r[1][1] + r[2][2],
    ];
    let largest = (0..4)
        .max_by(|&i, &j| squares[i].total_cmp(&squares[j]))
        .unwrap_or(0);
    let s = 0.5 * squares[largest].sqrt();
    let f = 0.25 / s;
    let [a, b, c, d] = match largest {
        0 => [
            s,
            f * (r[2][1] - r[1][2]),
            f * (r[0][2] - r[2][0]),
            f * (r[1][0] - r[0][1]),
        ],
        1 => [
            f * (r[2][1] - r[1][2]),
            s,
            f * (r[0][1] + r[1][0]),
            f * (r[0][2] + r[2][0]),
        ],
        2 => [
            f * (r[0][2] - r[2][0]),
            f * (r[0][1] + r[1][0]),
            s,
            f * (r[1][2] + r[2][1]),
        ],
        _ => [
            f * (r[1][0] - r[0][1]),
            f * (r[0][2] + r[2][0]),
            f * (r[1][2] + r[2][1]),
            s,
        ],
    };
    let sign = if a < 0.0 { -1.0 } else { 1.0 };
    [sign * b, sign * c, sign * d]
}
