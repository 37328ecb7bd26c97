//! Which scans there are: files, folders, lists and tables turned into one list of inputs.

mod rows;
mod search;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::masks::{MaskFolder, class_folder};
use crate::error::Result;
use crate::io::HuSource;
use rows::hu_table;
use search::Search;

pub(super) use rows::{INTERCEPTS, SLOPES};

/// Ends of names that are scans when a folder is searched. A file named on its own may have any name.
const SCAN_ENDS: [&str; 13] = [
    ".nii", ".nii.gz", ".hdr", ".hdr.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".npz", ".uct", ".bin",
    ".img.hdr", ".nii.hdr",
];

/// Where the Hounsfield units of a collection come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HuChoice {
    /// The files' own headers.
    #[default]
    Header,
    /// Slope and intercept of a table, a row a scan; a scan without a row is an error.
    Table,
    /// The stored numbers are HU.
    AlreadyHu,
}

impl HuChoice {
    const ALL: [HuChoice; 3] = [HuChoice::Header, HuChoice::Table, HuChoice::AlreadyHu];

    /// The name in a manifest's column `hu_source`.
    pub fn as_str(self) -> &'static str {
        match self {
            HuChoice::Header => "header",
            HuChoice::Table => "table",
            HuChoice::AlreadyHu => "already_hu",
        }
    }
}

/// Names of files with one class each, without their ending, and the class's number in a label map.
/// Where classes overlap the later wins.
pub type MaskClasses = Arc<[(String, u8)]>;

/// What a user names, before anything is looked at.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Scans, folders, DICOM folders, lists (`.txt`, a path a line) and tables (`.csv`).
    ///
    /// A table has a column `scan` and, if wanted, `mask`, `nodules`, `hu_source` (`header`, `already_hu`
    /// or `table`), `hu_slope` and `hu_intercept` (also `slope` and `intercept`); other columns are for
    /// others. Paths in lists and tables are relative to them.
    pub inputs: Vec<PathBuf>,
    /// A folder that is not searched, as the output folder.
    pub exclude: Option<PathBuf>,
    /// Pass over folders with results of this project below an input: prepared volumes (beside a
    /// `prepare.json`) and predicted masks (beside a `predict.json`, or that of a part).
    pub pass_over_results: bool,
    /// A folder with organ masks (TotalSegmentator v2 numbers) named as the scans: label maps, or
    /// folders with one file a class.
    pub masks: Option<PathBuf>,
    /// What the files in such folders are called (`lung_upper_lobe_left`, without the ending). Empty:
    /// there are none. Files of these names are never scans of a searched folder.
    pub mask_classes: MaskClasses,
    /// A folder with nodule masks named as the scans.
    pub nodules: Option<PathBuf>,
    /// Prepare scans without a mask in the folders, with a warning, instead of refusing them.
    pub allow_missing_masks: bool,
    /// Where the Hounsfield units of all scans come from. Without it, where the table says for each
    /// (`hu_source`), and the headers where nobody says. A table that says otherwise is a scan's problem.
    pub hu: Option<HuChoice>,
    /// A table with the columns `VolumeName`, `RescaleSlope`, `RescaleIntercept`, as CT-RATE has it.
    pub hu_table: Option<PathBuf>,
}

/// A scan to prepare.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Input {
    /// The file, or the folder of a DICOM series.
    pub scan: PathBuf,
    /// Organ mask on the scan's grid: a label map, or a folder with one file a class.
    pub mask: Option<PathBuf>,
    /// Names and numbers of the classes where `mask` is a folder.
    pub mask_classes: MaskClasses,
    /// Nodule mask on the scan's grid.
    pub nodules: Option<PathBuf>,
    /// Where Hounsfield units come from.
    pub hu: HuSource,
    /// The folder that was searched, or that of the list or table: names of outputs may keep what lies
    /// between it and the scan.
    pub root: PathBuf,
    /// Why the scan cannot be prepared, known before it is read.
    pub problem: Option<String>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// What [`gather`] found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gathered {
    /// The scans, each once, in the order they are named and by name within a folder.
    pub inputs: Vec<Input>,
    /// Folders below an input that hold no scan, though they look so, and why: for a person to check.
    pub left_out: Vec<String>,
}

/// Finds all scans that `sources` name.
///
/// Folders of masks that `sources` name are not searched where they lie below an input, nor are folders of
/// DICOM files of which none is a CT (segmentations, reports, localizers), and no folder of an input is
/// searched twice, however links lead to it.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) for a folder, list or table that cannot be read;
/// [`Error::Field`](crate::Error::Field) for a table without a column `scan`, for numbers in it that are none,
/// and for one that is no CSV. What concerns one scan alone is its [`Input::problem`].
pub fn gather(sources: &Sources) -> Result<Gathered> {
    let exclude = sources.exclude.as_deref();
    let exclude = exclude.and_then(|path| path.canonicalize().ok());
    let masks = [&sources.masks, &sources.nodules];
    let masks = masks.into_iter().flatten();
    let mut search = Search {
        exclude: exclude.as_deref(),
        masks: masks.filter_map(|path| path.canonicalize().ok()).collect(),
        pass_over_results: sources.pass_over_results,
        classes: &sources.mask_classes,
        visited: BTreeSet::new(),
        found: Vec::new(),
        left_out: Vec::new(),
    };
    for input in &sources.inputs {
        search.add(input)?;
    }
    let (found, left_out) = (each_once(search.found), search.left_out);
    let table = sources.hu_table.as_deref().map(hu_table).transpose()?;
    let none = MaskClasses::default();
    let folder = |path: &Option<PathBuf>, classes| {
        let open = |path| MaskFolder::open(path, classes);
        path.as_deref().map(open).transpose()
    };
    let beside = Beside {
        masks: folder(&sources.masks, &sources.mask_classes)?,
        nodules: folder(&sources.nodules, &none)?,
        only_scan: found.len() == 1,
    };
    let finish = |entry: Entry| finish(entry, sources, table.as_ref(), &beside);
    Ok(Gathered {
        inputs: found.into_iter().map(finish).collect(),
        left_out,
    })
}

/// The scans in the order they are first named, each with what the first that says something says of it.
fn each_once(named: Vec<Entry>) -> Vec<Entry> {
    let mut at: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut found: Vec<Entry> = Vec::new();
    for entry in named {
        match at.get(&entry.scan) {
            Some(&place) => found[place].add(entry),
            None => {
                at.insert(entry.scan.clone(), found.len());
                found.push(entry);
            }
        }
    }
    found
}

/// A scan as it was named, with what a table said of it.
#[derive(Default)]
struct Entry {
    scan: PathBuf,
    root: PathBuf,
    mask: Option<PathBuf>,
    nodules: Option<PathBuf>,
    hu: Option<HuChoice>,
    scaling: Option<(f64, f64)>,
    warnings: Vec<String>,
}

impl Entry {
    /// Takes over what another mention of the scan says and this one does not.
    fn add(&mut self, other: Entry) {
        self.mask = self.mask.take().or(other.mask);
        self.nodules = self.nodules.take().or(other.nodules);
        self.hu = self.hu.or(other.hu);
        self.scaling = self.scaling.or(other.scaling);
        self.warnings.extend(other.warnings);
    }
}

/// Slope and intercept by the scan's name.
type Scalings = BTreeMap<String, (f64, f64)>;

/// Where masks of scans are looked for.
struct Beside<'a> {
    masks: Option<MaskFolder<'a>>,
    nodules: Option<MaskFolder<'a>>,
    /// Whether there is one scan only.
    only_scan: bool,
}

fn finish(
    entry: Entry,
    sources: &Sources,
    table: Option<&Scalings>,
    folders: &Beside<'_>,
) -> Input {
    let hu = hu_of(&entry, sources.hu, table);
    let (mut problem, mut warnings) = (None, entry.warnings);
    let mut beside = |given: Option<PathBuf>, folder: &Option<MaskFolder<'_>>, what: &str| {
        let Some(folder) = folder.as_ref().filter(|_| given.is_none()) else {
            return given;
        };
        let found = folder.of(&entry.scan, &entry.root, folders.only_scan);
        if found.is_none() {
            let text = format!("no {what} named as the scan in {}", folder.path().display());
            if sources.allow_missing_masks {
                warnings.push(text);
            } else {
                problem = Some(text);
            }
        }
        found
    };
    let mut mask = beside(entry.mask, &folders.masks, "mask");
    let nodules = beside(entry.nodules, &folders.nodules, "nodule mask");
    let mut mask_classes = MaskClasses::default();
    if let Some(folder) = mask.as_mut().filter(|path| path.is_dir()) {
        mask_classes = Arc::clone(&sources.mask_classes);
        match class_folder(folder, &mask_classes) {
            Some(found) => *folder = found,
            None => {
                let folder = folder.display();
                problem = Some(format!("no file in {folder} is named after a class"));
            }
        }
    }
    let hu = hu.unwrap_or_else(|what| {
        problem = Some(what);
        HuSource::Header
    });
    Input {
        scan: entry.scan,
        root: entry.root,
        mask,
        mask_classes,
        nodules,
        hu,
        problem,
        warnings,
    }
}

/// Where a scan's Hounsfield units come from: its row of a table goes before what is said of all scans,
/// which goes before its header.
fn hu_of(
    entry: &Entry,
    all: Option<HuChoice>,
    table: Option<&Scalings>,
) -> std::result::Result<HuSource, String> {
    if let (Some(own), Some(all)) = (entry.hu, all)
        && own != all
    {
        let (own, all) = (own.as_str(), all.as_str());
        return Err(format!(
            "Hounsfield units: hu_source of its row is {own}, asked for is {all}"
        ));
    }
    match entry.hu.or(all).unwrap_or_default() {
        HuChoice::Header => Ok(HuSource::Header),
        HuChoice::AlreadyHu => Ok(HuSource::AlreadyHu),
        HuChoice::Table => {
            let named = || table?.get(&base_name(&entry.scan)).copied();
            let (slope, intercept) = entry
                .scaling
                .or_else(named)
                .ok_or("no slope and intercept for it in the table")?;
            Ok(HuSource::Table { slope, intercept })
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

/// The file's name, also of a folder that is called `.` or `..`.
fn base_name(path: &Path) -> String {
    let real = path.file_name().is_none();
    let real = real.then(|| path.canonicalize().ok()).flatten();
    let name = real.as_deref().unwrap_or(path).file_name();
    name.unwrap_or_default().to_string_lossy().into_owned()
}

/// A file's name without what says its format.
pub(super) fn stem(path: &Path) -> String {
    let name = base_name(path);
    if path.is_dir() {
        return name;
    }
    let lower = name.to_ascii_lowercase();
    let end = SCAN_ENDS.iter().filter(|end| lower.ends_with(**end));
    match end.map(|end| end.len()).max() {
        Some(length) if length < name.len() => name[..name.len() - length].to_owned(),
        _ => name,
    }
}

#[cfg(test)]
mod tests;
