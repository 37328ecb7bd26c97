//! What one DICOM file says of its slice: the elements that a CT volume needs, and no others.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::element::{Element, Pixels, Progress, Reader, Tag, Walk};
use super::frames;
use super::syntax::{Compression, Syntax};
use crate::error::{Error, Result};
use crate::io::bytes;

/// Enough for nearly all headers; longer ones cost a second read.
const HEAD: u64 = 1 << 16;
/// A deflated data set may grow to this multiple of its file, as deflate itself allows.
const MAX_DEFLATE: u64 = 1032;

/// The header of a slice.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub(crate) path: PathBuf,
    pub(crate) syntax: Syntax,
    pub(crate) series: String,
    /// Of the instance: two files of the same instance are copies.
    pub(crate) instance: String,
    pub(crate) modality: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) localizer: bool,
    /// Frames of the file.
    pub(crate) frames: u32,
    /// Which frame of an enhanced file this is, from 0.
    pub(crate) frame: Option<usize>,
    /// The stack of slices that a frame says it belongs to.
    pub(crate) stack: String,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) samples: u16,
    pub(crate) bits: Bits,
    /// mm between rows, mm between columns.
    pub(crate) spacing: Option<[f64; 2]>,
    pub(crate) position: Option<[f64; 3]>,
    /// Directions in LPS: along a row (growing column), along a column (growing row).
    pub(crate) orientation: Option<[[f64; 3]; 2]>,
    pub(crate) thickness: Option<f64>,
    /// Rescale Slope and Intercept.
    pub(crate) scaling: Option<(f64, f64)>,
    pub(crate) rescale_type: Option<String>,
    /// Stored values outside the field of view, from and to.
    pub(crate) padding: Option<(i32, i32)>,
    pub(crate) pixels: Option<Pixels>,
}

/// How a stored value lies in its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bits {
    pub(crate) allocated: u16,
    pub(crate) stored: u16,
    pub(crate) high: u16,
    pub(crate) signed: bool,
}

/// Where a frame's bytes are: one piece, or the fragments of a compressed one.
pub(crate) type Pieces = Vec<Range<usize>>;

/// A file's bytes and the header in them.
pub(crate) struct Loaded {
    /// The file; the inflated data set if it was deflated.
    pub(crate) bytes: Vec<u8>,
    pub(crate) slice: Slice,
}

/// Whether the bytes start a DICOM file, with or without its preamble.
pub(crate) fn is_dicom(head: &[u8]) -> bool {
    if head.get(128..132) == Some(b"DICM") {
        return true;
    }
    // Old files start with their first element: group 2 or 8, a small one, explicit or implicit.
    let Some(&[g0, g1, e0, e1, v0, v1, _, _]) = head.first_chunk::<8>() else {
        return false;
    };
    let group = u16::from_le_bytes([g0, g1]);
    let element = u16::from_le_bytes([e0, e1]);
    let explicit = matches!(
        &[v0, v1],
        b"UL" | b"UI" | b"CS" | b"OB" | b"SH" | b"LO" | b"DA" | b"TM"
    );
    let implicit = matches!(u16::from_le_bytes([v0, v1]), 4..64) && element <= 0x0018;
    (group == 2 || group == 8) && element <= 0x0070 && (explicit || implicit)
}

/// Reads the header only; usually the first 64 KiB of the file. An enhanced file has a slice a frame.
pub(crate) fn read_header(path: &Path) -> Result<Vec<Slice>> {
    let (head, total) = bytes::read_start(path, HEAD)?;
    let found = match walk(path, head, total)? {
        Some(found) => found,
        None => walk_whole(path)?,
    };
    let fields = found.fields(path);
    frames::slices(&fields, fields.slice(found.syntax)?)
}

/// Reads header and pixels.
pub(crate) fn read(path: &Path) -> Result<Loaded> {
    let found = walk_whole(path)?;
    let slice = found.fields(path).slice(found.syntax)?;
    let bytes = found.bytes;
    Ok(Loaded { bytes, slice })
}

/// Hands the elements of a whole file to `look`.
pub(crate) fn with_fields<T>(path: &Path, look: impl FnOnce(&Fields<'_>) -> T) -> Result<T> {
    Ok(look(&walk_whole(path)?.fields(path)))
}

fn walk_whole(path: &Path) -> Result<Walked> {
    let bytes = bytes::read(path)?;
    let total = bytes.len() as u64;
    walk(path, bytes, total)?.ok_or_else(|| Error::corrupt(path, "header cut off"))
}

/// A data set whose elements have been found.
struct Walked {
    bytes: Vec<u8>,
    walk: Walk,
    syntax: Syntax,
}

impl Walked {
    fn fields<'a>(&'a self, path: &'a Path) -> Fields<'a> {
        let reader = Reader {
            bytes: &self.bytes,
            total: self.bytes.len() as u64,
            syntax: self.syntax,
            path,
        };
        Fields {
            reader,
            elements: &self.walk.elements,
            pixels: self.walk.pixels.as_ref(),
        }
    }
}

/// Walks over what is there; `None` where the pixels are not reached.
fn walk(path: &Path, bytes: Vec<u8>, total: u64) -> Result<Option<Walked>> {
    if !is_dicom(&bytes) {
        let got = format!("{:02x?}", &bytes[..bytes.len().min(8)]);
        return Err(Error::field(path, "content", "a DICOM file", got));
    }
    let preamble = if bytes.get(128..132) == Some(b"DICM") {
        132
    } else {
        0
    };
    let Some((start, syntax)) = meta(path, &bytes, total, preamble)? else {
        return Ok(None);
    };
    let (bytes, start, total) = if syntax.deflated {
        if (bytes.len() as u64) < total {
            return Ok(None);
        }
        let plain = inflate(path, &bytes[start..])?;
        let total = plain.len() as u64;
        (plain, 0, total)
    } else {
        (bytes, start, total)
    };
    let reader = Reader {
        bytes: &bytes,
        total,
        syntax,
        path,
    };
    let Progress::Done(walk) = reader.walk(start)? else {
        return Ok(None);
    };
    Ok(Some(Walked {
        bytes,
        walk,
        syntax,
    }))
}

/// Where the data set starts and how it is written, from the group 2 elements.
fn meta(path: &Path, bytes: &[u8], total: u64, preamble: usize) -> Result<Option<(usize, Syntax)>> {
    let mut at = preamble;
    let mut syntax = None;
    // Always explicit, little endian, and short: a few hundred bytes.
    while let Some(&[2, 0, e0, e1, v0, v1, l0, l1]) =
        bytes.get(at..).and_then(<[u8]>::first_chunk::<8>)
    {
        let (length, value) = if matches!(&[v0, v1], b"OB" | b"UN" | b"OW" | b"UT" | b"SQ") {
            let Some(l) = bytes.get(at + 8..).and_then(<[u8]>::first_chunk::<4>) else {
                break;
            };
            (u64::from(u32::from_le_bytes(*l)), at + 12)
        } else {
            (u64::from(u16::from_le_bytes([l0, l1])), at + 8)
        };
        let end = value as u64 + length;
        if end > total {
            let what = format!("element 0002{e1:02x}{e0:02x} claims {length} bytes");
            return Err(Error::corrupt(path, what));
        }
        if end > bytes.len() as u64 {
            return Ok(None);
        }
        at = end as usize;
        if (e0, e1) == (0x10, 0) {
            syntax = Some(Syntax::from_uid(path, &text(&bytes[value..at]))?);
        }
    }
    let syntax = syntax.unwrap_or_else(|| guess(&bytes[at.min(bytes.len())..]));
    Ok(Some((at, syntax)))
}

/// Without a transfer syntax: two capital letters after the first tag are a value representation.
fn guess(data: &[u8]) -> Syntax {
    match data.get(4..6) {
        Some(vr) if vr.iter().all(u8::is_ascii_uppercase) => Syntax::EXPLICIT_LITTLE,
        _ => Syntax::IMPLICIT_LITTLE,
    }
}

/// The data set of the deflated syntax; its size is not known, hence a bounded stream.
fn inflate(path: &Path, compressed: &[u8]) -> Result<Vec<u8>> {
    use std::io::Read;
    let limit = (compressed.len() as u64).saturating_mul(MAX_DEFLATE);
    let mut plain = Vec::new();
    flate2::read::DeflateDecoder::new(compressed)
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|error| Error::corrupt(path, format!("deflate: {error}")))?;
    Ok(plain)
}

/// A value's text without its padding.
fn text(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .to_owned()
}

/// Values of one level, by tag.
pub(crate) struct Fields<'a> {
    pub(crate) reader: Reader<'a>,
    elements: &'a [Element],
    pixels: Option<&'a Pixels>,
}

impl<'a> Fields<'a> {
    /// The values of an item of a sequence.
    pub(crate) fn of_item(reader: Reader<'a>, elements: &'a [Element]) -> Self {
        Fields {
            reader,
            elements,
            pixels: None,
        }
    }

    pub(crate) fn element(&self, tag: Tag) -> Option<&'a Element> {
        self.elements.iter().find(|e| e.tag == tag)
    }

    fn value(&self, tag: Tag) -> Option<&'a [u8]> {
        let value = self.reader.bytes.get(self.element(tag)?.value.clone())?;
        (!value.is_empty()).then_some(value)
    }

    pub(crate) fn text(&self, tag: Tag) -> Option<String> {
        self.value(tag).map(text).filter(|t| !t.is_empty())
    }

    fn u16(&self, tag: Tag) -> Option<u16> {
        let b = *self.value(tag)?.first_chunk::<2>()?;
        Some(if self.reader.syntax.big_endian {
            u16::from_be_bytes(b)
        } else {
            u16::from_le_bytes(b)
        })
    }

    /// Decimal strings, `\` between them; `None` if absent or empty.
    fn decimals<const N: usize>(&self, tag: Tag, name: &'static str) -> Result<Option<[f64; N]>> {
        let Some(text) = self.text(tag) else {
            return Ok(None);
        };
        let numbers: Option<Vec<f64>> = text
            .split('\\')
            .map(|word| word.trim().parse().ok().filter(|v: &f64| v.is_finite()))
            .collect();
        numbers
            .and_then(|list| list.try_into().ok())
            .map(Some)
            .ok_or_else(|| {
                let got: String = text.chars().take(80).collect();
                Error::field(self.reader.path, name, format!("{N} decimal numbers"), got)
            })
    }

    fn required(&self, tag: Tag, name: &'static str) -> Result<u16> {
        self.u16(tag)
            .ok_or_else(|| Error::field(self.reader.path, name, "a number", "nothing"))
    }

    fn slice(&self, syntax: Syntax) -> Result<Slice> {
        let pixels = self.pixels.cloned();
        // Files without pixels (reports, DICOMDIR) are passed over later: they need no size.
        let size = |tag, name| {
            if pixels.is_some() {
                self.required(tag, name).map(usize::from)
            } else {
                Ok(0)
            }
        };
        let (rows, columns) = (size(0x0028_0010, "Rows")?, size(0x0028_0011, "Columns")?);
        let bits = self.bits();
        Ok(Slice {
            path: self.reader.path.to_owned(),
            syntax,
            series: self.text(0x0020_000e).unwrap_or_default(),
            instance: self.text(0x0008_0018).unwrap_or_default(),
            modality: self.text(0x0008_0060),
            kernel: self.text(0x0018_1210),
            localizer: self.says_localizer(0x0008_0008),
            frames: match self.text(0x0028_0008) {
                None => 1,
                Some(text) => text.parse().map_err(|_| {
                    Error::field(self.reader.path, "NumberOfFrames", "a number", text)
                })?,
            },
            frame: None,
            stack: String::new(),
            rows,
            columns,
            samples: self.u16(0x0028_0002).unwrap_or(1),
            bits,
            spacing: self.spacing()?,
            position: self.position()?,
            orientation: self.orientation()?,
            thickness: self.thickness()?,
            scaling: self.scaling()?,
            rescale_type: self.text(0x0028_1054),
            padding: self.padding(bits),
            pixels,
        })
    }

    /// Whether an image or frame type says that this is a localizer.
    pub(crate) fn says_localizer(&self, tag: Tag) -> bool {
        let kind = self.text(tag).unwrap_or_default().to_uppercase();
        kind.split('\\').any(|word| word.trim() == "LOCALIZER")
    }

    pub(crate) fn spacing(&self) -> Result<Option<[f64; 2]>> {
        self.decimals(0x0028_0030, "PixelSpacing")
    }

    pub(crate) fn position(&self) -> Result<Option<[f64; 3]>> {
        self.decimals(0x0020_0032, "ImagePositionPatient")
    }

    pub(crate) fn orientation(&self) -> Result<Option<[[f64; 3]; 2]>> {
        let six = self.decimals::<6>(0x0020_0037, "ImageOrientationPatient")?;
        Ok(six.map(|[a, b, c, d, e, f]| [[a, b, c], [d, e, f]]))
    }

    pub(crate) fn thickness(&self) -> Result<Option<f64>> {
        let mm = self.decimals(0x0018_0050, "SliceThickness")?;
        Ok(mm.map(|[mm]| mm))
    }

    fn bits(&self) -> Bits {
        let allocated = self.u16(0x0028_0100).unwrap_or(16);
        let stored = self.u16(0x0028_0101).unwrap_or(allocated);
        Bits {
            allocated,
            stored,
            high: self.u16(0x0028_0102).unwrap_or(stored.saturating_sub(1)),
            signed: self.u16(0x0028_0103) == Some(1),
        }
    }

    pub(crate) fn scaling(&self) -> Result<Option<(f64, f64)>> {
        let slope = self.decimals(0x0028_1053, "RescaleSlope")?.map(|[v]| v);
        let intercept = self.decimals(0x0028_1052, "RescaleIntercept")?.map(|[v]| v);
        match (slope, intercept) {
            (None, None) => Ok(None),
            (Some(0.0), _) => {
                let expected = "a slope other than 0";
                Err(Error::field(self.reader.path, "RescaleSlope", expected, 0))
            }
            (slope, intercept) => Ok(Some((slope.unwrap_or(1.0), intercept.unwrap_or(0.0)))),
        }
    }

    /// Pixel Padding Value and Range Limit; their sign is the pixels' whatever their own type says.
    fn padding(&self, bits: Bits) -> Option<(i32, i32)> {
        let number = |raw: u16| {
            if bits.signed {
                i32::from(raw as i16)
            } else {
                i32::from(raw)
            }
        };
        let value = number(self.u16(0x0028_0120)?);
        let limit = self.u16(0x0028_0121).map_or(value, number);
        Some((value.min(limit), value.max(limit)))
    }
}

impl Slice {
    /// The file, and the frame in it, for messages.
    pub(crate) fn name(&self) -> String {
        match self.frame {
            Some(frame) => format!("{} frame {}", self.path.display(), frame + 1),
            None => self.path.display().to_string(),
        }
    }
}

impl Loaded {
    /// Where the frames' bytes are: one piece each, or the fragments of compressed ones.
    pub(crate) fn frames(&self) -> Result<Vec<Pieces>> {
        let path = &self.slice.path;
        let native = self.slice.syntax.compression == Compression::None;
        match &self.slice.pixels {
            Some(Pixels::Native(range)) if native => Ok(self.native_frames(range)),
            Some(Pixels::Encapsulated(at)) if !native => {
                let reader = Reader {
                    bytes: &self.bytes,
                    total: self.bytes.len() as u64,
                    syntax: self.slice.syntax,
                    path,
                };
                let (table, fragments) = reader.fragments(*at)?;
                frames::of_fragments(&self.slice, &self.bytes, table, fragments)
            }
            Some(_) => Err(Error::field(
                path,
                "PixelData",
                "encapsulated pixels exactly if the transfer syntax is compressed",
                "the opposite",
            )),
            None => Err(Error::field(path, "PixelData", "an image", "nothing")),
        }
    }

    /// Frames one after the other; what is missing at the end is found when it is decoded.
    fn native_frames(&self, range: &Range<usize>) -> Vec<Pieces> {
        let Slice {
            rows,
            columns,
            bits,
            frames,
            ..
        } = self.slice;
        if frames <= 1 {
            return vec![vec![range.clone()]];
        }
        let size = rows * columns * usize::from(bits.allocated / 8);
        let place = |frame: usize| {
            let start = range.start.saturating_add(frame.saturating_mul(size));
            let start = start.min(range.end);
            let end = start.saturating_add(size).min(range.end);
            Vec::from([Range { start, end }])
        };
        (0..frames as usize).map(place).collect()
    }

    /// The bytes of these pieces.
    pub(crate) fn piece(&self, ranges: &[Range<usize>]) -> Result<std::borrow::Cow<'_, [u8]>> {
        let cut = || Error::corrupt(&self.slice.path, "pixel data cut off");
        let piece = |range: &Range<usize>| self.bytes.get(range.clone()).ok_or_else(cut);
        if let [one] = ranges {
            return piece(one).map(Into::into);
        }
        let mut all = Vec::new();
        for range in ranges {
            all.extend_from_slice(piece(range)?);
        }
        Ok(all.into())
    }
}
