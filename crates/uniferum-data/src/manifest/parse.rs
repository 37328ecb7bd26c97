//! From the rows of a table to scans, with everything that is wrong on the way.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;
use uniferum_tasks::Catalogue;

use super::cells::{self, Label};
use super::table::shown;
use super::{Manifest, Scan, Split, Table, name_patients, plain};
use crate::error::Result;

/// What kind of mistake a table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// A column that is neither one of the manifest's nor a label.
    UnknownColumn,
    /// A cell that cannot be read.
    BadValue,
    /// A scan, mask or nodule file that does not exist.
    MissingFile,
    /// Two rows that contradict each other about a scan.
    Conflict,
    /// A patient, or a study, in two splits.
    PatientLeak,
}

/// One thing that is wrong with a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    /// The row as a spreadsheet shows it (the head is row 1), if it is one row's.
    pub row: Option<usize>,
    /// The scan that the row is about, if it names one.
    pub scan: Option<PathBuf>,
    /// What kind of mistake.
    pub kind: ProblemKind,
    /// What is wrong, in words.
    pub what: String,
}

/// Columns of the manifest that are no labels.
pub(super) const NAMED: [&str; 12] = [
    "scan",
    "mask",
    "nodules",
    "patient",
    "study",
    "collection",
    "split",
    "hu_source",
    "hu_slope",
    "hu_intercept",
    "spacing_mm",
    "censored",
];

pub(super) fn manifest(
    table: &Table,
    catalogue: &Catalogue,
    group: &str,
) -> Result<(Manifest, Vec<Problem>)> {
    let mut parser = Parser::new(table, catalogue, group)?;
    for row in 0..table.len() {
        parser.row(row);
    }
    let Parser {
        mut scans,
        mut problems,
        folder,
        ..
    } = parser;
    name_patients(&mut scans, &folder);
    problems.extend(leaks(&scans));
    Ok((Manifest { scans }, problems))
}

struct Parser<'a> {
    table: &'a Table,
    folder: PathBuf,
    catalogue: &'a Catalogue,
    group: &'a str,
    named: HashMap<&'static str, usize>,
    /// Patient and study of each row.
    patients: Vec<&'a str>,
    studies: Vec<&'a str>,
    labels: Vec<(usize, String)>,
    long: Option<(usize, usize)>,
    scans: Vec<Scan>,
    at: HashMap<PathBuf, usize>,
    problems: Vec<Problem>,
}

impl<'a> Parser<'a> {
    fn new(table: &'a Table, catalogue: &'a Catalogue, group: &'a str) -> Result<Self> {
        table.need(&["scan"])?;
        table.need(&["split"])?;
        let named = NAMED
            .iter()
            .filter_map(|n| Some((*n, table.find(n)?)))
            .collect();
        let long = table.find("task").zip(table.find("label"));
        let mut parser = Parser {
            table,
            folder: table.path.parent().unwrap_or(Path::new("")).to_owned(),
            catalogue,
            group,
            named,
            patients: table.ids_of("patient"),
            studies: table.ids_of("study"),
            labels: Vec::new(),
            long,
            scans: Vec::new(),
            at: HashMap::new(),
            problems: Vec::new(),
        };
        parser.find_labels();
        Ok(parser)
    }

    fn find_labels(&mut self) {
        for (index, name) in self.table.head().iter().enumerate() {
            let is_long = self.long.is_some_and(|(t, l)| index == t || index == l);
            if NAMED.contains(&name.as_str()) || is_long {
                continue;
            }
            match self.task_id(name) {
                Some(id) => self.labels.push((index, id)),
                None => self.problems.push(Problem {
                    row: None,
                    scan: None,
                    kind: ProblemKind::UnknownColumn,
                    what: format!(
                        "column {name} is no label of the group {}, no task id and no column of the manifest{}",
                        self.group,
                        self.elsewhere(name)
                    ),
                }),
            }
        }
    }

    fn task_id(&self, name: &str) -> Option<String> {
        let task = self.catalogue.get(name);
        let task = task.or_else(|| self.catalogue.by_label(self.group, name));
        task.map(|t| t.id.clone())
    }

    /// The groups that do know a label.
    fn elsewhere(&self, name: &str) -> String {
        let mut groups = self.catalogue.groups();
        groups.retain(|group| self.catalogue.by_label(group, name).is_some());
        if groups.is_empty() {
            return "; tasks of one's own need their --tasks-file".to_owned();
        }
        format!("; is --group {} meant?", groups.join(" or "))
    }

    fn text(&self, row: usize, name: &str) -> &'a str {
        let table = self.table;
        self.named.get(name).map_or("", |&c| table.cell(row, c))
    }

    fn problem(&mut self, row: usize, kind: ProblemKind, what: String) {
        let path = self.text(row, "scan");
        self.problems.push(Problem {
            row: Some(shown(row)),
            scan: (!path.is_empty()).then(|| self.folder.join(path)),
            kind,
            what,
        });
    }

    /// A value, or its default and a problem.
    fn value<T: Default>(&mut self, row: usize, value: std::result::Result<T, String>) -> T {
        value.unwrap_or_else(|what| {
            self.problem(row, ProblemKind::BadValue, what);
            T::default()
        })
    }

    fn row(&mut self, row: usize) {
        let path = self.text(row, "scan");
        if path.is_empty() {
            return self.problem(
                row,
                ProblemKind::BadValue,
                "the scan's path is empty".into(),
            );
        }
        let path = self.folder.join(path);
        let split = match cells::split_cell(self.text(row, "split")) {
            Ok(split) => split,
            Err(what) => return self.problem(row, ProblemKind::BadValue, what),
        };
        let scan = match self.at.get(&plain(&path)) {
            Some(&index) => {
                let old = &self.scans[index];
                if self.long.is_none() || old.split != split {
                    let what = format!("scan {} stands in two rows", path.display());
                    return self.problem(row, ProblemKind::Conflict, what);
                }
                index
            }
            None => self.new_scan(row, path, split),
        };
        self.row_labels(row, scan);
        self.check_censored(row, scan);
    }

    /// A censored outcome has no label: one that has is taken for missing, and told.
    fn check_censored(&mut self, row: usize, scan: usize) {
        let Scan {
            labels, censored, ..
        } = &mut self.scans[scan];
        let both = censored.iter().filter(|id| labels.remove(*id).is_some());
        let both: Vec<String> = both.cloned().collect();
        let unknown = censored
            .iter()
            .filter(|id| self.catalogue.get(id).is_none());
        let unknown: Vec<String> = unknown.cloned().collect();
        for id in both {
            let what = format!("{id}: labelled, although it is censored");
            self.problem(row, ProblemKind::Conflict, what);
        }
        for id in unknown {
            let what = format!("censored: {id:?} is no task of the catalogue");
            self.problem(row, ProblemKind::BadValue, what);
        }
    }

    fn new_scan(&mut self, row: usize, path: PathBuf, split: Split) -> usize {
        let text = |name| self.text(row, name);
        let file = |name| {
            Some(text(name))
                .filter(|t| !t.is_empty())
                .map(|t| self.folder.join(t))
        };
        let hu = cells::hu(text("hu_source"), text("hu_slope"), text("hu_intercept"));
        let spacing = cells::spacing(text("spacing_mm"));
        let mut scan = Scan {
            mask: file("mask"),
            nodules: file("nodules"),
            patient: self.patients[row].to_owned(),
            study: self.studies[row].to_owned(),
            collection: text("collection").to_owned(),
            censored: text("censored")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            path,
            split,
            ..Scan::default()
        };
        scan.hu = self.value(row, hu);
        scan.spacing_mm = self.value(row, spacing);
        for (what, file) in files(&scan) {
            if !file.exists() {
                let what = format!("{what} {}: no such file", file.display());
                self.problem(row, ProblemKind::MissingFile, what);
            }
        }
        self.at.insert(plain(&scan.path), self.scans.len());
        self.scans.push(scan);
        self.scans.len() - 1
    }

    fn row_labels(&mut self, row: usize, scan: usize) {
        let mut found: Vec<(String, &'a str)> = Vec::new();
        for (column, id) in &self.labels {
            found.push((id.clone(), self.table.cell(row, *column)));
        }
        if let Some((task, label)) = self.long {
            let name = self.table.cell(row, task);
            match self.task_id(name) {
                Some(id) => found.push((id, self.table.cell(row, label))),
                None if name.is_empty() => {}
                None => {
                    let what = format!("task {name:?} is not in the catalogue");
                    self.problem(row, ProblemKind::UnknownColumn, what);
                }
            }
        }
        for (id, text) in found {
            match Label::parse(text) {
                Ok(label) if self.scans[scan].set_label(&id, label) => {}
                Ok(_) => {
                    let what = format!("{id}: another row of the scan says the opposite");
                    self.problem(row, ProblemKind::Conflict, what);
                }
                Err(what) => self.problem(row, ProblemKind::BadValue, format!("{id}: {what}")),
            }
        }
    }
}

/// The files of a scan and what they are.
pub(crate) fn files(scan: &Scan) -> Vec<(&'static str, &Path)> {
    let mut files = vec![("scan", scan.path.as_path())];
    files.extend(scan.mask.as_deref().map(|p| ("mask", p)));
    files.extend(scan.nodules.as_deref().map(|p| ("nodule mask", p)));
    files
}

/// Patients and studies that are in more than one split.
pub(super) fn leaks(scans: &[Scan]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (what, key) in [
        ("patient", (|s| &s.patient) as fn(&Scan) -> &String),
        ("study", |s| &s.study),
    ] {
        let mut splits: BTreeMap<&str, Vec<Split>> = BTreeMap::new();
        for scan in scans.iter().filter(|s| !key(s).is_empty()) {
            let seen = splits.entry(key(scan)).or_default();
            if !seen.contains(&scan.split) {
                seen.push(scan.split);
            }
        }
        for (name, splits) in splits.into_iter().filter(|(_, s)| s.len() > 1) {
            let names: Vec<&str> = splits.iter().map(|s| s.as_str()).collect();
            problems.push(Problem {
                row: None,
                scan: None,
                kind: ProblemKind::PatientLeak,
                what: format!(
                    "{what} {name} is in {} splits: {}",
                    if names.len() == 2 { "two" } else { "three" },
                    names.join(", ")
                ),
            });
        }
    }
    problems
}
