//! Lossless (process 14) and baseline JPEG through `jpeg-decoder`.

use jpeg_decoder::{Decoder, PixelFormat};

use super::{guarded, same_size};
use crate::error::{Error, Result};
use crate::io::dicom::slice::Slice;

/// Decodes to bit patterns.
pub(crate) fn decode(slice: &Slice, data: &[u8]) -> Result<Vec<u16>> {
    check_features(slice, data)?;
    guarded(&slice.path, "JPEG", || {
        let damaged =
            |error: jpeg_decoder::Error| Error::corrupt(&slice.path, format!("JPEG: {error}"));
        let mut decoder = Decoder::new(data);
        decoder.read_info().map_err(damaged)?;
        let Some(info) = decoder.info() else {
            return Err(Error::corrupt(&slice.path, "JPEG: no image"));
        };
        same_size(slice, info.height.into(), info.width.into())?;
        let decoded = decoder.decode().map_err(damaged)?;
        match info.pixel_format {
            PixelFormat::L8 => Ok(decoded.into_iter().map(u16::from).collect()),
            PixelFormat::L16 => Ok(decoded
                .chunks_exact(2)
                .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
                .collect()),
            other => Err(Error::unsupported(
                &slice.path,
                format!("JPEG with {other:?} pixels"),
            )),
        }
    })
}

/// `jpeg-decoder` 0.3 decodes lossless restart intervals and point transforms to wrong values without
/// a word: both are refused, as is what is too small for its own size (a lossless pixel takes a bit).
fn check_features(slice: &Slice, data: &[u8]) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::unsupported(
            &slice.path,
            format!("lossless JPEG with {what}"),
        ))
    };
    let (mut lossless, mut restarts) = (false, false);
    let mut at = 2;
    while let Some(&[0xff, marker, l0, l1]) = data.get(at..).and_then(<[u8]>::first_chunk::<4>) {
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let body = data.get(at + 4..at + 2 + length.max(2)).unwrap_or_default();
        match marker {
            0xc3 => {
                lossless = true;
                let sides = body.get(1..5).map_or([0; 4], |b| [b[0], b[1], b[2], b[3]]);
                let rows = usize::from(u16::from_be_bytes([sides[0], sides[1]]));
                let columns = usize::from(u16::from_be_bytes([sides[2], sides[3]]));
                same_size(slice, rows, columns)?;
                if rows * columns > data.len().saturating_mul(8) {
                    return Err(Error::corrupt(&slice.path, "JPEG: cut off"));
                }
            }
            0xdd => restarts = body.iter().any(|&b| b != 0),
            0xda if lossless && restarts => return refuse("restart intervals"),
            0xda => {
                let transform = body.last().map_or(0, |b| b & 15);
                if lossless && transform != 0 {
                    return refuse("a point transform");
                }
                return Ok(());
            }
            _ => {}
        }
        at += 2 + length.max(2);
    }
    Ok(())
}
