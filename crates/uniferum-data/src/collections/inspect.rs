//! INSPECT: CT pulmonary angiographies, one diagnosis, seven outcomes, impressions.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use uniferum_tasks::Catalogue;

use super::generic::hu_without_table;
use super::{Absent, Collected, HuChoice, Report, files};
use crate::error::{Error, Result};
use crate::manifest::{Label, Scan, Split, SplitBy, SplitPlan, Table, base_name, split_cell};

/// INSPECT as it is downloaded: `CTPA/` and the tables `labels_*.tsv`, `study_mapping_*.tsv`,
/// `splits_*.tsv`, `impressions_*.tsv`.
///
/// # Reference
/// Paper, section 3.4.3.
#[derive(Debug, Clone)]
pub struct Inspect {
    /// The folder `full`, or the one that it is in.
    pub root: PathBuf,
    /// Labels of the 12 findings made from the impressions, by `impression_id`.
    pub report_labels: Option<PathBuf>,
    /// How to split where there is no `splits_*.tsv`.
    pub split: SplitPlan,
    /// Where Hounsfield units come from; the table setting is not available.
    pub hu: HuChoice,
    /// Rows without a file.
    pub absent: Absent,
}

/// The values of one task for one scan.
#[derive(Default)]
struct Votes {
    positive: bool,
    negative: bool,
    censored: bool,
}

impl Inspect {
    /// A folder; without an official split, as many scans as the paper has are held out.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Inspect {
            root: root.into(),
            report_labels: None,
            split: SplitPlan {
                by: SplitBy::Scans {
                    val: 1000,
                    test: 3000,
                },
                seed: 0,
            },
            hu: HuChoice::Header,
            absent: Absent::Drop,
        }
    }

    /// Reads the tables and finds the files.
    ///
    /// Tables are joined on `impression_id`; it may be repeated. Where rows contradict each other about a
    /// label, it is missing and a note counts it.
    ///
    /// # Errors
    /// [`Error::Table`] with file and row.
    pub fn read(&self) -> Result<Collected> {
        let mut out = Collected::default();
        let full = self.root.join("full");
        let base = if full.is_dir() {
            full
        } else {
            self.root.clone()
        };
        let mapping = self.table(&base, "study_mapping_")?;
        let mut scans = self.scans(&base, &mapping, &mut out)?;
        self.label(&mut scans, &self.table(&base, "labels_")?, &mut out)?;
        if let Some(path) = &self.report_labels {
            self.label(&mut scans, &Table::read(path)?, &mut out)?;
        }
        let official = files::newest(&self.folders(&base), "splits_", ".tsv")?;
        if let Some(path) = &official {
            self.split.check_usual(&Self::new("").split, path)?;
            split(&mut scans, &Table::read(path)?, &mut out)?;
        }
        reports(&self.folders(&base), &scans, &mut out)?;
        let scans = scans.into_iter().map(|s| s.scan).collect();
        out.keep(scans, self.absent)?;
        if official.is_none() {
            out.note(format!("no splits_*.tsv: split by patient, {}", self.split));
            self.split.apply(&mut out.manifest, |_| true)?;
        }
        Ok(out)
    }

    fn folders(&self, base: &Path) -> Vec<PathBuf> {
        vec![base.to_owned(), self.root.clone()]
    }

    fn table(&self, base: &Path, prefix: &str) -> Result<Table> {
        let found = files::newest(&self.folders(base), prefix, ".tsv")?;
        let found = found.ok_or_else(|| Error::table(base, None, format!("no {prefix}*.tsv")))?;
        Table::read(found)
    }

    /// One scan an image; an image may have several impressions.
    fn scans(&self, base: &Path, mapping: &Table, out: &mut Collected) -> Result<Vec<Mapped>> {
        let impressions = mapping.ids(mapping.need(&["impression_id"])?);
        let image = mapping.need(&["image_id"])?;
        let persons = mapping.ids(mapping.need(&["person_id", "patient_id", "PatientID"])?);
        let hu = hu_without_table(self.hu)?;
        let mut scans: BTreeMap<String, Mapped> = BTreeMap::new();
        let (mut incomplete, mut nobodys) = (Vec::new(), Vec::new());
        for row in 0..mapping.len() {
            let name = base_name(Path::new(mapping.cell(row, image)));
            let (key, person) = (impressions[row], persons[row]);
            if name.is_empty() || key.is_empty() {
                incomplete.push(format!("row {}", mapping.row_number(row)));
                continue;
            }
            let mapped = scans.entry(name.clone()).or_insert_with(|| Mapped {
                scan: Scan {
                    path: base.join("CTPA").join(format!("{name}.nii.gz")),
                    study: format!("inspect:{key}"),
                    collection: "inspect".to_owned(),
                    hu,
                    ..Scan::default()
                },
                impressions: Vec::new(),
            });
            if !person.is_empty() {
                let patient = format!("inspect:{person}");
                if !mapped.scan.patient.is_empty() && mapped.scan.patient != patient {
                    let what = format!("image {name} belongs to two patients");
                    return Err(mapping.error(row, what));
                }
                mapped.scan.patient = patient;
            }
            if !mapped.impressions.iter().any(|i| i == key) {
                mapped.impressions.push(key.to_owned());
            }
        }
        // Together they would be one patient of many scans.
        for (name, mapped) in scans.iter_mut().filter(|(_, m)| m.scan.patient.is_empty()) {
            mapped.scan.patient = format!("inspect:{name}");
            nobodys.push(name.clone());
        }
        out.note_some("rows without impression or image, left out", &incomplete);
        out.note_some("scans without a patient, each taken for its own", &nobodys);
        Ok(scans.into_values().collect())
    }

    /// Enters the columns of a table that are labels.
    fn label(&self, scans: &mut [Mapped], table: &Table, out: &mut Collected) -> Result<()> {
        let columns = label_columns(table)?;
        let impression = table.need(&["impression_id", "id"])?;
        let rows = table.by_id(impression);
        let joined = |mapped: &Mapped| {
            mapped
                .impressions
                .iter()
                .any(|i| rows.contains_key(i.as_str()))
        };
        let without: Vec<String> = scans
            .iter()
            .filter(|m| !joined(m))
            .map(|m| m.scan.name())
            .collect();
        if without.len() == scans.len() {
            let what =
                "no row is about an impression of study_mapping_*.tsv: are the ids written alike?";
            return Err(Error::table(&table.path, None, what));
        }
        let file = table.path.file_name().unwrap_or_default().to_string_lossy();
        out.note_some(&format!("scans that {file} says nothing about"), &without);
        let mut conflicts = Vec::new();
        for mapped in scans {
            for (column, id) in &columns {
                let mut votes = Votes::default();
                for &row in mapped
                    .impressions
                    .iter()
                    .filter_map(|i| rows.get(i.as_str()))
                    .flatten()
                {
                    let label = Label::parse(table.cell(row, *column));
                    match label.map_err(|e| table.error(row, format!("{id}: {e}")))? {
                        Label::Positive => votes.positive = true,
                        Label::Negative => votes.negative = true,
                        Label::Censored => votes.censored = true,
                        Label::Missing => {}
                    }
                }
                let label = match votes {
                    Votes {
                        positive: true,
                        negative: true,
                        ..
                    } => {
                        conflicts.push(format!("{id} of {}", mapped.scan.name()));
                        Label::Missing
                    }
                    Votes { positive: true, .. } => Label::Positive,
                    Votes { negative: true, .. } => Label::Negative,
                    Votes { censored: true, .. } => Label::Censored,
                    _ => Label::Missing,
                };
                mapped.scan.set_label(id, label);
            }
        }
        out.note_some(
            "labels on which repeated rows disagree, taken as missing",
            &conflicts,
        );
        Ok(())
    }
}

/// A scan and the impressions that are about it.
struct Mapped {
    scan: Scan,
    impressions: Vec<String>,
}

/// The official table must have all outcomes; one of report labels has whatever was asked.
fn label_columns(table: &Table) -> Result<Vec<(usize, String)>> {
    let catalogue = Catalogue::standard();
    let tasks = catalogue.group("inspect");
    let find = |label: &str, id: &str| table.find(label).or_else(|| table.find(id));
    let mut columns: Vec<(usize, String)> = tasks
        .iter()
        .filter_map(|t| Some((find(&t.label, &t.id)?, t.id.clone())))
        .collect();
    let embolism = "inspect.pulmonary-embolism";
    if !columns.iter().any(|(_, id)| id == embolism)
        && let Some(column) = table.find("pe_positive")
    {
        columns.push((column, embolism.to_owned()));
    }
    let official = columns.iter().any(|(_, id)| id == embolism);
    if official {
        for task in catalogue.group("inspect-unique") {
            if !columns.iter().any(|(_, id)| id == &task.id) {
                table.need(&[&task.label])?;
            }
        }
    }
    if columns.is_empty() {
        let first = tasks.first().map_or("", |t| t.label.as_str());
        table.need(&["pe_positive_nlp", first])?;
    }
    Ok(columns)
}

fn split(scans: &mut [Mapped], table: &Table, out: &mut Collected) -> Result<()> {
    let (key, split) = (table.need(&["impression_id"])?, table.need(&["split"])?);
    let rows = table.by_id(key);
    let mut without = Vec::new();
    for mapped in scans.iter_mut() {
        let of_scan = mapped.impressions.iter();
        let of_scan = of_scan.filter_map(|i| rows.get(i.as_str())).flatten();
        let mut found = None;
        for &row in of_scan {
            let cell = split_cell(table.cell(row, split)).map_err(|e| table.error(row, e))?;
            if found.is_some_and(|found| found != cell) {
                let what = format!("another row puts {} into another split", mapped.scan.name());
                return Err(table.error(row, what));
            }
            found = Some(cell);
        }
        match found {
            Some(split) => mapped.scan.split = split,
            None => without.push(mapped.scan.name()),
        }
    }
    if let Some(name) = without.first() {
        let what = format!("{} images have no split, {name} among them", without.len());
        return Err(Error::table(&table.path, None, what));
    }
    let count = |s: Split| scans.iter().filter(|m| m.scan.split == s).count();
    let [train, val, test] = Split::ALL.map(count);
    out.note(format!(
        "official split: {train} train, {val} val, {test} test"
    ));
    Ok(())
}

fn reports(folders: &[PathBuf], scans: &[Mapped], out: &mut Collected) -> Result<()> {
    let Some(path) = files::newest(folders, "impressions_", ".tsv")? else {
        return Ok(());
    };
    let table = Table::read(path)?;
    let key = table.need(&["impression_id"])?;
    let text = match table.head().len() {
        2 => 1 - key,
        _ => table.need(&["impressions", "impression", "impression_text", "text"])?,
    };
    let mut patient_of: HashMap<&str, &str> = HashMap::new();
    for mapped in scans {
        for impression in &mapped.impressions {
            patient_of.insert(impression, &mapped.scan.patient);
        }
    }
    let mut found: BTreeMap<&str, Report> = BTreeMap::new();
    for (row, id) in table.ids(key).into_iter().enumerate() {
        found.entry(id).or_insert_with(|| Report {
            id: id.to_owned(),
            patient: patient_of
                .get(id)
                .map_or(String::new(), |p| (*p).to_owned()),
            text: table.cell(row, text).to_owned(),
        });
    }
    out.reports = found.into_values().filter(|r| !r.text.is_empty()).collect();
    Ok(())
}
