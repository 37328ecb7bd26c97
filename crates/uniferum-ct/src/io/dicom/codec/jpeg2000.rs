//! JPEG 2000, reversible and not, through `hayro-jpeg2000`.

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};

use super::{Samples, guarded, same_size};
use crate::error::{Error, Result};
use crate::io::dicom::slice::Slice;

/// Tiles beyond this are refused before the decoder makes room for each.
const MAX_TILES: u64 = 4096;

/// What the codestream's SIZ marker says of its one component.
struct Size {
    signed: bool,
    precision: u32,
}

/// Decodes to numbers where the codestream is signed, to bit patterns where it is not.
pub(crate) fn decode(slice: &Slice, data: &[u8]) -> Result<Samples> {
    let size = size(slice, data)?;
    guarded(&slice.path, "JPEG 2000", || {
        let damaged = |error: hayro_jpeg2000::DecodeError| {
            Error::corrupt(&slice.path, format!("JPEG 2000: {error}"))
        };
        let settings = DecodeSettings {
            strict: true,
            ..DecodeSettings::default()
        };
        let image = Image::new(data, &settings).map_err(damaged)?;
        same_size(slice, image.height() as usize, image.width() as usize)?;
        let mut context = DecoderContext::default();
        let decoded = image.decode(&mut context).map_err(damaged)?;
        let [component] = decoded.components() else {
            return Err(Error::unsupported(
                &slice.path,
                "JPEG 2000 with several components",
            ));
        };
        let samples = component.samples();
        // Reversible transforms give whole numbers; f32 holds those of 16 bits and their sums exactly.
        if size.signed {
            // The decoder shifts by half the range, as is right for unsigned samples only.
            let half = 1 << (size.precision - 1);
            let limit = |v: f32| (v.round() as i32 - half).clamp(-half, half - 1);
            return Ok(Samples::Numbers(
                samples.iter().copied().map(limit).collect(),
            ));
        }
        let most = ((1u32 << size.precision) - 1) as f32;
        let limit = |v: f32| v.round().clamp(0.0, most) as u16;
        Ok(Samples::Patterns(
            samples.iter().copied().map(limit).collect(),
        ))
    })
}

/// Reads the SIZ marker that follows the start of the codestream, and checks what the decoder does not.
fn size(slice: &Slice, data: &[u8]) -> Result<Size> {
    let cut = || Error::corrupt(&slice.path, "JPEG 2000: no codestream");
    let start = data
        .windows(4)
        .position(|w| w == [0xff, 0x4f, 0xff, 0x51])
        .ok_or_else(cut)?;
    let siz = data.get(start + 4..start + 4 + 39).ok_or_else(cut)?;
    let number = |at: usize| {
        u64::from(u32::from_be_bytes([
            siz[at],
            siz[at + 1],
            siz[at + 2],
            siz[at + 3],
        ]))
    };
    let tiles = |whole: u64, tile: u64| whole.div_ceil(tile.max(1));
    let count = tiles(number(4), number(20)).saturating_mul(tiles(number(8), number(24)));
    if count > MAX_TILES {
        let expected = format!("at most {MAX_TILES}");
        return Err(Error::field(
            &slice.path,
            "JPEG 2000 tiles",
            expected,
            count,
        ));
    }
    let components = u16::from_be_bytes([siz[36], siz[37]]);
    if components != 1 {
        return Err(Error::field(
            &slice.path,
            "JPEG 2000 components",
            "1",
            components,
        ));
    }
    // Sides at the marker's own word: a larger grid would be allocated first and refused after.
    same_size(
        slice,
        number(8).saturating_sub(number(16)) as usize,
        number(4).saturating_sub(number(12)) as usize,
    )?;
    let precision = u32::from(siz[38] & 0x7f) + 1;
    if precision > 16 {
        return Err(Error::field(
            &slice.path,
            "JPEG 2000 precision",
            "at most 16 bits",
            precision,
        ));
    }
    Ok(Size {
        signed: siz[38] & 0x80 != 0,
        precision,
    })
}
