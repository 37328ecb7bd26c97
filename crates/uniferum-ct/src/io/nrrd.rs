//! NRRD: `.nrrd` and `.nhdr` with its data file, raw or gzip, as 3D Slicer and pyradiomics write them.

use std::collections::HashMap;
use std::path::Path;

use ndarray::Array3;

use super::geometry::affine_from_lps;
use super::text_header::{MAX_HEADER, data_file, exactly, numbers, sizes};
use super::voxels::{DataType, FromStored, Grid, Order, too_short};
use super::{bytes, gzip, read::Decoded};
use crate::error::{Error, Result};
use crate::{Affine, Format, HuSource, Volume};

/// Whether the bytes start a NRRD header.
pub(crate) fn is_nrrd(head: &[u8]) -> bool {
    head.starts_with(b"NRRD000")
}

struct Header {
    grid: Grid,
    affine: Affine,
    gzip: bool,
    line_skip: usize,
    byte_skip: i64,
    data_file: Option<String>,
    /// Where the data of an attached header start.
    end: usize,
    warnings: Vec<String>,
}

/// Reads a NRRD; it has no slope or intercept of its own.
pub(crate) fn read<T: FromStored>(path: &Path, hu: HuSource) -> Result<Decoded<T>> {
    let raw = bytes::read(path)?;
    let header = parse(path, &raw)?;
    let scaling = hu.scaling(None);
    let voxels = match &header.data_file {
        None => voxels(path, &header, &raw[header.end..], scaling)?,
        Some(name) => {
            let file = data_file(path, "data file", name)?;
            voxels(&file, &header, &bytes::read(&file)?, scaling)?
        }
    };
    Ok(Decoded {
        volume: Volume::new(voxels, header.affine),
        format: Format::Nrrd,
        warnings: header.warnings,
    })
}

/// The voxels of the file's data, after what is to be skipped.
fn voxels<T: FromStored>(
    path: &Path,
    header: &Header,
    data: &[u8],
    scaling: Option<(f64, f64)>,
) -> Result<Array3<T>> {
    let needed = header.grid.bytes(path, "sizes")?;
    let mut data = data;
    for _ in 0..header.line_skip {
        let end = data.iter().position(|&b| b == b'\n');
        let Some(at) = end else {
            let got = "fewer lines";
            return Err(Error::field(path, "line skip", header.line_skip, got));
        };
        data = &data[at + 1..];
    }
    if header.gzip {
        let skip = u64::try_from(header.byte_skip).unwrap_or(0);
        let wanted = needed.saturating_add(skip);
        gzip::check_claim(path, wanted, data.len() as u64)?;
        let mut stream = gzip::stream(data);
        gzip::skip(path, &mut stream, skip)?;
        let damaged = |error| gzip::damaged(path, &error);
        let voxels = header
            .grid
            .read_stream(path, &mut stream, scaling, damaged)?;
        gzip::finish(path, &mut stream, 0)?;
        return Ok(voxels);
    }
    let skip = match header.byte_skip {
        -1 => (data.len() as u64).checked_sub(needed),
        n => u64::try_from(n).ok().filter(|&n| n <= data.len() as u64),
    };
    let skip = skip.ok_or_else(|| too_short(path, needed, data.len() as u64))?;
    header.grid.read(path, &data[skip as usize..], scaling)
}

/// The lines up to the blank one; keys in lower case without blanks.
fn fields(path: &Path, raw: &[u8]) -> Result<(HashMap<String, String>, usize)> {
    let mut fields = HashMap::new();
    let mut at = 0;
    let head = &raw[..raw.len().min(MAX_HEADER)];
    while at < head.len() {
        let length = head[at..].iter().position(|&b| b == b'\n');
        let end = length.map_or(head.len(), |n| at + n);
        let line = String::from_utf8_lossy(&head[at..end]);
        let line = line.trim();
        at = (end + 1).min(head.len());
        if line.is_empty() {
            return Ok((fields, at));
        }
        // `key:=value` is free text, `key: value` a field.
        match line.split_once(':') {
            Some((_, rest)) if rest.starts_with('=') => {}
            Some((key, value)) if !line.starts_with('#') => {
                let key = key.to_ascii_lowercase().replace(' ', "");
                fields.insert(key, value.trim().to_owned());
            }
            _ => {}
        }
    }
    // A detached header may end without the blank line.
    if raw.len() <= MAX_HEADER && fields.contains_key("datafile") {
        return Ok((fields, raw.len()));
    }
    let expected = format!("a blank line within {MAX_HEADER} bytes");
    Err(Error::field(path, "header", expected, "none"))
}

fn parse(path: &Path, raw: &[u8]) -> Result<Header> {
    let (fields, end) = fields(path, raw)?;
    let get = |key: &str| fields.get(key).map(String::as_str);
    if get("dimension") != Some("3") {
        let got = get("dimension").unwrap_or("nothing");
        return Err(Error::field(path, "dimension", "3", got));
    }
    let data_type = data_type(path, get("type").unwrap_or_default())?;
    let gzip = match get("encoding").unwrap_or_default() {
        "raw" => false,
        "gzip" | "gz" => true,
        other => return Err(Error::unsupported(path, format!("encoding {other:?}"))),
    };
    let big_endian = match get("endian") {
        Some("big") => true,
        Some("little") => false,
        None if data_type.size() == 1 => false,
        got => {
            let got = got.unwrap_or("nothing");
            return Err(Error::field(path, "endian", "little or big", got));
        }
    };
    let name = get("datafile").map(str::to_owned);
    if name
        .as_ref()
        .is_some_and(|n| n.starts_with("LIST") || n.contains('%'))
    {
        return Err(Error::unsupported(
            path,
            "data file with a list of slice files",
        ));
    }
    let mut warnings = Vec::new();
    Ok(Header {
        grid: Grid {
            shape: sizes(path, "sizes", get("sizes").unwrap_or_default())?,
            data_type,
            big_endian,
            order: Order::FirstFastest,
        },
        affine: affine(path, &get, &mut warnings)?,
        gzip,
        line_skip: whole(path, "line skip", get("lineskip"), 0)? as usize,
        byte_skip: whole(path, "byte skip", get("byteskip"), -1)?,
        data_file: name,
        end,
        warnings,
    })
}

fn whole(path: &Path, field: &'static str, text: Option<&str>, least: i64) -> Result<i64> {
    let text = text.unwrap_or("0");
    text.parse()
        .ok()
        .filter(|n| (least..1 << 32).contains(n))
        .ok_or_else(|| Error::field(path, field, format!("a number from {least}"), text))
}

fn data_type(path: &Path, name: &str) -> Result<DataType> {
    Ok(match name {
        "signed char" | "int8" | "int8_t" => DataType::I8,
        "uchar" | "unsigned char" | "uint8" | "uint8_t" => DataType::U8,
        "short" | "short int" | "signed short" | "signed short int" | "int16" | "int16_t" => {
            DataType::I16
        }
        "ushort" | "unsigned short" | "unsigned short int" | "uint16" | "uint16_t" => DataType::U16,
        "int" | "signed int" | "int32" | "int32_t" => DataType::I32,
        "uint" | "unsigned int" | "uint32" | "uint32_t" => DataType::U32,
        "longlong"
        | "long long"
        | "long long int"
        | "signed long long"
        | "signed long long int"
        | "int64"
        | "int64_t" => DataType::I64,
        "ulonglong" | "unsigned long long" | "unsigned long long int" | "uint64" | "uint64_t" => {
            DataType::U64
        }
        "float" => DataType::F32,
        "double" => DataType::F64,
        _ => {
            return Err(Error::field(
                path,
                "type",
                "a scalar type such as short",
                name,
            ));
        }
    })
}

fn affine<'a>(
    path: &Path,
    get: &impl Fn(&str) -> Option<&'a str>,
    warnings: &mut Vec<String>,
) -> Result<Affine> {
    let mut steps = [[0.0; 3]; 3];
    let mut origin = [0.0; 3];
    match get("spacedirections") {
        Some(text) => {
            let m: [f64; 9] = exactly(path, "space directions", text)?;
            steps = std::array::from_fn(|axis| std::array::from_fn(|row| m[3 * axis + row]));
            origin = exactly(path, "space origin", get("spaceorigin").unwrap_or("0 0 0"))?;
        }
        None => {
            let spacing: [f64; 3] = exactly(path, "spacings", get("spacings").unwrap_or_default())?;
            for axis in 0..3 {
                steps[axis][axis] = spacing[axis].abs();
            }
            if let Some(mins) = get("axismins").and_then(numbers).filter(|m| m.len() == 3) {
                origin.copy_from_slice(&mins);
            }
            warnings.push("no space directions: orientation is not known, LPS is assumed".into());
        }
    }
    let sign = to_lps(path, get("space"), warnings)?;
    for row in 0..3 {
        for axis in 0..3 {
            steps[axis][row] *= sign[row];
        }
        origin[row] *= sign[row];
    }
    affine_from_lps(path, "space directions", steps, origin)
}

/// Signs that turn the file's space into LPS.
fn to_lps(path: &Path, space: Option<&str>, warnings: &mut Vec<String>) -> Result<[f64; 3]> {
    Ok(match space.map(str::to_ascii_lowercase).as_deref() {
        Some("left-posterior-superior" | "lps") => [1.0, 1.0, 1.0],
        Some("right-anterior-superior" | "ras") => [-1.0, -1.0, 1.0],
        Some("left-anterior-superior" | "las") => [1.0, -1.0, 1.0],
        None => {
            warnings.push("no space: left-posterior-superior is assumed".into());
            [1.0; 3]
        }
        Some(other) => {
            let expected =
                "left-posterior-superior, right-anterior-superior or left-anterior-superior";
            return Err(Error::field(path, "space", expected, other));
        }
    })
}
