//! RAD-ChestCT `.npz`: a zip archive with the array `ct`, and plain `.npy` of the same kind.
//!
//! The array has no geometry of its own. The collection's is used: axes run inferior, posterior, left
//! (z descending, rows, columns) with 0.8 mm between voxels.

use std::io::Cursor;
use std::path::Path;

use super::deflate::{Wrapper, inflate};
use super::voxels::{DataType, FromStored, Grid, Order};
use super::{bytes, read::Decoded};
use crate::error::{Error, Result};
use crate::{Affine, Format, HuSource, Volume};

/// Distance of voxels in RAD-ChestCT, mm.
const SPACING_MM: f64 = 0.8;
/// The array's name in the archive.
const KEY: &str = "ct.npy";

/// Whether the bytes start a zip archive.
pub(crate) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(b"PK\x03\x04")
}

/// Whether the bytes start a numpy array.
pub(crate) fn is_npy(head: &[u8]) -> bool {
    head.starts_with(b"\x93NUMPY")
}

/// Reads the array `ct` of an archive, or a single array.
pub(crate) fn read<T: FromStored>(path: &Path, hu: HuSource) -> Result<Decoded<T>> {
    let raw = bytes::read(path)?;
    let array = if is_zip(&raw) {
        member(path, &raw)?
    } else {
        raw
    };
    let (grid, start) = header(path, &array)?;
    let voxels = grid.read(path, &array[start..], hu.scaling(None))?;
    Ok(Decoded {
        volume: Volume::new(voxels, ipl()),
        format: Format::Npz,
        warnings: vec![
            "npz has no geometry: 0.8 mm and axes running inferior, posterior, left are assumed"
                .into(),
        ],
    })
}

fn ipl() -> Affine {
    let mut m = Affine::IDENTITY.0;
    for axis in 0..3 {
        m[axis][axis] = 0.0;
        m[2 - axis][axis] = -SPACING_MM;
    }
    Affine(m)
}

/// The bytes of the array `ct`, its CRC checked.
fn member(path: &Path, raw: &[u8]) -> Result<Vec<u8>> {
    let damaged = |error: zip::result::ZipError| Error::corrupt(path, format!("zip: {error}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(raw)).map_err(damaged)?;
    let Some(index) = archive.index_for_name(KEY) else {
        let got = format!("an archive of {} other files", archive.len());
        return Err(Error::field(path, "array", KEY, got));
    };
    let entry = archive.by_index_raw(index).map_err(damaged)?;
    let (size, crc, method) = (entry.size(), entry.crc32(), entry.compression());
    let start = entry.data_start().unwrap_or(u64::MAX);
    let stored = usize::try_from(start)
        .ok()
        .zip(usize::try_from(entry.compressed_size()).ok())
        .and_then(|(start, length)| raw.get(start..start.checked_add(length)?))
        .ok_or_else(|| Error::corrupt(path, "zip: ct.npy reaches beyond the end of the file"))?;
    let plain = match method {
        zip::CompressionMethod::Stored => stored.to_vec(),
        zip::CompressionMethod::Deflated => inflate(path, stored, size, Wrapper::Raw)?,
        other => return Err(Error::unsupported(path, format!("zip compression {other}"))),
    };
    let got = libdeflater::crc32(&plain);
    if got != crc {
        let what = format!("zip: CRC of ct.npy: expected {crc:08x}, got {got:08x}");
        return Err(Error::corrupt(path, what));
    }
    Ok(plain)
}

/// The grid that a numpy header describes, and where its data start.
fn header(path: &Path, array: &[u8]) -> Result<(Grid, usize)> {
    let cut = || Error::corrupt(path, "numpy header cut off");
    if !is_npy(array) {
        return Err(Error::field(path, "npy magic", "\\x93NUMPY", "other bytes"));
    }
    let (length, start): (usize, usize) = match array.get(6).ok_or_else(cut)? {
        1 => {
            let length = array.get(8..10).ok_or_else(cut)?;
            (usize::from(u16::from_le_bytes([length[0], length[1]])), 10)
        }
        2 | 3 => {
            let length = array
                .get(8..)
                .and_then(<[u8]>::first_chunk)
                .ok_or_else(cut)?;
            (u32::from_le_bytes(*length) as usize, 12)
        }
        version => return Err(Error::field(path, "npy version", "1 to 3", version)),
    };
    let text = array
        .get(start..start.saturating_add(length))
        .ok_or_else(cut)?;
    let text = String::from_utf8_lossy(text);
    let (data_type, big_endian) = descr(path, value(&text, "descr").unwrap_or_default())?;
    let order = match value(&text, "fortran_order") {
        Some("False") => Order::LastFastest,
        Some("True") => Order::FirstFastest,
        got => {
            let got = got.unwrap_or("nothing");
            return Err(Error::field(path, "fortran_order", "True or False", got));
        }
    };
    let grid = Grid {
        shape: shape(path, value(&text, "shape").unwrap_or_default())?,
        data_type,
        big_endian,
        order,
    };
    Ok((grid, start + length))
}

/// The text after `'key':` up to the next comma outside brackets.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let quoted = [format!("'{key}':"), format!("\"{key}\":")];
    let rest = quoted
        .iter()
        .find_map(|q| text.find(q.as_str()).map(|at| &text[at + q.len()..]))?
        .trim_start();
    let end = if rest.starts_with('(') {
        rest.find(')')? + 1
    } else {
        rest.find([',', '}'])?
    };
    Some(rest[..end].trim())
}

fn descr(path: &Path, text: &str) -> Result<(DataType, bool)> {
    let code = text.trim_matches(['\'', '"']);
    let big = code.starts_with('>');
    let data_type = match code.trim_start_matches(['<', '>', '|', '=']) {
        "u1" => DataType::U8,
        "i1" => DataType::I8,
        "u2" => DataType::U16,
        "i2" => DataType::I16,
        "u4" => DataType::U32,
        "i4" => DataType::I32,
        "u8" => DataType::U64,
        "i8" => DataType::I64,
        "f4" => DataType::F32,
        "f8" => DataType::F64,
        _ => {
            let expected = "a number type such as <i2";
            return Err(Error::field(path, "descr", expected, text));
        }
    };
    Ok((data_type, big))
}

fn shape(path: &Path, text: &str) -> Result<[usize; 3]> {
    let inner = text.trim_start_matches('(').trim_end_matches(')');
    let sizes: Option<Vec<usize>> = inner
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().ok().filter(|&n| n > 0))
        .collect();
    sizes
        .and_then(|list| list.try_into().ok())
        .ok_or_else(|| Error::field(path, "shape", "three positive sizes", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(dict: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend_from_slice(&(dict.len() as u16).to_le_bytes());
        out.extend_from_slice(dict.as_bytes());
        out.extend_from_slice(data);
        out
    }

    #[test]
    fn headers_are_read_or_refused() {
        let path = Path::new("x.npz");
        let good = npy(
            "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3, 4), }\n",
            &[0; 48],
        );
        let (grid, start) = header(path, &good).unwrap();
        assert_eq!((grid.shape, grid.data_type), ([2, 3, 4], DataType::I16));
        assert_eq!(good.len() - start, 48);
        for (dict, field) in [
            (
                "{'descr': '<c8', 'fortran_order': False, 'shape': (2, 3, 4), }",
                "descr",
            ),
            (
                "{'descr': '<i2', 'fortran_order': 7, 'shape': (2, 3, 4), }",
                "fortran_order",
            ),
            (
                "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }",
                "shape",
            ),
            (
                "{'descr': '<i2', 'fortran_order': False, 'shape': (2, -3, 4), }",
                "shape",
            ),
            ("{", "descr"),
        ] {
            let error = header(path, &npy(dict, &[])).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn the_collections_axes_run_inferior_posterior_left() {
        assert_eq!(ipl().orientation(), "IPL");
        assert!(ipl().spacing().iter().all(|mm| (mm - 0.8).abs() < 1e-12));
    }
}
