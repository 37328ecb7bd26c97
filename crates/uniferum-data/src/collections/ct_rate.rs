//! CT-RATE: 18 labels, reports, masks; version 1 with its Hounsfield trap, version 2 without.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use uniferum_ct::HuSource;
use uniferum_tasks::{Catalogue, Task};

use super::{Absent, Collected, HuChoice, Report};
use crate::error::{Error, Result};
use crate::manifest::{Label, Scan, Split, SplitBy, SplitPlan, Table, base_name, listed, number};

/// Which edition of the volumes is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtRateVersion {
    /// `train`, `valid`: stored values; the header says slope 1 and intercept 0, the metadata table knows.
    V1,
    /// `train_fixed`, `valid_fixed`: Hounsfield units already; the table must not be applied again.
    V2,
}

/// CT-RATE as it is downloaded.
///
/// # Reference
/// Paper, section 3.4.1: scans of 100 patients of the official training set choose the model; the official
/// validation set is the test set; scans without a chest are dropped.
#[derive(Debug, Clone)]
pub struct CtRate {
    /// The folder `dataset`, or the one that it is in.
    pub root: PathBuf,
    /// Which volumes are used.
    pub version: CtRateVersion,
    /// Where Hounsfield units come from, if not from where the version says.
    pub hu: Option<HuChoice>,
    /// Patients of the official training set that are held out for validation.
    pub validation_patients: usize,
    /// Draws the held-out patients.
    pub seed: u64,
    /// Rows without a file.
    pub absent: Absent,
}

impl CtRate {
    /// The paper's split of a folder.
    pub fn new(root: impl Into<PathBuf>, version: CtRateVersion) -> Self {
        CtRate {
            root: root.into(),
            version,
            hu: None,
            validation_patients: 100,
            seed: 0,
            absent: Absent::Drop,
        }
    }

    /// Reads the tables and finds the files.
    ///
    /// # Errors
    /// [`Error::Table`] with file and row; also where a label column is missing.
    pub fn read(&self) -> Result<Collected> {
        let below = self.root.join("dataset");
        let base = if below.is_dir() {
            below
        } else {
            self.root.clone()
        };
        let mut out = Collected::default();
        let mut scans = Vec::new();
        for part in [TRAIN, VALID] {
            let labels = base.join("multi_abnormality_labels").join(part.labels);
            if labels.is_file() {
                scans.extend(self.part(&base, &part, &labels, &mut out)?);
            } else {
                out.note(format!("no {}: the part is left out", labels.display()));
            }
        }
        if scans.is_empty() {
            let what = "no multi_abnormality_labels/{train,valid}_predicted_labels.csv with a row";
            return Err(Error::table(&base, None, what));
        }
        out.keep(scans, self.absent)?;
        self.hold_out(&mut out)?;
        Ok(out)
    }

    fn part(
        &self,
        base: &Path,
        part: &Part,
        labels: &Path,
        out: &mut Collected,
    ) -> Result<Vec<Scan>> {
        let table = Table::read(labels)?;
        let volume = table.need(&["VolumeName"])?;
        let catalogue = Catalogue::standard();
        let tasks = catalogue.group("ct-rate");
        let columns = columns(&table, &tasks)?;
        let heads = no_chest(&base.join("metadata").join(part.no_chest), out)?;
        let metadata = Metadata::read(&base.join("metadata").join(part.metadata))?;
        let (mut scans, mut dropped, mut unscaled) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for row in 0..table.len() {
            let name = table.cell(row, volume);
            let names = VolumeName::parse(name).ok_or_else(|| {
                table.error(row, format!("VolumeName {name:?} is not {EXPECTED}"))
            })?;
            if !seen.insert(name) {
                return Err(table.error(row, format!("{name} stands in two rows")));
            }
            if heads.contains(&base_name(Path::new(name))) {
                dropped.push(name.to_owned());
                continue;
            }
            let Some(hu) = self.hu_source(name, &metadata)? else {
                unscaled.push(name.to_owned());
                continue;
            };
            let mut scan = names.scan(base, self.folder(part), part);
            scan.hu = hu;
            scan.spacing_mm = metadata.spacing(name);
            for (column, task) in &columns {
                let label = Label::parse(table.cell(row, *column));
                let label = label.map_err(|e| table.error(row, format!("{}: {e}", task.label)))?;
                scan.set_label(&task.id, label);
            }
            scans.push(scan);
        }
        out.note_some("scans without a chest, left out", &dropped);
        out.note_some(
            "scans without slope and intercept in the metadata, left out",
            &unscaled,
        );
        reports(base, part, out)?;
        Ok(scans)
    }

    fn folder(&self, part: &Part) -> String {
        let suffix = match self.version {
            CtRateVersion::V1 => "",
            CtRateVersion::V2 => "_fixed",
        };
        format!("{}{suffix}", part.name)
    }

    fn hu_source(&self, volume: &str, metadata: &Metadata) -> Result<Option<HuSource>> {
        let setting = self.hu.unwrap_or(match self.version {
            CtRateVersion::V1 => HuChoice::Table,
            CtRateVersion::V2 => HuChoice::AlreadyHu,
        });
        Ok(match setting {
            HuChoice::Header => Some(HuSource::Header),
            HuChoice::AlreadyHu => Some(HuSource::AlreadyHu),
            HuChoice::Table => metadata.scaling(volume)?,
        })
    }

    fn hold_out(&self, out: &mut Collected) -> Result<()> {
        if self.validation_patients == 0 {
            return Ok(());
        }
        let plan = SplitPlan {
            by: SplitBy::Patients {
                val: self.validation_patients,
                test: 0,
            },
            seed: self.seed,
        };
        if out.manifest.scans.iter().any(|s| s.split == Split::Train) {
            plan.apply(&mut out.manifest, |s| s.split == Split::Train)?;
        }
        Ok(())
    }
}

const EXPECTED: &str = "train_PATIENT_SCAN_RECONSTRUCTION.nii.gz or valid_…";

/// One of the two official parts.
struct Part {
    name: &'static str,
    labels: &'static str,
    metadata: &'static str,
    reports: &'static str,
    no_chest: &'static str,
    split: Split,
}

const TRAIN: Part = Part {
    name: "train",
    labels: "train_predicted_labels.csv",
    metadata: "train_metadata.csv",
    reports: "train_reports.csv",
    no_chest: "no_chest_train.txt",
    split: Split::Train,
};

const VALID: Part = Part {
    name: "valid",
    labels: "valid_predicted_labels.csv",
    metadata: "validation_metadata.csv",
    reports: "validation_reports.csv",
    no_chest: "no_chest_valid.txt",
    split: Split::Test,
};

/// `train_1234_a_2.nii.gz`.
pub(super) struct VolumeName {
    file: String,
    /// `train_1234`.
    pub(super) patient: String,
    /// `train_1234_a`.
    pub(super) study: String,
}

impl VolumeName {
    pub(super) fn parse(file: &str) -> Option<Self> {
        let base = base_name(Path::new(file));
        let parts: Vec<&str> = base.split('_').collect();
        let &[part, patient, scan, reconstruction] = parts.as_slice() else {
            return None;
        };
        let number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        let letters = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_lowercase());
        let right = matches!(part, "train" | "valid")
            && number(patient)
            && letters(scan)
            && number(reconstruction);
        right.then(|| VolumeName {
            file: file.to_owned(),
            patient: format!("{part}_{patient}"),
            study: format!("{part}_{patient}_{scan}"),
        })
    }

    fn scan(&self, base: &Path, folder: String, part: &Part) -> Scan {
        let tail = Path::new(&self.patient).join(&self.study).join(&self.file);
        let mask = base
            .join("ts_seg")
            .join("ts_total")
            .join(format!("{}_fixed", part.name))
            .join(&tail);
        Scan {
            path: base.join(folder).join(tail),
            mask: mask.is_file().then_some(mask),
            patient: format!("ct-rate:{}", self.patient),
            study: format!("ct-rate:{}", self.study),
            collection: "ct-rate".to_owned(),
            split: part.split,
            ..Scan::default()
        }
    }
}

fn columns<'a>(table: &Table, tasks: &[&'a Task]) -> Result<Vec<(usize, &'a Task)>> {
    let column = |task: &&'a Task| Ok((table.need(&[&task.label])?, *task));
    tasks.iter().map(column).collect()
}

/// The list gives paths or names; only the base name counts.
fn no_chest(path: &Path, out: &mut Collected) -> Result<HashSet<String>> {
    if !path.is_file() {
        out.note(format!(
            "no {}: scans without a chest are not dropped",
            path.display()
        ));
        return Ok(HashSet::new());
    }
    listed(path)
}

/// Slope, intercept and spacing by volume.
struct Metadata {
    table: Option<Table>,
    rows: HashMap<String, usize>,
}

impl Metadata {
    fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Ok(Metadata {
                table: None,
                rows: HashMap::new(),
            });
        }
        let table = Table::read(path)?;
        let volume = table.need(&["VolumeName"])?;
        let rows = (0..table.len()).map(|row| (table.cell(row, volume).to_owned(), row));
        Ok(Metadata {
            rows: rows.collect(),
            table: Some(table),
        })
    }

    fn cell(&self, volume: &str, column: &str) -> Option<&str> {
        let (table, row) = (self.table.as_ref()?, *self.rows.get(volume)?);
        Some(table.cell(row, table.find(column)?))
    }

    /// `None` where the table does not know, or says `nan`.
    fn scaling(&self, volume: &str) -> Result<Option<HuSource>> {
        let value = |column| {
            let cell = self.cell(volume, column);
            cell.filter(|t| !t.is_empty() && !t.eq_ignore_ascii_case("nan"))
                .map(|t| number(column, t))
                .transpose()
        };
        let both = value("RescaleSlope").and_then(|s| Ok(s.zip(value("RescaleIntercept")?)));
        match (both, &self.table) {
            (Ok(both), _) => {
                Ok(both.map(|(slope, intercept)| HuSource::Table { slope, intercept }))
            }
            (Err(what), Some(table)) => Err(table.error(self.rows[volume], what)),
            (Err(_), None) => Ok(None),
        }
    }

    /// `XYSpacing` is text such as `[0.8, 0.8]`; either may be `nan`.
    fn spacing(&self, volume: &str) -> Option<[f64; 3]> {
        let xy = self.cell(volume, "XYSpacing")?;
        let xy: Vec<f64> = xy
            .trim_matches(|c| matches!(c, '[' | ']' | '(' | ')'))
            .split(',')
            .filter_map(|part| number("XYSpacing", part).ok())
            .collect();
        let z = number("ZSpacing", self.cell(volume, "ZSpacing")?).ok()?;
        match xy.as_slice() {
            &[x, y] if x > 0.0 && y > 0.0 && z > 0.0 => Some([x, y, z]),
            _ => None,
        }
    }
}

fn reports(base: &Path, part: &Part, out: &mut Collected) -> Result<()> {
    let path = base.join("radiology_text_reports").join(part.reports);
    if !path.is_file() {
        return Ok(());
    }
    let table = Table::read(&path)?;
    let volume = table.need(&["VolumeName"])?;
    let texts = [
        table.need(&["Findings_EN"])?,
        table.need(&["Impressions_EN"])?,
    ];
    let mut found: BTreeMap<String, Report> = BTreeMap::new();
    for row in 0..table.len() {
        let id = table.cell(row, volume);
        let parts: Vec<&str> = texts
            .iter()
            .map(|&c| table.cell(row, c))
            .filter(|t| !t.is_empty())
            .collect();
        let patient =
            VolumeName::parse(id).map_or(String::new(), |v| format!("ct-rate:{}", v.patient));
        let text = parts.join("\n");
        let id = id.to_owned();
        found.insert(id.clone(), Report { id, patient, text });
    }
    out.reports.extend(found.into_values());
    Ok(())
}
