//! The skeleton of a DICOM file: element by element, every length held against the file.
//!
//! Why not a general DICOM library: those take the memory that a length claims (up to 4 GiB) before they
//! have seen the bytes, recurse as deep as a file nests, and turn every patient's name into text. Here
//! nothing is copied, nesting is a counter, and only elements that are asked for are ever looked at.
//! `dicom-object` is the oracle of the tests.

use std::ops::Range;
use std::path::Path;

use super::syntax::Syntax;
use crate::error::{Error, Result};

/// Group and element number in one.
pub(crate) type Tag = u32;

/// Pixel Data.
pub(crate) const PIXEL_DATA: Tag = 0x7fe0_0010;
/// The group of the functional groups of a multi-frame image.
const FUNCTIONAL_GROUPS: u32 = 0x5200;
/// The start of an item, its end, and the end of a sequence.
const ITEM: Tag = 0xfffe_e000;
const ITEM_END: Tag = 0xfffe_e00d;
const SEQUENCE_END: Tag = 0xfffe_e0dd;
/// Nesting beyond this is refused.
const MAX_DEPTH: usize = 64;
/// A length that is not known in advance.
const UNDEFINED: u32 = u32::MAX;

/// An element: its tag and where its value lies.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    pub(crate) tag: Tag,
    /// For a sequence of undefined length with the mark of its end.
    pub(crate) value: Range<usize>,
    /// Whether what is inside has no value representations.
    pub(crate) implicit: bool,
}

/// Where the pixels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pixels {
    /// Uncompressed.
    Native(Range<usize>),
    /// Encapsulated: the first item (an offset table) starts here.
    Encapsulated(usize),
}

/// What the walk found.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Elements of the outermost level before the pixels, in file order.
    pub(crate) elements: Vec<Element>,
    pub(crate) pixels: Option<Pixels>,
}

/// How far a walk came.
#[derive(Debug)]
pub(crate) enum Progress {
    Done(Walk),
    /// The bytes end before the pixels, though the file does not.
    NeedMore,
}

/// Numbers and headers out of bytes that may be cut off.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    /// Size of the whole, of which `bytes` may be the start.
    pub(crate) total: u64,
    pub(crate) syntax: Syntax,
    pub(crate) path: &'a Path,
}

/// An element's head.
struct Head {
    tag: Tag,
    length: u32,
    /// Value Representation UN: what is inside is implicit.
    unknown: bool,
    /// Where the value starts.
    value: usize,
}

impl Head {
    fn element(&self, end: usize, implicit: bool) -> Element {
        Element {
            tag: self.tag,
            value: self.value..end,
            implicit,
        }
    }
}

impl Reader<'_> {
    fn u16(&self, at: usize) -> Option<u16> {
        let b = *self.bytes.get(at..)?.first_chunk::<2>()?;
        Some(if self.syntax.big_endian {
            u16::from_be_bytes(b)
        } else {
            u16::from_le_bytes(b)
        })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let b = *self.bytes.get(at..)?.first_chunk::<4>()?;
        Some(if self.syntax.big_endian {
            u32::from_be_bytes(b)
        } else {
            u32::from_le_bytes(b)
        })
    }

    fn tag(&self, at: usize) -> Option<Tag> {
        Some(u32::from(self.u16(at)?) << 16 | u32::from(self.u16(at + 2)?))
    }

    /// The element at `at`; `None` where the bytes end.
    fn head(&self, at: usize, implicit: bool) -> Option<Result<Head>> {
        let tag = self.tag(at)?;
        // Items and delimiters have no value representation in any syntax.
        if implicit || tag >> 16 == 0xfffe {
            let length = self.u32(at + 4)?;
            return Some(Ok(Head {
                tag,
                length,
                unknown: false,
                value: at + 8,
            }));
        }
        let vr = self.bytes.get(at + 4..at + 6)?;
        if !vr.iter().all(u8::is_ascii_uppercase) {
            let got = format!("{vr:02x?} at byte {at} (tag {tag:08x})");
            let expected = "two capital letters";
            return Some(Err(Error::field(
                self.path,
                "value representation",
                expected,
                got,
            )));
        }
        let long = matches!(
            vr,
            b"OB"
                | b"OD"
                | b"OF"
                | b"OL"
                | b"OV"
                | b"OW"
                | b"SQ"
                | b"SV"
                | b"UC"
                | b"UN"
                | b"UR"
                | b"UT"
                | b"UV"
        );
        let (length, value) = if long {
            (self.u32(at + 8)?, at + 12)
        } else {
            (u32::from(self.u16(at + 6)?), at + 8)
        };
        Some(Ok(Head {
            tag,
            length,
            unknown: vr == b"UN",
            value,
        }))
    }

    /// The end of a value of known length.
    fn end(&self, head: &Head) -> Result<usize> {
        let end = head.value as u64 + u64::from(head.length);
        if end > self.total {
            return Err(Error::corrupt(
                self.path,
                format!(
                    "element {:08x} claims {} bytes, {} are left",
                    head.tag,
                    head.length,
                    self.total.saturating_sub(head.value as u64)
                ),
            ));
        }
        Ok(end as usize)
    }

    /// Walks the outermost level from `at` up to the pixels or the end.
    pub(crate) fn walk(&self, mut at: usize) -> Result<Progress> {
        let mut walk = Walk {
            elements: Vec::new(),
            pixels: None,
        };
        loop {
            if at as u64 >= self.total {
                return Ok(Progress::Done(walk));
            }
            let head = match self.head(at, self.syntax.implicit) {
                Some(head) => head?,
                None => return self.cut(at, walk),
            };
            if head.tag == PIXEL_DATA {
                walk.pixels = Some(if head.length == UNDEFINED {
                    Pixels::Encapsulated(head.value)
                } else {
                    Pixels::Native(head.value..self.end(&head)?)
                });
                return Ok(Progress::Done(walk));
            }
            let implicit = self.syntax.implicit || head.unknown;
            if head.length == UNDEFINED {
                let Some(next) = self.skip_nested(head.value, implicit)? else {
                    return self.cut(at, walk);
                };
                if head.tag >> 16 == FUNCTIONAL_GROUPS {
                    walk.elements.push(head.element(next, implicit));
                }
                at = next;
                continue;
            }
            let end = self.end(&head)?;
            if end > self.bytes.len() {
                return self.cut(at, walk);
            }
            walk.elements.push(head.element(end, implicit));
            at = end;
        }
    }

    /// The bytes end inside an element: more are needed, or the file is cut off.
    fn cut(&self, at: usize, walk: Walk) -> Result<Progress> {
        if (self.bytes.len() as u64) < self.total {
            return Ok(Progress::NeedMore);
        }
        // Zeros after the last element are padding that some writers leave.
        if self.bytes[at..].iter().all(|&b| b == 0) {
            return Ok(Progress::Done(walk));
        }
        Err(Error::corrupt(
            self.path,
            format!("cut off inside the element at byte {at}"),
        ))
    }

    /// Passes over a sequence of undefined length whose first item is at `at`; `None` where the bytes
    /// end before it does. Every step moves on by eight bytes or more.
    fn skip_nested(&self, mut at: usize, implicit: bool) -> Result<Option<usize>> {
        // Of each open level whether its elements tell their types: what is of an unknown one does not, in any
        // file (PS3.5, 6.2.2).
        let mut levels = vec![implicit];
        while let Some(&implicit) = levels.last() {
            let head = match self.head(at, implicit) {
                Some(head) => head?,
                None => return Ok(None),
            };
            at = match (head.tag, head.length) {
                (SEQUENCE_END | ITEM_END, _) => {
                    levels.pop();
                    head.value
                }
                (_, UNDEFINED) => {
                    levels.push(implicit || head.unknown);
                    if levels.len() > MAX_DEPTH {
                        let expected = format!("at most {MAX_DEPTH} levels");
                        return Err(Error::field(
                            self.path,
                            "sequence nesting",
                            expected,
                            "more",
                        ));
                    }
                    head.value
                }
                _ => self.end(&head)?,
            };
        }
        Ok(Some(at))
    }

    /// Hands the elements of each item of a sequence to `look`, one item at a time.
    pub(crate) fn each_item(
        &self,
        sequence: &Element,
        mut look: impl FnMut(&[Element]) -> Result<()>,
    ) -> Result<()> {
        let mut at = sequence.value.start;
        while let Some((elements, next)) = self.item(sequence, at)? {
            look(&elements)?;
            at = next;
        }
        Ok(())
    }

    /// The elements of a sequence's first item, if it has one.
    pub(crate) fn first_item(&self, sequence: &Element) -> Result<Option<Vec<Element>>> {
        let item = self.item(sequence, sequence.value.start)?;
        Ok(item.map(|(elements, _)| elements))
    }

    /// The elements of the item at `at`, and where the next one starts.
    fn item(&self, sequence: &Element, at: usize) -> Result<Option<(Vec<Element>, usize)>> {
        let end = sequence.value.end;
        if at >= end {
            return Ok(None);
        }
        let head = self.head(at, true).ok_or_else(|| self.cut_in(sequence))??;
        match head.tag {
            SEQUENCE_END => return Ok(None),
            ITEM => {}
            tag => {
                let got = format!("{tag:08x} in {:08x}", sequence.tag);
                return Err(Error::field(self.path, "sequence", "an item", got));
            }
        }
        if head.length == UNDEFINED {
            return self.elements(head.value, sequence, end).map(Some);
        }
        let past = self.end(&head)?;
        if past > end {
            return Err(self.cut_in(sequence));
        }
        let (elements, _) = self.elements(head.value, sequence, past)?;
        Ok(Some((elements, past)))
    }

    /// The elements from `at` up to `end` or the mark of an item's end, and what follows it.
    fn elements(
        &self,
        mut at: usize,
        sequence: &Element,
        end: usize,
    ) -> Result<(Vec<Element>, usize)> {
        let mut out = Vec::new();
        while at < end {
            let cut = || self.cut_in(sequence);
            let head = self.head(at, sequence.implicit).ok_or_else(cut)??;
            if head.tag == ITEM_END {
                return Ok((out, head.value));
            }
            let implicit = sequence.implicit || head.unknown;
            at = if head.length == UNDEFINED {
                self.skip_nested(head.value, implicit)?.ok_or_else(cut)?
            } else {
                self.end(&head)?
            };
            if at > end {
                return Err(cut());
            }
            out.push(head.element(at, implicit));
        }
        Ok((out, at))
    }

    fn cut_in(&self, sequence: &Element) -> Error {
        let what = format!("sequence {:08x}: an item reaches beyond it", sequence.tag);
        Error::corrupt(self.path, what)
    }

    /// The offset table of encapsulated pixels, and their fragments.
    pub(crate) fn fragments(&self, mut at: usize) -> Result<(Range<usize>, Vec<Range<usize>>)> {
        let cut = || Error::corrupt(self.path, "pixel data cut off between fragments");
        let (mut table, mut out) = (None, Vec::new());
        loop {
            // A missing delimiter at the very end harms nobody; anything else does.
            if at == self.bytes.len() && !out.is_empty() {
                return Ok((table.unwrap_or(at..at), out));
            }
            let head = self.head(at, true).ok_or_else(cut)??;
            match head.tag {
                ITEM if head.length != UNDEFINED => {}
                SEQUENCE_END => return Ok((table.unwrap_or(at..at), out)),
                tag => {
                    let got = format!("{tag:08x}");
                    let expected = "an item or the sequence's end";
                    return Err(Error::field(
                        self.path,
                        "pixel data fragment",
                        expected,
                        got,
                    ));
                }
            }
            at = self.end(&head)?;
            if table.is_none() {
                table = Some(head.value..at);
            } else {
                out.push(head.value..at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPLICIT: Syntax = Syntax {
        implicit: false,
        big_endian: false,
        ..Syntax::EXPLICIT_LITTLE
    };

    fn walk(bytes: &[u8], total: usize) -> Result<Progress> {
        let reader = Reader {
            bytes,
            total: total as u64,
            syntax: EXPLICIT,
            path: Path::new("x.dcm"),
        };
        reader.walk(0)
    }

    /// A sequence in a sequence, both of undefined length, then Rows.
    fn nested(depth: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..depth {
            out.extend_from_slice(&[8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 255, 255, 255, 255]);
            out.extend_from_slice(&[0xfe, 0xff, 0, 0xe0, 255, 255, 255, 255]);
        }
        for _ in 0..depth {
            out.extend_from_slice(&[0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0]);
            out.extend_from_slice(&[0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0]);
        }
        out.extend_from_slice(&[0x28, 0, 0x10, 0, b'U', b'S', 2, 0, 7, 0]);
        out
    }

    #[test]
    fn nested_sequences_are_passed_over() {
        let bytes = nested(3);
        let Progress::Done(found) = walk(&bytes, bytes.len()).unwrap() else {
            panic!("needs more");
        };
        assert_eq!(found.elements.len(), 1);
        assert_eq!(found.elements[0].tag, 0x0028_0010);
        assert_eq!(bytes[found.elements[0].value.clone()], [7, 0]);
    }

    /// As gateways write private sequences that they do not know, deep inside.
    #[test]
    fn a_sequence_of_unknown_type_is_implicit_inside() {
        const ITEM: [u8; 8] = [0xfe, 0xff, 0, 0xe0, 255, 255, 255, 255];
        const ENDS: [u8; 16] = [
            0xfe, 0xff, 0x0d, 0xe0, 0, 0, 0, 0, 0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0,
        ];
        let mut bytes = vec![8, 0, 0x40, 0x11, b'S', b'Q', 0, 0, 255, 255, 255, 255];
        bytes.extend(ITEM);
        bytes.extend([9, 0, 1, 0x10, b'U', b'N', 0, 0, 255, 255, 255, 255]);
        bytes.extend(ITEM);
        bytes.extend([9, 0, 2, 0x10, 4, 0, 0, 0, 1, 2, 3, 4]);
        bytes.extend(ENDS);
        bytes.extend([9, 0, 3, 0x10, b'U', b'S', 2, 0, 5, 0]);
        bytes.extend(ENDS);
        bytes.extend([0x28, 0, 0x10, 0, b'U', b'S', 2, 0, 7, 0]);
        let Progress::Done(found) = walk(&bytes, bytes.len()).unwrap() else {
            panic!("needs more");
        };
        assert_eq!(found.elements.len(), 1);
        assert_eq!(bytes[found.elements[0].value.clone()], [7, 0]);
    }

    #[test]
    fn deep_nesting_and_false_lengths_are_refused() {
        let deep = nested(100_000);
        let error = walk(&deep, deep.len()).unwrap_err().to_string();
        assert!(error.contains("nesting"), "{error}");
        let lie = [
            8, 0, 0x18, 0, b'O', b'B', 0, 0, 0xf0, 0xff, 0xff, 0xff, 1, 2,
        ];
        let error = walk(&lie, lie.len()).unwrap_err().to_string();
        assert!(error.contains("claims 4294967280 bytes"), "{error}");
    }

    #[test]
    fn a_start_of_a_file_asks_for_the_rest() {
        let bytes = nested(2);
        for cut in 1..bytes.len() {
            let found = walk(&bytes[..cut], bytes.len()).unwrap();
            assert!(matches!(found, Progress::NeedMore), "{cut}");
        }
    }
}
