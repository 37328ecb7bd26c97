//! DICOM's run-length encoding (PS3.5 annex G): one byte plane a segment, PackBits inside.

use crate::error::{Error, Result};
use crate::io::dicom::slice::Slice;

/// 16 numbers of 4 bytes: how many segments, and where each starts.
const HEADER: usize = 64;

/// Decodes to plain little-endian pixels.
pub(crate) fn decode(slice: &Slice, data: &[u8]) -> Result<Vec<u8>> {
    let damaged = |what: String| Error::corrupt(&slice.path, format!("RLE: {what}"));
    let planes = usize::from(slice.bits.allocated / 8);
    let pixels = slice.rows * slice.columns;
    let number = |index: usize| {
        let bytes = data.get(4 * index..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let segments = number(0).unwrap_or(0);
    if segments != planes || data.len() < HEADER {
        return Err(Error::field(
            &slice.path,
            "RLE segments",
            format!("{planes} for {} bits", slice.bits.allocated),
            segments,
        ));
    }
    let mut out = vec![0; pixels * planes];
    for plane in 0..planes {
        let start = number(1 + plane).unwrap_or(0);
        let end = match plane + 1 {
            next if next < planes => number(1 + next).unwrap_or(0),
            _ => data.len(),
        };
        let segment = (start >= HEADER)
            .then(|| data.get(start..end))
            .flatten()
            .ok_or_else(|| damaged(format!("segment {plane} from {start} to {end}")))?;
        // The first segment holds the most significant bytes.
        let offset = planes - 1 - plane;
        let filled = unpack(segment, &mut out, offset, planes);
        if filled != pixels {
            return Err(damaged(format!(
                "segment {plane} holds {filled} of {pixels} pixels"
            )));
        }
    }
    Ok(out)
}

/// PackBits into every `step`-th byte from `offset`; returns how many were filled.
fn unpack(mut segment: &[u8], out: &mut [u8], offset: usize, step: usize) -> usize {
    let mut target = out[offset..].iter_mut().step_by(step);
    let mut filled = 0;
    while let [control, rest @ ..] = segment {
        let length;
        (length, segment) = match *control {
            128 => (0, rest),
            n @ 0..128 => {
                let length = (usize::from(n) + 1).min(rest.len());
                for (&value, cell) in rest[..length].iter().zip(&mut target) {
                    *cell = value;
                    filled += 1;
                }
                (length, rest)
            }
            n => {
                let Some(&value) = rest.first() else { break };
                for cell in (&mut target).take(257 - usize::from(n)) {
                    *cell = value;
                    filled += 1;
                }
                (1, rest)
            }
        };
        segment = &segment[length..];
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_literals() {
        let mut out = [0; 12];
        // Three literals, a run of four, nothing, one literal.
        let packed = [2, 1, 2, 3, 253, 9, 128, 0, 7];
        assert_eq!(unpack(&packed, &mut out, 0, 1), 8);
        assert_eq!(out[..8], [1, 2, 3, 9, 9, 9, 9, 7]);
        // More than fits is not written, and a cut-off run is not invented.
        assert_eq!(unpack(&[129, 5, 129, 5], &mut out, 1, 2), 6);
        assert_eq!(unpack(&[5, 1, 2], &mut out, 0, 1), 2);
        assert_eq!(unpack(&[200], &mut out, 0, 1), 0);
    }
}
