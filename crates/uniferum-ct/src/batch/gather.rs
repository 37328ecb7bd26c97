//! Which scans there are: files, folders, lists and tables turned into one list of inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::masks::{MaskFolder, class_folder, is_class};
use crate::error::{Error, Result};
use crate::io::{HuSource, read_separated};

/// Ends of names that are scans when a folder is searched. A file named on its own may have any name.
const SCAN_ENDS: [&str; 13] = [
    ".nii", ".nii.gz", ".hdr", ".hdr.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".npz", ".uct", ".bin",
    ".img.hdr", ".nii.hdr",
];

/// Columns with the HU a stored unit is worth, the manifest's first.
pub(super) const SLOPES: [&str; 3] = ["hu_slope", "slope", "RescaleSlope"];
/// Columns with the HU of stored 0.
pub(super) const INTERCEPTS: [&str; 3] = ["hu_intercept", "intercept", "RescaleIntercept"];

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

/// Finds all scans that `sources` name, each once, in the order they are named and by name within a
/// folder.
///
/// # Errors
/// [`Error::Io`] for a folder, list or table that cannot be read; [`Error::Field`] for a table without
/// a column `scan`, for numbers in it that are none, and for one that is no CSV. What concerns one scan alone is its
/// [`Input::problem`].
pub fn gather(sources: &Sources) -> Result<Vec<Input>> {
    let mut found = Vec::new();
    let exclude = sources.exclude.as_deref();
    let exclude = exclude.and_then(|path| path.canonicalize().ok());
    let search = Search {
        exclude: exclude.as_deref(),
        classes: &sources.mask_classes,
    };
    for input in &sources.inputs {
        search.add(input, &mut found)?;
    }
    let mut seen = BTreeSet::new();
    found.retain(|entry| seen.insert(entry.scan.clone()));
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
    Ok(found.into_iter().map(finish).collect())
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

/// How inputs are looked through.
struct Search<'a> {
    /// A folder that is passed over.
    exclude: Option<&'a Path>,
    /// Files of these names are masks.
    classes: &'a MaskClasses,
}

impl Search<'_> {
    fn add(&self, input: &Path, found: &mut Vec<Entry>) -> Result<()> {
        let end = |end: &str| {
            let name = input.extension().unwrap_or_default();
            name.eq_ignore_ascii_case(end) && input.is_file()
        };
        if input.is_dir() {
            return self.folder(input, input, found).map(|_| ());
        }
        if end("txt") {
            return add_list(input, found);
        }
        if end("csv") {
            return add_table(input, found);
        }
        if end("parquet") || end("tsv") {
            let got = "another kind of table: `uniferum manifest merge` writes a manifest as CSV";
            return Err(Error::field(input, "table", "CSV", got));
        }
        // A file that is not there becomes a row with its error.
        found.push(Entry {
            scan: input.to_owned(),
            root: parent(input),
            ..Entry::default()
        });
        Ok(())
    }

    /// Scans below a folder by name; a folder that holds DICOM files is one scan. Where folders below it
    /// hold some, they are the scans instead: read together, they would be prepared twice. Returns whether
    /// there is DICOM.
    fn folder(&self, root: &Path, folder: &Path, found: &mut Vec<Entry>) -> Result<bool> {
        if self.exclude.is_some() && folder.canonicalize().ok().as_deref() == self.exclude {
            return Ok(false);
        }
        let fail = |source| Error::io(folder, source);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(fail)? {
            paths.push(entry.map_err(fail)?.path());
        }
        paths.sort();
        let entry = |scan: &Path| Entry {
            scan: scan.to_owned(),
            root: root.to_owned(),
            ..Entry::default()
        };
        let first = found.len();
        let (mut here, mut below) = (false, false);
        for path in paths {
            if hidden(&path) || is_class(&path, self.classes) {
                continue;
            }
            if path.is_dir() {
                below |= self.folder(root, &path, found)?;
            } else if is_scan_name(&path) {
                found.push(entry(&path));
            } else {
                here = here || is_dicom(&path);
            }
        }
        match (here, below) {
            (true, false) => found.push(entry(folder)),
            (true, true) => {
                let text = format!("DICOM files in {} itself are left out", folder.display());
                let scans = found[first..].iter_mut().filter(|e| e.scan.is_dir());
                scans.for_each(|entry| entry.warnings.push(text.clone()));
            }
            _ => {}
        }
        Ok(here || below)
    }
}

fn add_list(list: &Path, found: &mut Vec<Entry>) -> Result<()> {
    let text = std::fs::read_to_string(list).map_err(|source| Error::io(list, source))?;
    let root = parent(list);
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let scan = root.join(line);
        found.push(Entry {
            scan,
            root: root.clone(),
            ..Entry::default()
        });
    }
    Ok(())
}

fn add_table(table: &Path, found: &mut Vec<Entry>) -> Result<()> {
    let root = parent(table);
    let rows = Table::open(table)?;
    let scan = rows.need(&["scan", "img_file_path"])?;
    let [mask, nodules] = ["mask", "nodules"].map(|name| rows.find(&[name]));
    let source = rows.find(&["hu_source"]);
    let (slope, intercept) = (rows.find(&SLOPES), rows.find(&INTERCEPTS));
    for record in &rows.records {
        let file = |column: Option<usize>| {
            let text = record.get(column?)?.trim();
            (!text.is_empty()).then(|| root.join(text))
        };
        let Some(path) = file(Some(scan)) else {
            continue;
        };
        let scaling = match (slope, intercept) {
            (Some(slope), Some(intercept)) => rows.scaling(record, slope, intercept)?,
            _ => None,
        };
        found.push(Entry {
            scan: path,
            root: root.clone(),
            mask: file(mask),
            nodules: file(nodules),
            hu: source.map_or(Ok(None), |column| rows.hu_source(record, column))?,
            scaling,
            warnings: Vec::new(),
        });
    }
    Ok(())
}

fn hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with('.')
}

fn is_scan_name(path: &Path) -> bool {
    let name = path.to_string_lossy().to_ascii_lowercase();
    SCAN_ENDS.iter().any(|end| name.ends_with(end))
}

/// The mark of a DICOM file after its preamble, or the usual name. The table of contents of a medium has the
/// mark, too, but no image.
fn is_dicom(path: &Path) -> bool {
    if base_name(path).eq_ignore_ascii_case("DICOMDIR") {
        return false;
    }
    if path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("dcm"))
    {
        return true;
    }
    let mut head = [0; 132];
    std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head))
        .is_ok_and(|()| head[128..] == *b"DICM")
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

/// The file's name.
fn base_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
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

/// `VolumeName` to slope and intercept.
fn hu_table(path: &Path) -> Result<Scalings> {
    let rows = Table::open(path)?;
    let name = rows.need(&["VolumeName", "scan"])?;
    let (slope, intercept) = (rows.need(&SLOPES)?, rows.need(&INTERCEPTS)?);
    let mut table = Scalings::new();
    for record in &rows.records {
        let scan = base_name(Path::new(record.get(name).unwrap_or_default().trim()));
        if let Some(scaling) = rows.scaling(record, slope, intercept)? {
            table.insert(scan, scaling);
        }
    }
    Ok(table)
}

/// A CSV table in memory.
struct Table<'a> {
    path: &'a Path,
    head: csv::StringRecord,
    records: Vec<csv::StringRecord>,
}

impl<'a> Table<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let fail = |e: csv::Error| Error::field(path, "table", "CSV with a head", e);
        let wrong = |e: String| Error::field(path, "table", "CSV with a head", e);
        let mut reader = read_separated(path).map_err(wrong)?;
        let head = reader.headers().map_err(fail)?.clone();
        let records: std::result::Result<Vec<_>, _> = reader.records().collect();
        Ok(Self {
            path,
            head,
            records: records.map_err(fail)?,
        })
    }

    fn find(&self, names: &[&str]) -> Option<usize> {
        names
            .iter()
            .find_map(|name| self.head.iter().position(|h| h.trim() == *name))
    }

    fn need(&self, names: &[&str]) -> Result<usize> {
        self.find(names).ok_or_else(|| {
            let have: Vec<&str> = self.head.iter().collect();
            Error::field(self.path, "columns", names.join(" or "), have.join(", "))
        })
    }

    /// Slope and intercept of a row; `None` where a cell is empty or `nan`.
    fn scaling(
        &self,
        record: &csv::StringRecord,
        slope: usize,
        intercept: usize,
    ) -> Result<Option<(f64, f64)>> {
        let number = |column: usize| {
            let text = record.get(column).unwrap_or_default().trim();
            if text.is_empty() || text.eq_ignore_ascii_case("nan") {
                return Ok(None);
            }
            let number = text.parse::<f64>().ok().filter(|v| v.is_finite());
            number.map(Some).ok_or_else(|| {
                let got = in_line(record, text);
                Error::field(self.path, "slope and intercept", "numbers", got)
            })
        };
        Ok(number(slope)?.zip(number(intercept)?))
    }

    /// A cell of `hu_source`; `None` where it is empty.
    fn hu_source(&self, record: &csv::StringRecord, column: usize) -> Result<Option<HuChoice>> {
        let text = record.get(column).unwrap_or_default().trim();
        let mut known = HuChoice::ALL.into_iter();
        match known.find(|choice| choice.as_str() == text) {
            None if !text.is_empty() => {
                let (expected, got) = ("header, already_hu or table", in_line(record, text));
                Err(Error::field(self.path, "hu_source", expected, got))
            }
            choice => Ok(choice),
        }
    }
}

fn in_line(record: &csv::StringRecord, text: &str) -> String {
    let line = record.position().map_or(0, csv::Position::line);
    format!("{text:?} in line {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
    }

    fn of(folder: &Path, sources: Sources) -> Vec<Input> {
        let inputs = sources.inputs.iter().map(|p| folder.join(p)).collect();
        gather(&Sources { inputs, ..sources }).unwrap()
    }

    fn names(folder: &Path, inputs: &[Input]) -> Vec<String> {
        let name = |i: &Input| {
            let path = i.scan.strip_prefix(folder).unwrap();
            path.to_string_lossy().into_owned()
        };
        inputs.iter().map(name).collect()
    }

    #[test]
    fn folders_lists_and_files_name_each_scan_once() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        touch(
            f,
            &[
                "b/2.nii.gz",
                "b/1.nii",
                "b/notes.md",
                "b/.c.nii",
                "b/ct/1.dcm",
                "b/ct/2.dcm",
                "x.any",
            ],
        );
        std::fs::write(f.join("l.txt"), "# two\nb/1.nii\n\nmissing.nii\n").unwrap();
        let inputs = ["b", "l.txt", "x.any"].map(PathBuf::from).to_vec();
        let found = of(
            f,
            Sources {
                inputs,
                ..Sources::default()
            },
        );
        assert_eq!(
            names(f, &found),
            ["b/1.nii", "b/2.nii.gz", "b/ct", "missing.nii", "x.any"]
        );
        assert!(
            found
                .iter()
                .all(|i| i.problem.is_none() && i.hu == HuSource::Header)
        );
        let (inputs, exclude) = (vec![PathBuf::from("b")], Some(f.join("b/../b/ct")));
        let found = of(
            f,
            Sources {
                inputs,
                exclude,
                ..Sources::default()
            },
        );
        assert_eq!(names(f, &found), ["b/1.nii", "b/2.nii.gz"]);
        assert_eq!(stem(Path::new("a/b.v1.nii.gz")), "b.v1");
        assert_eq!(stem(Path::new("a/c")), "c");
    }

    #[test]
    fn a_dicom_medium_is_not_a_scan_beside_its_series() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        touch(
            f,
            &["cd/a/ct/2.dcm", "cd/a/scout.dcm", "cd/b/1.dcm", "cd/c.nii"],
        );
        let marked = [[0; 128].as_slice(), b"DICM"].concat();
        for name in ["DICOMDIR", "dicomdir"] {
            std::fs::write(f.join("cd").join(name), &marked).unwrap();
            let inputs = vec![PathBuf::from("cd")];
            let sources = Sources {
                inputs,
                ..Sources::default()
            };
            let found = of(f, sources);
            assert_eq!(names(f, &found), ["cd/a/ct", "cd/b", "cd/c.nii"]);
            let warned: Vec<usize> = found.iter().map(|i| i.warnings.len()).collect();
            assert_eq!(warned, [1, 0, 0]);
        }
    }

    #[test]
    fn tables_bring_masks_and_scaling() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        std::fs::write(
            f.join("t.csv"),
            "patient,scan,mask,slope,intercept\np,s/1.nii,m/1.nii,2,-1024\nq,s/2.nii,,,\n",
        )
        .unwrap();
        let inputs = vec![PathBuf::from("t.csv")];
        let sources = Sources {
            inputs,
            hu: Some(HuChoice::Table),
            ..Sources::default()
        };
        let found = of(f, sources.clone());
        assert_eq!(found[0].mask, Some(f.join("m/1.nii")));
        assert_eq!(
            found[0].hu,
            HuSource::Table {
                slope: 2.0,
                intercept: -1024.0
            }
        );
        assert!(found[1].mask.is_none() && found[1].problem.is_some());
        std::fs::write(
            f.join("meta.csv"),
            "VolumeName,RescaleSlope,RescaleIntercept\n2.nii,1,-8\n",
        )
        .unwrap();
        let hu_table = Some(f.join("meta.csv"));
        let found = of(
            f,
            Sources {
                hu_table,
                ..sources
            },
        );
        assert_eq!(
            found[1].hu,
            HuSource::Table {
                slope: 1.0,
                intercept: -8.0
            }
        );
        assert!(found[1].problem.is_none());
        std::fs::write(f.join("bad.csv"), "file\nx\n").unwrap();
        let inputs = vec![f.join("bad.csv")];
        let error = gather(&Sources {
            inputs,
            ..Sources::default()
        })
        .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected scan or img_file_path, got file"),
            "{error}"
        );
    }

    #[test]
    fn a_manifest_says_where_each_scan_s_hounsfield_units_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        let table = "scan,hu_source,hu_slope,hu_intercept\n\
                     a.nii,table,1,-8192\nb.nii,already_hu,,\nc.nii,header,,\nd.nii,,2,3\ne.nii,table,,\n";
        std::fs::write(f.join("m.csv"), table).unwrap();
        let with = |hu| Sources {
            inputs: vec![PathBuf::from("m.csv")],
            hu,
            ..Sources::default()
        };
        let found = of(f, with(None));
        let scaled = HuSource::Table {
            slope: 1.0,
            intercept: -8192.0,
        };
        let sources: Vec<HuSource> = found.iter().map(|i| i.hu).collect();
        let expected = [
            scaled,
            HuSource::AlreadyHu,
            HuSource::Header,
            HuSource::Header,
        ];
        assert_eq!(sources[..4], expected);
        let problems =
            |found: &[Input]| -> Vec<bool> { found.iter().map(|i| i.problem.is_some()).collect() };
        assert_eq!(problems(&found), [false, false, false, false, true]);
        // What is asked for all scans must not contradict their rows.
        let found = of(f, with(Some(HuChoice::Table)));
        assert_eq!(problems(&found), [false, true, true, false, true]);
        let problem = found[1].problem.as_deref().unwrap();
        assert!(
            problem.contains("already_hu, asked for is table"),
            "{problem}"
        );
        let refused = |name: &str, text: &str| {
            std::fs::write(f.join(name), text).unwrap();
            let inputs = vec![f.join(name)];
            let sources = Sources {
                inputs,
                ..Sources::default()
            };
            gather(&sources).unwrap_err().to_string()
        };
        let error = refused("bad.csv", "scan,hu_source\na.nii,hounsfield\n");
        assert!(error.contains("\"hounsfield\" in line 2"), "{error}");
        for name in ["m.parquet", "m.tsv"] {
            let error = refused(name, "");
            assert!(
                error.contains("expected CSV") && error.contains("manifest merge"),
                "{error}"
            );
        }
    }

    #[test]
    fn masks_are_found_by_the_scan_s_name() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        touch(
            f,
            &[
                "s/a/1.nii.gz",
                "s/2.mha",
                "s/3.nii",
                "m/a/1.nii.gz",
                "m/2_seg.nii.gz",
            ],
        );
        let inputs = vec![PathBuf::from("s")];
        let sources = Sources {
            inputs,
            masks: Some(f.join("m")),
            ..Sources::default()
        };
        let found = of(f, sources.clone());
        assert_eq!(names(f, &found), ["s/2.mha", "s/3.nii", "s/a/1.nii.gz"]);
        assert_eq!(found[0].mask, Some(f.join("m/2_seg.nii.gz")));
        assert_eq!(found[2].mask, Some(f.join("m/a/1.nii.gz")));
        assert!(found[1].problem.as_ref().unwrap().contains("no mask"));
        let found = of(
            f,
            Sources {
                allow_missing_masks: true,
                ..sources
            },
        );
        assert!(found[1].problem.is_none() && found[1].warnings.len() == 1);
    }

    fn classes() -> MaskClasses {
        let names = ["heart", "lung_upper_lobe_left"].map(str::to_owned);
        names.into_iter().zip([51, 10]).collect()
    }

    #[test]
    fn folders_with_a_file_a_class_are_masks() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        touch(
            f,
            &[
                "s/p/1.nii.gz",
                "s/p/2.nii.gz",
                "s/3.nii",
                "s/4/a.dcm",
                "s/5.mha",
                "m/p/1/heart.nii.gz",
                "m/x/2_seg/segmentations/lung_upper_lobe_left.nii.gz",
                "m/3/heart.nii",
                "m/3/statistics.json",
                "m/4/heart.nii.gz",
            ],
        );
        let inputs = vec![PathBuf::from("s")];
        let sources = Sources {
            inputs,
            masks: Some(f.join("m")),
            mask_classes: classes(),
            ..Sources::default()
        };
        let found = of(f, sources);
        assert_eq!(
            names(f, &found),
            ["s/3.nii", "s/4", "s/5.mha", "s/p/1.nii.gz", "s/p/2.nii.gz"]
        );
        let masks: Vec<_> = found
            .iter()
            .map(|i| Some(i.mask.as_ref()?.strip_prefix(f).unwrap().to_owned()))
            .collect();
        let expected = [
            Some("m/3"),
            Some("m/4"),
            None,
            Some("m/p/1"),
            Some("m/x/2_seg/segmentations"),
        ];
        assert_eq!(masks, expected.map(|m| m.map(PathBuf::from)));
        assert!(found[2].problem.as_ref().unwrap().contains("no mask"));
        assert_eq!(found[0].mask_classes, classes());
    }

    #[test]
    fn a_data_set_of_totalsegmentator_is_scans_and_masks_in_one() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        touch(
            f,
            &[
                "d/s1/ct.nii.gz",
                "d/s1/segmentations/heart.nii.gz",
                "d/s2/ct.nii.gz",
                "d/s2/segmentations/heart.nii.gz",
            ],
        );
        // The same folder in another spelling: a scan is not its own mask.
        let sources = Sources {
            inputs: vec![PathBuf::from("d")],
            masks: Some(f.join("d/../d")),
            mask_classes: classes(),
            ..Sources::default()
        };
        let found = of(f, sources);
        assert_eq!(names(f, &found), ["d/s1/ct.nii.gz", "d/s2/ct.nii.gz"]);
        for (input, case) in found.iter().zip(["s1", "s2"]) {
            let mask = input.mask.as_ref().unwrap();
            let expected = f.join("d/../d").join(case).join("segmentations");
            assert_eq!(*mask, expected);
        }
    }

    #[test]
    fn one_scan_s_classes_may_be_named_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path();
        touch(
            f,
            &["a.nii.gz", "b.nii.gz", "out/heart.nii.gz", "none/x.nii"],
        );
        let sources = |inputs: &[&str], masks: &str| Sources {
            inputs: inputs.iter().map(PathBuf::from).collect(),
            masks: Some(f.join(masks)),
            mask_classes: classes(),
            ..Sources::default()
        };
        let found = of(f, sources(&["a.nii.gz"], "out"));
        assert_eq!(found[0].mask, Some(f.join("out")));
        let found = of(f, sources(&["a.nii.gz", "b.nii.gz"], "out"));
        assert!(found.iter().all(|i| i.problem.is_some()));
        // A table names folders too, those of a case as well as those of its classes.
        touch(f, &["case/segmentations/heart.nii.gz"]);
        let table = "scan,mask\na.nii.gz,case\nb.nii.gz,none\n";
        std::fs::write(f.join("t.csv"), table).unwrap();
        let sources = Sources {
            inputs: vec![PathBuf::from("t.csv")],
            mask_classes: classes(),
            ..Sources::default()
        };
        let found = of(f, sources);
        assert_eq!(found[0].mask, Some(f.join("case/segmentations")));
        let problem = found[1].problem.as_ref().unwrap();
        assert!(problem.contains("named after a class"), "{problem}");
    }
}
