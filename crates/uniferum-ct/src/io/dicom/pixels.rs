//! From a slice's stored pixels to numbers.

use super::codec::{self, Samples};
use super::slice::{Bits, Slice};
use super::syntax::Compression;
use crate::HuSource;
use crate::error::{Error, Result};

/// Longest side of a slice.
const MAX_SIDE: usize = 16_384;

/// What becomes of pixels outside the field of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// They become air, -1000 HU.
    #[default]
    Air,
    /// They keep their stored value, scaled like all others.
    Keep,
}

/// HU of air.
const AIR: f32 = -1000.0;

impl Slice {
    /// Refuses what is no greyscale image of one frame with sensible bits.
    pub(crate) fn check_image(&self) -> Result<()> {
        let refuse = |field, expected: &str, got: String| {
            Err(Error::field(&self.path, field, expected, got))
        };
        if let Some(modality) = self.modality.as_deref().filter(|&m| m != "CT") {
            return refuse("Modality", "CT", modality.to_owned());
        }
        if self.samples != 1 {
            return refuse("SamplesPerPixel", "1 (grey)", self.samples.to_string());
        }
        if self.frames != 1 && self.frame.is_none() {
            let what = format!(
                "{} frames in one file without functional groups for each",
                self.frames
            );
            return Err(Error::unsupported(&self.path, what));
        }
        for (field, side) in [("Rows", self.rows), ("Columns", self.columns)] {
            if !(1..=MAX_SIDE).contains(&side) {
                return refuse(field, "1 to 16384", side.to_string());
            }
        }
        let Bits {
            allocated,
            stored,
            high,
            ..
        } = self.bits;
        if ![8, 16, 32].contains(&allocated) {
            return refuse("BitsAllocated", "8, 16 or 32", allocated.to_string());
        }
        if !(1..=allocated).contains(&stored) {
            return refuse("BitsStored", "1 to BitsAllocated", stored.to_string());
        }
        if high >= allocated || high + 1 < stored {
            let expected = "BitsStored - 1 to BitsAllocated - 1";
            return refuse("HighBit", expected, high.to_string());
        }
        Ok(())
    }
}

/// Refuses a file whose size so many bytes cannot hold: plain pixels take what they take, and
/// compressed ones are trusted up to [`codec::most_pixels`].
pub(crate) fn check_size(slice: &Slice, bytes: u64) -> Result<()> {
    let pixels = (slice.rows * slice.columns) as u64 * u64::from(slice.frames);
    let syntax = slice.syntax;
    let possible = if syntax.compression != Compression::None || syntax.deflated {
        codec::most_pixels(bytes)
    } else {
        bytes / u64::from(slice.bits.allocated / 8)
    };
    if pixels <= possible {
        return Ok(());
    }
    let expected = format!("at most {possible} pixels in {bytes} bytes");
    let got = match slice.frames {
        1 => format!("{} x {}", slice.rows, slice.columns),
        n => format!("{} x {} x {n} frames", slice.rows, slice.columns),
    };
    Err(Error::field(&slice.path, "Rows, Columns", expected, got))
}

impl Bits {
    /// The number in a bit pattern.
    fn number(self, pattern: u32) -> i32 {
        let unused = 32 - u32::from(self.stored);
        // Shifting up drops what lies above the high bit, shifting down what lies below the low one.
        let top = pattern << (31 - u32::from(self.high));
        if self.signed {
            top as i32 >> unused
        } else {
            // CT never needs the 32nd bit of an unsigned number.
            (top >> unused).min(i32::MAX as u32) as i32
        }
    }
}

/// The slice in HU, columns fastest, out of the bytes of its pixels.
pub(crate) fn hu(
    slice: &Slice,
    data: &[u8],
    source: HuSource,
    padding: Padding,
) -> Result<Vec<f32>> {
    slice.check_image()?;
    let (slope, intercept) = source.scaling(slice.scaling).unwrap_or((1.0, 0.0));
    let outside = slice.padding.filter(|_| padding == Padding::Air);
    let convert = |stored: i32| {
        if outside.is_some_and(|(low, high)| (low..=high).contains(&stored)) {
            return AIR;
        }
        (f64::from(stored) * slope + intercept) as f32
    };
    if slice.syntax.compression == Compression::None {
        return plain(slice, data, slice.syntax.big_endian, convert);
    }
    let out: Vec<f32> = match codec::decode(slice, data)? {
        Samples::Bytes(bytes) => return plain(slice, &bytes, false, convert),
        Samples::Numbers(numbers) => numbers.into_iter().map(convert).collect(),
        Samples::Patterns(patterns) => patterns
            .into_iter()
            .map(|pattern| convert(slice.bits.number(pattern.into())))
            .collect(),
    };
    if out.len() != slice.rows * slice.columns {
        let what = format!(
            "{} pixels, {} decoded",
            slice.rows * slice.columns,
            out.len()
        );
        return Err(Error::corrupt(&slice.path, what));
    }
    Ok(out)
}

fn plain(
    slice: &Slice,
    data: &[u8],
    big_endian: bool,
    convert: impl Fn(i32) -> f32,
) -> Result<Vec<f32>> {
    let pixels = slice.rows * slice.columns;
    let size = usize::from(slice.bits.allocated / 8);
    let Some(data) = data.get(..pixels * size) else {
        let what = format!(
            "PixelData: {} bytes needed, {} there",
            pixels * size,
            data.len()
        );
        return Err(Error::corrupt(&slice.path, what));
    };
    let bits = slice.bits;
    Ok(match (size, big_endian) {
        (1, _) => data
            .iter()
            .map(|&b| convert(bits.number(b.into())))
            .collect(),
        (2, false) => words(data, |b| convert(bits.number(u16::from_le_bytes(b).into()))),
        (2, true) => words(data, |b| convert(bits.number(u16::from_be_bytes(b).into()))),
        (_, false) => words(data, |b| convert(bits.number(u32::from_le_bytes(b)))),
        (_, true) => words(data, |b| convert(bits.number(u32::from_be_bytes(b)))),
    })
}

fn words<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    data.as_chunks::<N>().0.iter().map(|&b| value(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_read_by_their_place_and_sign() {
        let bits = |stored, high, signed| Bits {
            allocated: 16,
            stored,
            high,
            signed,
        };
        assert_eq!(bits(16, 15, true).number(0xf830), -2000);
        assert_eq!(bits(16, 15, false).number(0xf830), 63536);
        // Twelve bits: overlays in the upper four are not part of the value.
        assert_eq!(bits(12, 11, false).number(0xf7ff), 0x7ff);
        assert_eq!(bits(12, 11, true).number(0x0800), -2048);
        assert_eq!(bits(12, 15, false).number(0x7ff5), 0x7ff);
    }
}
