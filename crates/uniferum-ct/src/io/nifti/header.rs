//! The header: parsed field by field and checked before anything is allocated.

use std::path::Path;

use crate::Affine;
use crate::error::{Error, Result};
use crate::io::geometry::usable;
use crate::io::voxels::DataType;

/// The type of a NIfTI datatype code.
fn data_type(path: &Path, code: i16) -> Result<DataType> {
    let refuse = |what: &str| {
        let what = format!("datatype {code} ({what})");
        Err(Error::unsupported(path, what))
    };
    Ok(match code {
        2 => DataType::U8,
        4 => DataType::I16,
        8 => DataType::I32,
        16 => DataType::F32,
        64 => DataType::F64,
        256 => DataType::I8,
        512 => DataType::U16,
        768 => DataType::U32,
        1024 => DataType::I64,
        1280 => DataType::U64,
        128 => return refuse("RGB colour, not CT"),
        2304 => return refuse("RGBA colour, not CT"),
        32 | 1792 | 2048 => return refuse("complex numbers, not CT"),
        1536 => return refuse("128-bit floats"),
        1 => return refuse("single bits"),
        _ => {
            let expected = "a NIfTI code such as 4 (int16) or 16 (float32)";
            return Err(Error::field(path, "datatype", expected, code));
        }
    })
}

/// A header extension, kept as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The registered code, 0 for unknown (TotalSegmentator writes its label map so).
    pub code: i32,
    /// The content without its 8-byte head, trailing zero bytes removed.
    pub data: Vec<u8>,
}

/// What a NIfTI header says, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 1 or 2.
    pub version: u8,
    /// Whether the file is big endian.
    pub big_endian: bool,
    /// Voxels along each axis; a fourth axis of one volume is allowed and dropped.
    pub shape: [usize; 3],
    /// Type of the stored voxels.
    pub data_type: DataType,
    /// Where the voxels start in the (decompressed) file.
    pub vox_offset: u64,
    /// `value = stored * slope + intercept`; `None` where the file is not scaled (slope 0 or not finite).
    pub scaling: Option<(f64, f64)>,
    /// Voxel indices to RAS+ mm, by the standard's rules: sform, else qform, else spacing alone.
    pub affine: Affine,
    /// Which of the three rules gave the affine.
    pub affine_source: AffineSource,
    /// Things that a user may want to know.
    pub warnings: Vec<String>,
}

/// The rule of the standard that an affine came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AffineSource {
    /// Method 3: `srow_x`, `srow_y`, `srow_z`.
    Sform,
    /// Method 2: quaternion and offsets.
    Qform,
    /// Method 1: spacing alone; orientation is not known.
    Spacing,
}

/// Offsets of the fields that both versions have, in bytes.
struct Layout {
    dim: usize,
    datatype: usize,
    bitpix: usize,
    pixdim: usize,
    vox_offset: usize,
    scl_slope: usize,
    qform_code: usize,
    sform_code: usize,
    quatern: usize,
    srow: usize,
    wide: bool,
}

const NIFTI1: Layout = Layout {
    dim: 40,
    datatype: 70,
    bitpix: 72,
    pixdim: 76,
    vox_offset: 108,
    scl_slope: 112,
    qform_code: 252,
    sform_code: 254,
    quatern: 256,
    srow: 280,
    wide: false,
};

const NIFTI2: Layout = Layout {
    dim: 16,
    datatype: 12,
    bitpix: 14,
    pixdim: 104,
    vox_offset: 168,
    scl_slope: 176,
    qform_code: 344,
    sform_code: 348,
    quatern: 352,
    srow: 400,
    wide: true,
};

/// Bytes that are enough for either header and the four that say whether extensions follow.
pub(crate) const HEADER_BYTES: usize = 544;

fn version(bytes: &[u8]) -> Option<(u8, bool)> {
    let size = bytes.first_chunk::<4>()?;
    match (i32::from_le_bytes(*size), i32::from_be_bytes(*size)) {
        (348, _) => Some((1, false)),
        (_, 348) => Some((1, true)),
        (540, _) => Some((2, false)),
        (_, 540) => Some((2, true)),
        _ => None,
    }
}

/// Whether the bytes start a NIfTI header, right or wrong in its other fields.
pub(crate) fn is_nifti(bytes: &[u8]) -> bool {
    version(bytes).is_some()
}

/// Numbers of one byte order out of the header's bytes.
struct Fields<'a> {
    bytes: &'a [u8],
    big: bool,
    wide: bool,
}

impl Fields<'_> {
    fn take<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.bytes[at..at + N]);
        if self.big {
            out.reverse();
        }
        out
    }

    fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.take(at))
    }

    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.take(at))
    }

    /// An integer of the width that dimensions have in this version.
    fn dim(&self, start: usize, index: usize) -> i64 {
        if self.wide {
            i64::from_le_bytes(self.take(start + 8 * index))
        } else {
            i64::from(self.i16(start + 2 * index))
        }
    }

    /// A float of the width that positions have in this version.
    fn float(&self, start: usize, index: usize) -> f64 {
        if self.wide {
            f64::from_le_bytes(self.take(start + 8 * index))
        } else {
            f64::from(f32::from_le_bytes(self.take(start + 4 * index)))
        }
    }

    fn code(&self, at: usize) -> i32 {
        if self.wide {
            self.i32(at)
        } else {
            i32::from(self.i16(at))
        }
    }
}

/// Parses and checks a header.
///
/// # Errors
/// [`Error::Field`] or [`Error::Unsupported`] with the name of the field.
pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Header> {
    let Some((version, big_endian)) = version(bytes) else {
        let got = bytes
            .first_chunk::<4>()
            .map_or(-1, |b| i32::from_le_bytes(*b));
        return Err(Error::field(
            path,
            "sizeof_hdr",
            "348 (NIfTI-1) or 540 (NIfTI-2)",
            got,
        ));
    };
    let layout = if version == 1 { &NIFTI1 } else { &NIFTI2 };
    let size = if version == 1 { 348 } else { 540 };
    if bytes.len() < size {
        return Err(Error::corrupt(
            path,
            format!("header cut off after {} of {size} bytes", bytes.len()),
        ));
    }
    check_magic(path, version, bytes)?;
    let fields = Fields {
        bytes,
        big: big_endian,
        wide: layout.wide,
    };
    let shape = shape(path, &fields, layout)?;
    let data_type = data_type(path, fields.i16(layout.datatype))?;
    let bits = fields.i16(layout.bitpix);
    if usize::try_from(bits) != Ok(8 * data_type.size()) {
        let expected = format!("{} bits for {data_type:?}", 8 * data_type.size());
        return Err(Error::field(path, "bitpix", expected, bits));
    }
    let mut warnings = Vec::new();
    let (affine, affine_source) = affine(path, &fields, layout, &mut warnings)?;
    warn_of_spacing(&fields, layout, &affine, affine_source, &mut warnings);
    let affine = in_millimetres(affine, bytes, version, big_endian, &mut warnings);
    Ok(Header {
        version,
        big_endian,
        shape,
        data_type,
        vox_offset: vox_offset(path, &fields, layout)?,
        scaling: scaling(&fields, layout, &mut warnings),
        affine,
        affine_source,
        warnings,
    })
}

/// CT is in millimetres. Where another unit is told, the numbers say whether it is meant: voxels are neither
/// thinner than 0.02 mm nor thicker than 50.
fn in_millimetres(
    affine: Affine,
    bytes: &[u8],
    version: u8,
    big_endian: bool,
    warnings: &mut Vec<String>,
) -> Affine {
    // One byte in version 1, the low byte of an int32 in version 2.
    let at = match (version, big_endian) {
        (1, _) => 123,
        (_, false) => 500,
        (_, true) => 503,
    };
    let (unit, millimetres) = match bytes[at] & 7 {
        1 => ("metres", 1000.0),
        3 => ("micrometres", 0.001),
        _ => return affine,
    };
    let possible = |scale: f64| {
        let spacing = affine.spacing();
        spacing.iter().all(|s| (0.02..=50.0).contains(&(s * scale)))
    };
    if possible(1.0) || !possible(millimetres) {
        warnings.push(format!("xyzt_units says {unit}; millimetres are assumed"));
        return affine;
    }
    warnings.push(format!("xyzt_units says {unit}; changed to millimetres"));
    let mut scaled = affine.0;
    let rows = scaled.iter_mut().take(3);
    rows.flatten().for_each(|cell| *cell *= millimetres);
    Affine(scaled)
}

fn check_magic(path: &Path, version: u8, bytes: &[u8]) -> Result<()> {
    let (magic, expected): (&[u8], [&[u8]; 2]) = if version == 1 {
        (&bytes[344..348], [b"n+1\0", b"ni1\0"])
    } else {
        (&bytes[4..8], [b"n+2\0", b"ni2\0"])
    };
    if expected.contains(&magic) {
        return Ok(());
    }
    let expected = if version == 1 {
        "\"n+1\" or \"ni1\""
    } else {
        "\"n+2\" or \"ni2\""
    };
    Err(Error::field(
        path,
        "magic",
        expected,
        format!("{:?}", String::from_utf8_lossy(magic)),
    ))
}

/// Whether the voxels are in a separate `.img` file.
pub(crate) fn is_pair(bytes: &[u8]) -> bool {
    bytes.get(344..347) == Some(b"ni1") || bytes.get(4..7) == Some(b"ni2")
}

fn shape(path: &Path, fields: &Fields<'_>, layout: &Layout) -> Result<[usize; 3]> {
    let rank = fields.dim(layout.dim, 0);
    if !(3..=7).contains(&rank) {
        return Err(Error::field(
            path,
            "dim[0]",
            "3 dimensions (or more of size 1)",
            rank,
        ));
    }
    for (axis, name) in [(4, "dim[4]"), (5, "dim[5]"), (6, "dim[6]"), (7, "dim[7]")] {
        if axis as i64 <= rank && fields.dim(layout.dim, axis) != 1 {
            let got = fields.dim(layout.dim, axis);
            return Err(Error::field(path, name, "1: a CT is one 3-D volume", got));
        }
    }
    let mut shape = [0; 3];
    for (axis, name) in ["dim[1]", "dim[2]", "dim[3]"].into_iter().enumerate() {
        let size = fields.dim(layout.dim, axis + 1);
        shape[axis] = usize::try_from(size)
            .ok()
            .filter(|&n| n > 0 && n <= i32::MAX as usize)
            .ok_or_else(|| Error::field(path, name, "a positive size", size))?;
    }
    Ok(shape)
}

fn vox_offset(path: &Path, fields: &Fields<'_>, layout: &Layout) -> Result<u64> {
    let offset = if layout.wide {
        fields.dim(layout.vox_offset, 0) as f64
    } else {
        fields.float(layout.vox_offset, 0)
    };
    let end_of_header = if layout.wide { 540.0 } else { 348.0 };
    // Some writers leave 0 in a single file; the voxels then follow the header and its 4 flag bytes.
    if offset == 0.0 {
        return Ok(if is_pair(fields.bytes) {
            0
        } else {
            end_of_header as u64 + 4
        });
    }
    if !(offset >= end_of_header || is_pair(fields.bytes) && offset > 0.0) || offset > 1e12 {
        return Err(Error::field(
            path,
            "vox_offset",
            format!("at least {end_of_header}"),
            offset,
        ));
    }
    Ok(offset as u64)
}

fn scaling(fields: &Fields<'_>, layout: &Layout, warnings: &mut Vec<String>) -> Option<(f64, f64)> {
    let slope = fields.float(layout.scl_slope, 0);
    let intercept = fields.float(layout.scl_slope, 1);
    if slope == 0.0 {
        return None;
    }
    if !slope.is_finite() || !intercept.is_finite() {
        warnings.push(format!(
            "scl_slope {slope} and scl_inter {intercept} are ignored"
        ));
        return None;
    }
    Some((slope, intercept))
}

fn affine(
    path: &Path,
    fields: &Fields<'_>,
    layout: &Layout,
    warnings: &mut Vec<String>,
) -> Result<(Affine, AffineSource)> {
    let sform = (fields.code(layout.sform_code) > 0).then(|| sform(fields, layout));
    let qform = if fields.code(layout.qform_code) > 0 {
        qform(fields, layout)
    } else {
        None
    };
    if let (Some(s), Some(q)) = (&sform, &qform) {
        let spacing = s.spacing().into_iter().fold(f64::INFINITY, f64::min);
        let apart =
            (0..3).any(|r| (0..4).any(|c| (s.0[r][c] - q.0[r][c]).abs() > 0.01 * spacing.max(0.1)));
        if apart {
            warnings.push("sform and qform disagree; sform is used".to_owned());
        }
    }
    if let Some(affine) = sform {
        return usable(path, "srow_x/y/z", affine).map(|a| (a, AffineSource::Sform));
    }
    if let Some(affine) = qform {
        return usable(path, "qform", affine).map(|a| (a, AffineSource::Qform));
    }
    warnings.push("neither sform nor qform: orientation is not known, RAS is assumed".to_owned());
    let spacing: [f64; 3] = std::array::from_fn(|axis| fields.float(layout.pixdim, axis + 1).abs());
    let affine = Affine::from_spacing(spacing, [1.0; 3], [0.0; 3]);
    usable(path, "pixdim", affine).map(|a| (a, AffineSource::Spacing))
}

/// The affine goes before the sizes of voxels; one of them is wrong where they differ.
fn warn_of_spacing(
    fields: &Fields<'_>,
    layout: &Layout,
    affine: &Affine,
    source: AffineSource,
    warnings: &mut Vec<String>,
) {
    let stated: [f64; 3] = std::array::from_fn(|axis| fields.float(layout.pixdim, axis + 1).abs());
    let spacing = affine.spacing();
    let mut pairs = stated.iter().zip(spacing);
    let differ = pairs.any(|(stated, own)| (stated / own - 1.0).abs() > 0.02);
    if source == AffineSource::Sform && stated.iter().all(|s| *s > 0.0) && differ {
        warnings.push(format!(
            "pixdim says voxels of {stated:.3?}, sform of {spacing:.3?}; sform is used"
        ));
    }
}

fn sform(fields: &Fields<'_>, layout: &Layout) -> Affine {
    let mut m = Affine::IDENTITY.0;
    for (index, cell) in m.iter_mut().take(3).flatten().enumerate() {
        *cell = fields.float(layout.srow, index);
    }
    Affine(m)
}

/// Method 2 of the standard. Spacings are magnitudes; the sign of `pixdim[0]` mirrors the third axis.
fn qform(fields: &Fields<'_>, layout: &Layout) -> Option<Affine> {
    let [b, c, d, x, y, z] = std::array::from_fn(|i| fields.float(layout.quatern, i));
    let mut rest = 1.0 - (b * b + c * c + d * d);
    if rest.is_nan() {
        return None;
    }
    let (mut b, mut c, mut d) = (b, c, d);
    if rest < 1e-7 {
        let norm = (b * b + c * c + d * d).sqrt().recip();
        (b, c, d) = (b * norm, c * norm, d * norm);
        rest = 0.0;
    }
    let a = rest.sqrt();
    let rotation = [
        [
            a * a + b * b - c * c - d * d,
            2.0 * (b * c - a * d),
            2.0 * (b * d + a * c),
        ],
        [
            2.0 * (b * c + a * d),
            a * a + c * c - b * b - d * d,
            2.0 * (c * d - a * b),
        ],
        [
            2.0 * (b * d - a * c),
            2.0 * (c * d + a * b),
            a * a + d * d - b * b - c * c,
        ],
    ];
    let qfac = if fields.float(layout.pixdim, 0) < 0.0 {
        -1.0
    } else {
        1.0
    };
    let mut m = Affine::IDENTITY.0;
    for row in 0..3 {
        for axis in 0..3 {
            let spacing = fields.float(layout.pixdim, axis + 1).abs();
            m[row][axis] = rotation[row][axis] * spacing * if axis == 2 { qfac } else { 1.0 };
        }
        m[row][3] = [x, y, z][row];
    }
    Some(Affine(m))
}

/// The extensions between header and voxels; nonsense sizes end the list with a warning.
pub(crate) fn extensions(bytes: &[u8], header: &mut Header) -> Vec<Extension> {
    let size = if header.version == 1 { 348 } else { 540 };
    // In a pair the whole header file may hold extensions.
    let end = if is_pair(bytes) {
        bytes.len()
    } else {
        usize::try_from(header.vox_offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len())
    };
    let mut out = Vec::new();
    if bytes.len() < size + 4 || bytes[size] == 0 {
        return out;
    }
    let mut at = size + 4;
    let fields = Fields {
        bytes,
        big: header.big_endian,
        wide: false,
    };
    while at + 8 <= end {
        let length = fields.i32(at);
        let Some(next) = usize::try_from(length)
            .ok()
            .filter(|&n| n >= 8)
            .and_then(|n| at.checked_add(n))
            .filter(|&n| n <= end)
        else {
            header
                .warnings
                .push(format!("header extension of {length} bytes is ignored"));
            break;
        };
        let mut data = bytes[at + 8..next].to_vec();
        data.truncate(
            data.iter()
                .rposition(|&b| b != 0)
                .map_or(0, |last| last + 1),
        );
        out.push(Extension {
            code: fields.i32(at + 4),
            data,
        });
        at = next;
    }
    out
}
