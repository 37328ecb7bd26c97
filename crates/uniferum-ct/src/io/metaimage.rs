//! MetaImage: `.mhd` with its `.raw` or `.zraw`, and `.mha`, as LUNA16 and ITK write them.

use std::collections::HashMap;
use std::path::Path;

use ndarray::Array3;

use super::deflate::{Wrapper, inflate};
use super::geometry::affine_from_lps;
use super::text_header::{MAX_HEADER, data_file, exactly, sizes};
use super::voxels::{DataType, FromStored, Grid, Order, too_short};
use super::{bytes, read::Decoded};
use crate::error::{Error, Result};
use crate::{Affine, Format, HuSource, Volume};

/// Whether the bytes start a MetaImage header: its first line has one of the keys that may come first.
pub(crate) fn is_metaimage(head: &[u8]) -> bool {
    let first = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let Ok(first) = std::str::from_utf8(first) else {
        return false;
    };
    let Some((key, _)) = first.split_once('=') else {
        return false;
    };
    [
        "ObjectType",
        "ObjectSubType",
        "NDims",
        "Comment",
        "Name",
        "ID",
    ]
    .contains(&key.trim())
}

/// A parsed header and where its voxels are.
struct Header {
    grid: Grid,
    affine: Affine,
    scaling: Option<(f64, f64)>,
    compressed: bool,
    /// Bytes to skip in the data file; -1 says that the voxels are its last bytes.
    skip: i64,
    data: Data,
}

enum Data {
    /// In the same file, from this byte on.
    Local(usize),
    File(String),
}

/// Reads a MetaImage.
pub(crate) fn read<T: FromStored>(path: &Path, hu: HuSource) -> Result<Decoded<T>> {
    let raw = bytes::read(path)?;
    let header = parse(path, &raw)?;
    let voxels = match &header.data {
        Data::Local(start) => decode(path, &header, &raw[*start..], hu)?,
        Data::File(name) => {
            let file = data_file(path, "ElementDataFile", name)?;
            decode(&file, &header, &bytes::read(&file)?, hu)?
        }
    };
    Ok(Decoded {
        volume: Volume::new(voxels, header.affine),
        format: Format::MetaImage,
        warnings: Vec::new(),
    })
}

fn decode<T: FromStored>(
    path: &Path,
    header: &Header,
    data: &[u8],
    hu: HuSource,
) -> Result<Array3<T>> {
    let scaling = hu.scaling(header.scaling);
    let needed = header.grid.bytes(path, "DimSize")?;
    let skip = match header.skip {
        // Voxels at the end of the file make no sense for a compressed stream of unknown length.
        -1 if !header.compressed => (data.len() as u64).checked_sub(needed),
        n => u64::try_from(n).ok().filter(|&n| n <= data.len() as u64),
    };
    let Some(skip) = skip else {
        return Err(too_short(path, needed, data.len() as u64));
    };
    let data = &data[skip as usize..];
    if header.compressed {
        let plain = inflate(path, data, needed, Wrapper::Zlib)?;
        return header.grid.read(path, &plain, scaling);
    }
    header.grid.read(path, data, scaling)
}

/// The `key = value` lines up to `ElementDataFile`, which ends the header.
fn fields(path: &Path, raw: &[u8]) -> Result<(HashMap<String, String>, usize)> {
    let mut fields = HashMap::new();
    let mut at = 0;
    let head = &raw[..raw.len().min(MAX_HEADER)];
    while let Some(length) = head[at..].iter().position(|&b| b == b'\n') {
        let line = String::from_utf8_lossy(&head[at..at + length]);
        at += length + 1;
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        let last = key == "ElementDataFile";
        fields.insert(key, value);
        if last {
            return Ok((fields, at));
        }
    }
    // The last line of a detached header may lack its line feed.
    let line = String::from_utf8_lossy(&head[at..]);
    match line.split_once('=') {
        Some((key, value)) if key.trim() == "ElementDataFile" => {
            fields.insert("ElementDataFile".into(), value.trim().into());
            Ok((fields, head.len()))
        }
        _ => Err(Error::field(
            path,
            "ElementDataFile",
            "the last line of the header",
            "none",
        )),
    }
}

fn parse(path: &Path, raw: &[u8]) -> Result<Header> {
    let (fields, end) = fields(path, raw)?;
    let get = |key: &str| fields.get(key).map(String::as_str);
    let either = |keys: [&str; 3]| keys.into_iter().find_map(get);
    let refuse = |field, expected: &str, got: Option<&str>| {
        Err(Error::field(
            path,
            field,
            expected,
            got.unwrap_or("nothing"),
        ))
    };
    if get("NDims") != Some("3") {
        return refuse("NDims", "3", get("NDims"));
    }
    if let Some(channels) = get("ElementNumberOfChannels").filter(|&n| n != "1") {
        return refuse("ElementNumberOfChannels", "1", Some(channels));
    }
    if get("BinaryData").is_some_and(|text| !is_true(text)) {
        return refuse("BinaryData", "True", get("BinaryData"));
    }
    let shape = sizes(path, "DimSize", get("DimSize").unwrap_or_default())?;
    let big = either(["BinaryDataByteOrderMSB", "ElementByteOrderMSB", ""]).is_some_and(is_true);
    let name = get("ElementDataFile").unwrap_or_default();
    let data = match name {
        "LOCAL" | "Local" | "local" => Data::Local(end),
        _ if name.starts_with("LIST") || name.contains('%') => {
            return Err(Error::unsupported(
                path,
                "ElementDataFile with a list of slice files",
            ));
        }
        _ => Data::File(name.to_owned()),
    };
    let skip = get("HeaderSize").unwrap_or("0");
    Ok(Header {
        grid: Grid {
            shape,
            data_type: data_type(path, get("ElementType").unwrap_or_default())?,
            big_endian: big,
            order: Order::FirstFastest,
        },
        affine: affine(
            path,
            either(["TransformMatrix", "Rotation", "Orientation"]),
            either(["Offset", "Position", "Origin"]),
            either(["ElementSpacing", "ElementSize", ""]),
        )?,
        scaling: scaling(path, &get)?,
        compressed: get("CompressedData").is_some_and(is_true),
        skip: skip
            .parse()
            .ok()
            .filter(|&n| n >= -1)
            .ok_or_else(|| Error::field(path, "HeaderSize", "-1 or a number of bytes", skip))?,
        data,
    })
}

fn is_true(text: &str) -> bool {
    text.starts_with(['T', 't', '1'])
}

fn data_type(path: &Path, name: &str) -> Result<DataType> {
    Ok(match name {
        "MET_CHAR" | "MET_ASCII_CHAR" => DataType::I8,
        "MET_UCHAR" => DataType::U8,
        "MET_SHORT" => DataType::I16,
        "MET_USHORT" => DataType::U16,
        // The format's `long` has four bytes.
        "MET_INT" | "MET_LONG" => DataType::I32,
        "MET_UINT" | "MET_ULONG" => DataType::U32,
        "MET_LONG_LONG" => DataType::I64,
        "MET_ULONG_LONG" => DataType::U64,
        "MET_FLOAT" => DataType::F32,
        "MET_DOUBLE" => DataType::F64,
        _ => {
            let expected = "a scalar type such as MET_SHORT";
            return Err(Error::field(path, "ElementType", expected, name));
        }
    })
}

/// Row `i` of the matrix is the direction of array axis `i`, in LPS.
fn affine(
    path: &Path,
    matrix: Option<&str>,
    offset: Option<&str>,
    spacing: Option<&str>,
) -> Result<Affine> {
    let m: [f64; 9] = exactly(
        path,
        "TransformMatrix",
        matrix.unwrap_or("1 0 0 0 1 0 0 0 1"),
    )?;
    let origin = exactly(path, "Offset", offset.unwrap_or("0 0 0"))?;
    let spacing: [f64; 3] = exactly(path, "ElementSpacing", spacing.unwrap_or_default())?;
    let steps = std::array::from_fn(|axis| {
        std::array::from_fn(|row| m[3 * axis + row] * spacing[axis].abs())
    });
    affine_from_lps(path, "TransformMatrix", steps, origin)
}

/// `ElementToIntensityFunction`: rare, but it is this format's slope and intercept.
fn scaling<'a>(path: &Path, get: &impl Fn(&str) -> Option<&'a str>) -> Result<Option<(f64, f64)>> {
    let (slope, offset) = (
        get("ElementToIntensityFunctionSlope"),
        get("ElementToIntensityFunctionOffset"),
    );
    if slope.is_none() && offset.is_none() {
        return Ok(None);
    }
    let field = "ElementToIntensityFunctionSlope";
    let [slope] = exactly(path, field, slope.unwrap_or("1"))?;
    let [offset] = exactly(
        path,
        "ElementToIntensityFunctionOffset",
        offset.unwrap_or("0"),
    )?;
    if slope == 0.0 || !slope.is_finite() || !offset.is_finite() {
        return Err(Error::field(
            path,
            field,
            "a finite slope other than 0",
            slope,
        ));
    }
    Ok(Some((slope, offset)))
}
