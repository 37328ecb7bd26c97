//! Slices to a stack: sorted by position along their normal, with the spacing that positions give.

use std::path::Path;

use super::slice::Slice;
use crate::Affine;
use crate::error::{Error, Result};
use crate::io::geometry::affine_from_lps;

/// Steps may differ from their median by this share of it, or by [`LOOSE_MM`].
const LOOSE: f64 = 0.05;
/// Positions are written with few decimals.
const LOOSE_MM: f64 = 0.02;
/// Positions closer than this share of the median step are the same.
const SAME: f64 = 0.01;
/// Angle between the stack's direction and the slices' normal from which it is a tilt, degrees.
const TILT_DEGREES: f64 = 0.5;

/// Slices in order, and where their grid lies.
#[derive(Debug)]
pub(crate) struct Stack {
    /// In the order of the third array axis: along the normal.
    pub(crate) slices: Vec<Slice>,
    pub(crate) affine: Affine,
    pub(crate) warnings: Vec<String>,
}

type Vector = [f64; 3];

fn dot(a: Vector, b: Vector) -> f64 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

fn cross(a: Vector, b: Vector) -> Vector {
    [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
}

fn minus(a: Vector, b: Vector) -> Vector {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

fn norm(a: Vector) -> f64 {
    dot(a, a).sqrt()
}

/// A slice with the geometry that it must have.
struct Placed {
    slice: Slice,
    position: Vector,
    /// Position along the normal, mm.
    along: f64,
}

/// Row and column directions made unit length, and their normal.
pub(crate) fn directions(slice: &Slice) -> Result<[Vector; 3]> {
    let orientation = slice
        .orientation
        .ok_or_else(|| missing(slice, "ImageOrientationPatient"))?;
    let [row, column] = orientation.map(|v| v.map(|c| c / norm(v)));
    let normal = cross(row, column);
    if dot(row, column).abs() < 1e-3 && (norm(normal) - 1.0).abs() < 1e-3 {
        return Ok([row, column, normal]);
    }
    Err(Error::field(
        &slice.path,
        "ImageOrientationPatient",
        "two perpendicular directions",
        format!("{orientation:?}"),
    ))
}

fn missing(slice: &Slice, field: &'static str) -> Error {
    Error::field(&slice.path, field, "numbers", "nothing")
}

/// Sorts slices of one series, size and orientation.
///
/// `folder` is what the user named, for messages about the whole.
pub(crate) fn stack(folder: &Path, slices: Vec<Slice>) -> Result<Stack> {
    let Some(first) = slices.first() else {
        return Err(Error::field(folder, "slices", "at least one", "none"));
    };
    let [row, column, normal] = directions(first)?;
    let mut placed = Vec::with_capacity(slices.len());
    for slice in slices {
        let position = slice
            .position
            .ok_or_else(|| missing(&slice, "ImagePositionPatient"))?;
        placed.push(Placed {
            along: dot(position, normal),
            position,
            slice,
        });
    }
    placed.sort_by(|a, b| a.along.total_cmp(&b.along));
    let mut warnings = Vec::new();
    let placed = without_copies(placed, &mut warnings)?;
    let step = step(folder, &placed, normal, &mut warnings)?;
    let [down, across] = pixel_spacing(&placed)?;
    let steps = [row.map(|c| c * across), column.map(|c| c * down), step];
    let affine = affine_from_lps(folder, "ImageOrientationPatient", steps, placed[0].position)?;
    Ok(Stack {
        slices: placed.into_iter().map(|p| p.slice).collect(),
        affine,
        warnings,
    })
}

/// mm between rows and between columns, the same in all slices.
fn pixel_spacing(placed: &[Placed]) -> Result<[f64; 2]> {
    let mut first = None;
    for Placed { slice, .. } in placed {
        let spacing = slice
            .spacing
            .ok_or_else(|| missing(slice, "PixelSpacing"))?;
        let [down, across] = *first.get_or_insert(spacing);
        let same = (down - spacing[0]).abs() <= 1e-4 * down
            && (across - spacing[1]).abs() <= 1e-4 * across;
        if !(down > 0.0 && across > 0.0 && same) {
            let expected = "two positive numbers, the same in all slices";
            let got = format!("{spacing:?}");
            return Err(Error::field(&slice.path, "PixelSpacing", expected, got));
        }
    }
    Ok(first.unwrap_or([1.0; 2]))
}

/// The usual distance of neighbours: the lower median, which a few gaps do not move.
fn median_step(placed: &[Placed]) -> f64 {
    let mut steps: Vec<f64> = placed.windows(2).map(|w| w[1].along - w[0].along).collect();
    steps.sort_by(f64::total_cmp);
    steps[(steps.len() - 1) / 2]
}

/// Drops second copies of an instance; two different images at one place are an error.
fn without_copies(placed: Vec<Placed>, warnings: &mut Vec<String>) -> Result<Vec<Placed>> {
    if placed.len() < 2 {
        return Ok(placed);
    }
    // Half the extent a slice: robust even where every slice is there twice.
    let extent = placed[placed.len() - 1].along - placed[0].along;
    let same = SAME * (extent / (placed.len() - 1) as f64).max(LOOSE_MM / SAME);
    let mut kept: Vec<Placed> = Vec::with_capacity(placed.len());
    let mut copies = 0;
    for next in placed {
        match kept.last() {
            Some(last) if next.along - last.along <= same => {
                if next.slice.instance.is_empty() || next.slice.instance != last.slice.instance {
                    return Err(Error::field(
                        &next.slice.path,
                        "ImagePositionPatient",
                        "a place of its own",
                        format!("that of {}", last.slice.name()),
                    ));
                }
                copies += 1;
            }
            _ => kept.push(next),
        }
    }
    if copies > 0 {
        warnings.push(format!(
            "{copies} files are copies of other slices and are left out"
        ));
    }
    Ok(kept)
}

/// From slice to slice, mm in LPS; gaps and uneven steps are refused, tilt is told.
fn step(
    folder: &Path,
    placed: &[Placed],
    normal: Vector,
    warnings: &mut Vec<String>,
) -> Result<Vector> {
    let [first, .., last] = placed else {
        let slice = &placed[0].slice;
        let mm = slice.thickness.filter(|&mm| mm > 0.0).unwrap_or(1.0);
        warnings.push(format!(
            "a single slice: its thickness, {mm} mm, stands for the spacing"
        ));
        return Ok(normal.map(|c| c * mm));
    };
    let median = median_step(placed);
    for pair in placed.windows(2) {
        let gap = pair[1].along - pair[0].along;
        if (gap - median).abs() > (LOOSE * median).max(LOOSE_MM) {
            let got = format!(
                "{gap:.3} mm between {} and {}",
                pair[0].slice.name(),
                pair[1].slice.name()
            );
            let expected = format!("even steps of {median:.3} mm (slices missing?)");
            return Err(Error::field(folder, "slice positions", expected, got));
        }
    }
    let n = (placed.len() - 1) as f64;
    let step = minus(last.position, first.position).map(|c| c / n);
    straight(folder, placed, step, median)?;
    let cosine = (dot(step, normal) / norm(step)).clamp(-1.0, 1.0);
    let tilt = cosine.acos().to_degrees();
    if tilt > TILT_DEGREES {
        warnings.push(format!(
            "the gantry is tilted by {tilt:.1} degrees: the grid is sheared, as its affine says"
        ));
    }
    Ok(step)
}

/// Slices must lie on one line: a jump to the side cannot be said by an affine.
fn straight(folder: &Path, placed: &[Placed], step: Vector, median: f64) -> Result<()> {
    let tolerance = (2.0 * LOOSE * median).max(1.0);
    for (index, p) in placed.iter().enumerate() {
        let expected: Vector =
            std::array::from_fn(|c| placed[0].position[c] + step[c] * index as f64);
        let off = norm(minus(p.position, expected));
        if off > tolerance {
            let got = format!("{} is {off:.2} mm off", p.slice.name());
            return Err(Error::field(
                folder,
                "slice positions",
                "slices on a straight line",
                got,
            ));
        }
    }
    Ok(())
}
