//! Which slices belong together, and which of several series is the chest CT.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::find::Found;
use super::slice::Slice;
use super::stack::{directions, stack};
use crate::error::{Error, Result};

/// Fewer slices are no chest when there is something else to choose.
const CHEST_SLICES: usize = 20;
/// A shorter stack is no chest when there is something else to choose, mm.
const CHEST_MM: f64 = 120.0;

/// A series of a folder: slices of one series number, size and orientation.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct SeriesSummary {
    /// SeriesInstanceUID, empty where the files have none. Where a series falls into several stacks,
    /// `#2`, `#3`… follow. Some manufacturers write the time of the scan into their UIDs.
    pub id: String,
    /// The folder of its first file.
    pub folder: PathBuf,
    /// Number of files.
    pub files: usize,
    /// Number of slices: as many, or more where a file has several frames.
    pub slices: usize,
    /// Modality, such as `CT`, if it is told.
    pub modality: Option<String>,
    /// Convolution kernel, if it is told.
    pub kernel: Option<String>,
    /// Columns and rows.
    pub size: [usize; 2],
    /// Spacing of columns, rows and slices in mm, where the slices make a volume.
    pub spacing_mm: Option<[f64; 3]>,
    /// Direction of increasing index, such as `LPS`, where the slices make a volume.
    pub orientation: Option<String>,
    /// Whether these are localizers (scouts).
    pub localizer: bool,
    /// Why the slices make no volume, if so.
    pub problem: Option<String>,
    /// Whether this can be a chest CT: no localizer, enough axial slices, a volume.
    pub plausible_chest: bool,
}

/// Slices of one series, size and orientation.
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) slices: Vec<Slice>,
}

/// What tells groups apart beside the orientation: the series, localizer or not, size, and the stack that
/// frames name.
type Key = (String, bool, usize, usize, String);

fn key(slice: &Slice) -> Key {
    let Slice { rows, columns, .. } = *slice;
    (
        slice.series.clone(),
        slice.localizer,
        rows,
        columns,
        slice.stack.clone(),
    )
}

/// Whether two slices lie alike: directions are written with 6 decimals or so, and a hundredth is half a
/// degree.
fn lie_alike(a: &Slice, b: &Slice) -> bool {
    let cosines = |s: &Slice| {
        s.orientation
            .map_or([0.0; 6], |[r, c]| [r[0], r[1], r[2], c[0], c[1], c[2]])
    };
    let mut pairs = cosines(a).into_iter().zip(cosines(b));
    pairs.all(|(a, b)| (a - b).abs() < 0.01)
}

/// Sorts slices into groups; the largest group of a series comes first.
pub(crate) fn groups(slices: Vec<Slice>) -> Vec<Group> {
    let mut by_key: BTreeMap<Key, Vec<Vec<Slice>>> = BTreeMap::new();
    for slice in slices {
        let parts = by_key.entry(key(&slice)).or_default();
        match parts.iter_mut().find(|part| lie_alike(&part[0], &slice)) {
            Some(part) => part.push(slice),
            None => parts.push(vec![slice]),
        }
    }
    let mut by_series: BTreeMap<String, Vec<Vec<Slice>>> = BTreeMap::new();
    for ((series, ..), parts) in by_key {
        by_series.entry(series).or_default().extend(parts);
    }
    let mut out = Vec::new();
    for (series, mut parts) in by_series {
        parts.sort_by_key(|slices| (slices[0].localizer, std::cmp::Reverse(slices.len())));
        for (part, slices) in parts.into_iter().enumerate() {
            let id = match part {
                0 => series.clone(),
                n => format!("{series}#{}", n + 1),
            };
            out.push(Group { id, slices });
        }
    }
    out
}

/// How many files the slices are in.
fn files(slices: &[Slice]) -> usize {
    let paths: BTreeSet<&Path> = slices.iter().map(|s| s.path.as_path()).collect();
    paths.len()
}

/// Describes a group.
pub(crate) fn summary(folder: &Path, group: &Group) -> SeriesSummary {
    let first = &group.slices[0];
    let fault = first.check_image().err();
    let volume = match fault {
        Some(error) => Err(error),
        None => stack(folder, group.slices.clone()),
    };
    let mut out = SeriesSummary {
        id: group.id.clone(),
        folder: first.path.parent().unwrap_or(folder).to_owned(),
        files: files(&group.slices),
        slices: group.slices.len(),
        modality: first.modality.clone(),
        kernel: first.kernel.clone(),
        size: [first.columns, first.rows],
        spacing_mm: None,
        orientation: None,
        localizer: first.localizer,
        problem: None,
        plausible_chest: false,
    };
    match volume {
        Ok(stack) => {
            let spacing = stack.affine.spacing();
            let extent = spacing[2] * stack.slices.len() as f64;
            let axial = directions(first).is_ok_and(|[_, _, normal]| normal[2].abs() > 0.8);
            out.plausible_chest = !first.localizer
                && axial
                && stack.slices.len() >= CHEST_SLICES
                && extent >= CHEST_MM;
            out.spacing_mm = Some(spacing);
            out.orientation = Some(stack.affine.orientation());
        }
        Err(error) => out.problem = Some(error.to_string()),
    }
    out
}

/// Picks the series that is asked for, or the one that alone can be meant.
///
/// A single group that is no localizer is taken whatever it is; of several, the only plausible chest.
pub(crate) fn choose(
    folder: &Path,
    found: Found,
    wanted: Option<&str>,
) -> Result<(Group, Vec<String>)> {
    let mut warnings = Vec::new();
    let faults = found.faults.len();
    if found.slices.is_empty() {
        return Err(found.faults.into_iter().next().unwrap_or_else(|| {
            let got = format!("{} files, none of them", found.others);
            Error::field(folder, "folder", "DICOM images", got)
        }));
    }
    let mut groups = groups(found.slices);
    let summaries: Vec<SeriesSummary> = groups.iter().map(|g| summary(folder, g)).collect();
    let index = match wanted {
        Some(id) => named(folder, &summaries, id)?,
        None => unambiguous(folder, &summaries)?,
    };
    if faults > 0 {
        // A damaged file may be a slice of the chosen series: its gap is found by position, but one at
        // either end is not.
        warnings.push(format!(
            "{faults} DICOM files could not be read: {}",
            found.faults[0]
        ));
    }
    if summaries.len() > 1 && wanted.is_none() {
        let others = summaries.len() - 1;
        warnings.push(format!(
            "{others} other series or scouts in the folder are left out"
        ));
    }
    Ok((groups.swap_remove(index), warnings))
}

fn named(folder: &Path, summaries: &[SeriesSummary], id: &str) -> Result<usize> {
    summaries
        .iter()
        .position(|s| s.id == id)
        .ok_or_else(|| Error::field(folder, "series", list(summaries), format!("{id:?}")))
}

fn unambiguous(folder: &Path, summaries: &[SeriesSummary]) -> Result<usize> {
    let only = |accept: &dyn Fn(&SeriesSummary) -> bool| {
        let mut matching = (0..summaries.len()).filter(|&i| accept(&summaries[i]));
        matching.next().filter(|_| matching.next().is_none())
    };
    // Images of other kinds (reports with pictures, ultrasound) never compete.
    let image = |s: &SeriesSummary| !s.localizer && s.modality.as_deref().is_none_or(|m| m == "CT");
    only(&|s| !s.localizer)
        .or_else(|| only(&image))
        .or_else(|| only(&|s| s.plausible_chest))
        .ok_or_else(|| {
            let expected = "one chest CT (or its name: --series of inspect and predict, \
                            ReadOptions::series; to prepare each, give it a folder of its own)";
            Error::field(folder, "series", expected, list(summaries))
        })
}

/// All series in a line each, for a message.
fn list(summaries: &[SeriesSummary]) -> String {
    let line = |s: &SeriesSummary| {
        let [columns, rows] = s.size;
        let count = if s.slices == s.files {
            format!("{} files", s.files)
        } else {
            format!("{} slices in {} files", s.slices, s.files)
        };
        let kind = match (s.localizer, s.plausible_chest) {
            (true, _) => "localizer",
            (_, true) => "chest",
            _ => "other",
        };
        let spacing = s
            .spacing_mm
            .map_or(String::new(), |mm| format!(", {:.2} mm apart", mm[2]));
        let kernel = s
            .kernel
            .as_ref()
            .map_or(String::new(), |k| format!(", kernel {k}"));
        format!(
            "\n  {:?}: {count} of {columns} x {rows}{spacing}{kernel}, {kind}",
            s.id
        )
    };
    summaries.iter().map(line).collect()
}
