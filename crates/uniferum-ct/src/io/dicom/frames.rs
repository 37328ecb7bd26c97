//! Frames of an enhanced multi-frame file: each becomes a slice of its own.
//!
//! What single-slice files say at their outermost level, these say in functional groups, once for all
//! frames or for each: pixel measures, plane position and orientation, pixel value transformation.

use std::ops::Range;

use super::element::{Element, Tag};
use super::slice::{Fields, Pieces, Slice};
use crate::error::{Error, Result};

/// Shared Functional Groups Sequence.
const SHARED: Tag = 0x5200_9229;
/// Per-Frame Functional Groups Sequence.
const PER_FRAME: Tag = 0x5200_9230;
/// More frames than any scan has.
const MAX_FRAMES: u32 = 16_384;

/// The groups that a slice is made of.
const GROUPS: [Tag; 7] = [
    0x0028_9110, // Pixel Measures
    0x0020_9113, // Plane Position
    0x0020_9116, // Plane Orientation
    0x0028_9145, // Pixel Value Transformation
    0x0020_9111, // Frame Content
    0x0018_9329, // CT Image Frame Type
    0x0018_9314, // CT Reconstruction
];

/// The elements of each group's item, where it is there.
type Groups = [Option<Vec<Element>>; GROUPS.len()];

/// A slice a frame; the file itself where it has no functional groups.
pub(super) fn slices(fields: &Fields<'_>, file: Slice) -> Result<Vec<Slice>> {
    let Some(per_frame) = fields.element(PER_FRAME).filter(|_| file.pixels.is_some()) else {
        return Ok(vec![file]);
    };
    let path = &file.path;
    if !(1..=MAX_FRAMES).contains(&file.frames) {
        let expected = format!("1 to {MAX_FRAMES}");
        return Err(Error::field(path, "NumberOfFrames", expected, file.frames));
    }
    let mut shared = Groups::default();
    if let Some(sequence) = fields.element(SHARED)
        && let Some(item) = fields.reader.first_item(sequence)?
    {
        shared = groups(fields, &item)?;
    }
    let count = file.frames as usize;
    let mut out = Vec::new();
    fields.reader.each_item(per_frame, |item| {
        if out.len() == count {
            return Err(wrong_count(&file, "more"));
        }
        let own = groups(fields, item)?;
        out.push(frame(fields, &file, out.len(), &own, &shared)?);
        Ok(())
    })?;
    if out.len() < count {
        return Err(wrong_count(&file, &out.len().to_string()));
    }
    Ok(out)
}

fn wrong_count(file: &Slice, got: &str) -> Error {
    let expected = format!("{} items, as NumberOfFrames says", file.frames);
    let field = "PerFrameFunctionalGroupsSequence";
    Error::field(&file.path, field, expected, got)
}

fn groups(fields: &Fields<'_>, item: &[Element]) -> Result<Groups> {
    let mut out = Groups::default();
    for (group, tag) in out.iter_mut().zip(GROUPS) {
        if let Some(sequence) = item.iter().find(|e| e.tag == tag) {
            *group = fields.reader.first_item(sequence)?;
        }
    }
    Ok(out)
}

fn frame(
    fields: &Fields<'_>,
    file: &Slice,
    index: usize,
    own: &Groups,
    shared: &Groups,
) -> Result<Slice> {
    let group = |g: usize| {
        let elements = own[g].as_deref().or(shared[g].as_deref());
        Fields::of_item(fields.reader, elements.unwrap_or(&[]))
    };
    let [
        measures,
        position,
        orientation,
        values,
        content,
        kind,
        reconstruction,
    ] = std::array::from_fn(group);
    let position = position.position()?.ok_or_else(|| {
        let name = format!("nothing for frame {}", index + 1);
        Error::field(&file.path, "ImagePositionPatient", "numbers", name)
    })?;
    let mut slice = file.clone();
    slice.frame = Some(index);
    slice.instance = format!("{}#{index}", file.instance);
    slice.stack = content.text(0x0020_9056).unwrap_or_default();
    slice.position = Some(position);
    slice.orientation = orientation.orientation()?.or(file.orientation);
    slice.spacing = measures.spacing()?.or(file.spacing);
    slice.thickness = measures.thickness()?.or(file.thickness);
    slice.scaling = values.scaling()?.or(file.scaling);
    slice.rescale_type = values.text(0x0028_1054).or(slice.rescale_type);
    slice.kernel = reconstruction.text(0x0018_1210).or(slice.kernel);
    slice.localizer |= kind.says_localizer(0x0008_9007);
    Ok(slice)
}

/// Which fragments of compressed pixels make which frame: by the offset table, else one each, else by
/// the mark that a JPEG or JPEG 2000 stream starts with.
pub(super) fn of_fragments(
    file: &Slice,
    bytes: &[u8],
    table: Range<usize>,
    fragments: Vec<Range<usize>>,
) -> Result<Vec<Pieces>> {
    let count = file.frames.max(1) as usize;
    if count == 1 {
        return Ok(vec![fragments]);
    }
    if fragments.len() == count {
        return Ok(fragments.into_iter().map(|range| vec![range]).collect());
    }
    let table = bytes.get(table).unwrap_or(&[]).as_chunks::<4>().0;
    let origin = fragments.first().map_or(0, |range| range.start);
    let starts = |range: &Range<usize>| {
        if table.len() == count {
            let offset = (range.start - origin) as u64;
            // In rising order, as the frames are.
            let offsets = table.binary_search_by_key(&offset, |b| u32::from_le_bytes(*b).into());
            return offsets.is_ok();
        }
        let head = bytes.get(range.clone()).and_then(<[u8]>::first_chunk);
        matches!(head, Some([0xff, 0xd8] | [0xff, 0x4f]))
    };
    let total = fragments.len();
    let mut frames: Vec<Pieces> = Vec::new();
    for range in fragments {
        match frames.last_mut() {
            Some(last) if !starts(&range) => last.push(range),
            _ => frames.push(vec![range]),
        }
    }
    if frames.len() == count {
        return Ok(frames);
    }
    let expected = format!("{count} frames, as NumberOfFrames says");
    let got = format!("{} in {total} fragments", frames.len());
    Err(Error::field(&file.path, "PixelData", expected, got))
}
