//! RAD-ChestCT: npz volumes, labels by abnormality and location.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use uniferum_ct::HuSource;
use uniferum_tasks::{Catalogue, Task};

use super::{Absent, Collected, files};
use crate::error::{Error, Result};
use crate::manifest::{Gathered, Label, Scan, Split, Table, base_name};

/// RAD-ChestCT as it is downloaded: `*.npz` and the tables, anywhere below one folder.
///
/// # Reference
/// Paper, section 3.4.2: 39 of the 84 abnormalities; a label is the maximum over the 52 locations.
#[derive(Debug, Clone)]
pub struct RadChest {
    /// The folder.
    pub root: PathBuf,
    /// Rows without a file.
    pub absent: Absent,
}

const SPLITS: [(&str, Split); 3] = [
    ("imgtrain", Split::Train),
    ("imgvalid", Split::Val),
    ("imgtest", Split::Test),
];

impl RadChest {
    /// A folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        RadChest {
            root: root.into(),
            absent: Absent::Drop,
        }
    }

    /// Reads the tables and finds the files.
    ///
    /// Patients come from the metadata table (`MRN_DEID`); where it is missing each scan is its own, and a
    /// note says so.
    ///
    /// # Errors
    /// [`Error::Table`] with file and row; also where an abnormality has no column.
    pub fn read(&self) -> Result<Collected> {
        let mut out = Collected::default();
        let tables = files::by_name(&self.root, &[".csv"], &[])?;
        let scans = files::by_name(&self.root, &[".npz"], &[])?;
        let patients = patients(&tables)?;
        if patients.is_empty() {
            out.note(
                "no table with NoteAcc_DEID and MRN_DEID: each scan counts as a patient of its own",
            );
        }
        let mut rows = Gathered::default();
        for (prefix, split) in SPLITS {
            match label_table(&tables, prefix) {
                Some(path) => {
                    for (row, scan) in self.part(path, split, &scans, &patients)? {
                        rows.add(scan).map_err(|what| {
                            let what = format!("another row of the scan disagrees about {what}");
                            Error::table(path, Some(row), what)
                        })?;
                    }
                }
                None => out.note(format!("no label table of {prefix}: the part is left out")),
            }
        }
        let rows = rows.scans;
        if rows.is_empty() {
            let what = "no img{train,valid,test}_Abnormality_and_Location_Labels.csv with a row";
            return Err(Error::table(&self.root, None, what));
        }
        let nobodys = |scan: &&Scan| !patients.contains_key(&scan.name());
        let own: Vec<String> = rows.iter().filter(nobodys).map(Scan::name).collect();
        if !patients.is_empty() {
            out.note_some("scans without a patient, each taken for its own", &own);
        }
        out.keep(rows, self.absent)?;
        Ok(out)
    }

    fn part(
        &self,
        path: &Path,
        split: Split,
        files: &BTreeMap<String, PathBuf>,
        patients: &HashMap<String, String>,
    ) -> Result<Vec<(usize, Scan)>> {
        let table = Table::read(path)?;
        // The author's tables have an index without a name.
        let index = table.need(&["NoteAcc_DEID", ""])?;
        let catalogue = Catalogue::standard();
        let tasks = catalogue.group("rad-chest");
        let columns: Result<Vec<_>> = tasks.iter().map(|t| locations(&table, t)).collect();
        let columns = columns?;
        let mut scans = Vec::with_capacity(table.len());
        for row in 0..table.len() {
            let name = base_name(Path::new(table.cell(row, index)));
            let file = files.get(&name).cloned();
            let patient = patients.get(&name).unwrap_or(&name);
            let mut scan = Scan {
                path: file.unwrap_or_else(|| self.root.join(format!("{name}.npz"))),
                patient: format!("rad-chest:{patient}"),
                study: format!("rad-chest:{name}"),
                collection: "rad-chest".to_owned(),
                split,
                hu: HuSource::AlreadyHu,
                ..Scan::default()
            };
            for (task, columns) in tasks.iter().zip(&columns) {
                let label = maximum(&table, row, columns)
                    .map_err(|e| table.error(row, format!("{}: {e}", task.label)))?;
                scan.set_label(&task.id, label);
            }
            scans.push((table.row_number(row), scan));
        }
        Ok(scans)
    }
}

fn label_table<'a>(tables: &'a BTreeMap<String, PathBuf>, prefix: &str) -> Option<&'a Path> {
    ["Abnormality_and_Location_Labels", "BinaryLabels"]
        .iter()
        .find_map(|kind| tables.get(&format!("{prefix}_{kind}.csv")))
        .map(PathBuf::as_path)
}

/// The columns `abnormality*location`, or the one column `abnormality` of a table without locations.
fn locations(table: &Table, task: &Task) -> Result<Vec<usize>> {
    let of_task = |name: &str| name.split('*').next() == Some(task.label.as_str());
    let columns: Vec<usize> = (0..table.head().len())
        .filter(|&c| of_task(&table.head()[c]))
        .collect();
    if columns.is_empty() {
        let what = format!("no column {}*… for {}", task.label, task.id);
        return Err(Error::table(&table.path, None, what));
    }
    Ok(columns)
}

/// Positive where any location is; negative only where all are known to be.
fn maximum(table: &Table, row: usize, columns: &[usize]) -> std::result::Result<Label, String> {
    let mut all = Label::Negative;
    for &column in columns {
        match Label::parse(table.cell(row, column))? {
            Label::Positive => return Ok(Label::Positive),
            Label::Negative => {}
            Label::Missing | Label::Censored => all = Label::Missing,
        }
    }
    Ok(all)
}

/// Patients by scan, from every table that has both columns.
fn patients(tables: &BTreeMap<String, PathBuf>) -> Result<HashMap<String, String>> {
    let mut patients = HashMap::new();
    let named =
        |n: &str| n.contains("Metadata") || n.contains("Summary") || n.contains("identifiers");
    for path in tables.iter().filter(|(n, _)| named(n)).map(|(_, p)| p) {
        let table = Table::read(path)?;
        let scan = ["NoteAcc_DEID", "VolumeAcc_DEID", "Accession"];
        let scan = scan.iter().find_map(|c| table.find(c));
        let patient = ["MRN_DEID", "MRN"].iter().find_map(|c| table.find(c));
        let Some((scan, patient)) = scan.zip(patient) else {
            continue;
        };
        for (row, patient) in table.ids(patient).into_iter().enumerate() {
            let scan = table.cell(row, scan);
            if !scan.is_empty() && !patient.is_empty() {
                patients.insert(base_name(Path::new(scan)), patient.to_owned());
            }
        }
    }
    Ok(patients)
}
