//! Tables of one's own: any column names, any split, or none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uniferum_ct::HuSource;
use uniferum_ct::batch::HuChoice;
use uniferum_tasks::Catalogue;

use super::{Absent, Collected};
use crate::error::{Error, Result};
use crate::manifest::{Gathered, Label, Scan, SplitPlan, Table, name_patients, number, split_cell};

/// The source of a collection that has no table of slopes.
///
/// # Errors
/// [`Error::Config`] for the table.
pub(super) fn hu_without_table(choice: HuChoice) -> Result<HuSource> {
    match choice {
        HuChoice::Header => Ok(HuSource::Header),
        HuChoice::AlreadyHu => Ok(HuSource::AlreadyHu),
        HuChoice::Table => {
            let expected = "header or already-hu: the collection has no table of slopes";
            Err(Error::config("Hounsfield source", expected, "table"))
        }
    }
}

/// The names of a table's columns. One under another name than the default's must be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnNames {
    /// The scan's path.
    pub scan: String,
    /// The anatomy mask's path; may be absent.
    pub mask: String,
    /// The nodule mask's path; may be absent.
    pub nodules: String,
    /// The patient; may be absent.
    pub patient: String,
    /// The study; may be absent.
    pub study: String,
    /// `train`, `val` or `test`; must be there unless a split is drawn.
    pub split: String,
    /// HU a stored unit, for [`HuChoice::Table`].
    pub slope: String,
    /// HU of stored 0, for [`HuChoice::Table`].
    pub intercept: String,
}

impl Default for ColumnNames {
    fn default() -> Self {
        let name = str::to_owned;
        ColumnNames {
            scan: name("scan"),
            mask: name("mask"),
            nodules: name("nodules"),
            patient: name("patient"),
            study: name("study"),
            split: name("split"),
            slope: name("hu_slope"),
            intercept: name("hu_intercept"),
        }
    }
}

/// A CSV, TSV or parquet table with a row a scan.
#[derive(Debug, Clone)]
pub struct TableSettings {
    /// The table.
    pub table: PathBuf,
    /// The folder of relative paths; the table's own where not given.
    pub root: Option<PathBuf>,
    /// The collection's name in the manifest, and the prefix of its patients.
    pub collection: String,
    /// The group of the catalogue whose label names the columns have.
    pub group: String,
    /// The names of the columns that are no labels.
    pub columns: ColumnNames,
    /// Label columns under other names: column and task id.
    pub labels: Vec<(String, String)>,
    /// Where Hounsfield units come from.
    pub hu: HuChoice,
    /// Draws the split by patient; an error where the table has a split of its own.
    pub split: Option<SplitPlan>,
    /// Rows without a file.
    pub absent: Absent,
}

impl TableSettings {
    /// A table whose columns have the manifest's names and those of a group of the catalogue.
    pub fn new(table: impl Into<PathBuf>, group: &str) -> Self {
        TableSettings {
            table: table.into(),
            root: None,
            collection: group.to_owned(),
            group: group.to_owned(),
            columns: ColumnNames::default(),
            labels: Vec::new(),
            hu: HuChoice::Header,
            split: None,
            absent: Absent::Drop,
        }
    }

    /// Reads the table.
    ///
    /// Columns that are neither named nor labels are left out, and a note lists them. Rows of one scan are
    /// put together, and counted in a note.
    ///
    /// # Errors
    /// [`Error::Table`] with the row, also where rows contradict each other about a scan; where no column is
    /// a label and there is no mask; where two columns are labels of one task.
    pub fn read(&self, catalogue: &Catalogue) -> Result<Collected> {
        let table = Table::read(&self.table)?;
        let mut out = Collected::default();
        let labels = self.label_columns(&table, catalogue, &mut out)?;
        let scan = table.need(&[&self.columns.scan])?;
        self.check_named(&table)?;
        let split = self.split_column(&table)?;
        self.note_patients(&table, &mut out);
        let own = self.table.parent().unwrap_or(Path::new("")).to_owned();
        let root = self.root.clone().unwrap_or(own);
        let patients = table.ids_of(&self.columns.patient);
        let studies = table.ids_of(&self.columns.study);
        let mut all = Gathered::default();
        for row in 0..table.len() {
            let path = table.cell(row, scan);
            if path.is_empty() {
                return Err(table.error(row, "the scan's path is empty"));
            }
            let mut scan = self.scan(&table, row, &root.join(path), &root)?;
            scan.patient = format!("{}:{}", self.collection, patients[row]);
            if !studies[row].is_empty() {
                scan.study = format!("{}:{}", self.collection, studies[row]);
            }
            if let Some(split) = split {
                scan.split = split_cell(table.cell(row, split)).map_err(|e| table.error(row, e))?;
            }
            for (column, id) in &labels {
                let label = Label::parse(table.cell(row, *column));
                let label = label.map_err(|e| table.error(row, format!("{id}: {e}")))?;
                scan.set_label(id, label);
            }
            all.add(scan).map_err(|what| {
                let what = format!("another row of the scan disagrees about {what}");
                table.error(row, what)
            })?;
        }
        name_patients(&mut all.scans, &root);
        let repeated = table.len() - all.scans.len();
        if repeated > 0 {
            out.note(format!(
                "{repeated} rows are of a scan that has a row already: put together"
            ));
        }
        out.keep(all.scans, self.absent)?;
        if let Some(plan) = &self.split {
            plan.apply(&mut out.manifest, |_| true)?;
        }
        Ok(out)
    }

    /// Refuses a table without a column that was named: a misspelt patient would let one person's scans
    /// stand in several splits, a misspelt mask would be left out without a word.
    fn check_named(&self, table: &Table) -> Result<()> {
        let (own, usual) = (&self.columns, ColumnNames::default());
        for (name, usual) in [
            (&own.mask, &usual.mask),
            (&own.nodules, &usual.nodules),
            (&own.patient, &usual.patient),
            (&own.study, &usual.study),
            (&own.split, &usual.split),
            (&own.slope, &usual.slope),
            (&own.intercept, &usual.intercept),
        ] {
            if name != usual {
                table.need(&[name])?;
            }
        }
        Ok(())
    }

    /// The column of the split; none where one is to be drawn.
    fn split_column(&self, table: &Table) -> Result<Option<usize>> {
        let name = &self.columns.split;
        if self.split.is_none() {
            let found = table.find(name).ok_or_else(|| {
                let what = format!(
                    "no column {name}; expected one, or shares of patients to draw a split by (--val-share, \
                     --test-share)"
                );
                Error::table(&self.table, None, what)
            });
            return found.map(Some);
        }
        if table.find(name).is_none() {
            return Ok(None);
        }
        let what = format!(
            "expected a split from the table or one to be drawn, got both: leave the shares out, or the \
             column {name}"
        );
        Err(Error::table(&self.table, None, what))
    }

    /// Tells where files stand for patients.
    fn note_patients(&self, table: &Table, out: &mut Collected) {
        let name = &self.columns.patient;
        let unknown = match table.find(name) {
            Some(column) => (0..table.len())
                .filter(|&row| table.cell(row, column).is_empty())
                .count(),
            None => table.len(),
        };
        if unknown > 0 {
            out.note(format!(
                "{unknown} of {} rows have no {name}: each file counts as a patient of its own there",
                table.len()
            ));
        }
    }

    /// The files of a row and where its Hounsfield units come from.
    fn scan(&self, table: &Table, row: usize, path: &Path, root: &Path) -> Result<Scan> {
        let text = |name: &str| table.find(name).map_or("", |c| table.cell(row, c));
        let file = |name: &str| {
            Some(text(name))
                .filter(|t| !t.is_empty())
                .map(|t| root.join(t))
        };
        let value = |name: &str| number(name, text(name)).map_err(|e| table.error(row, e));
        let columns = &self.columns;
        let hu = match self.hu {
            HuChoice::Table => HuSource::Table {
                slope: value(&columns.slope)?,
                intercept: value(&columns.intercept)?,
            },
            other => hu_without_table(other)?,
        };
        Ok(Scan {
            mask: file(&columns.mask),
            nodules: file(&columns.nodules),
            path: path.to_owned(),
            collection: self.collection.clone(),
            hu,
            ..Scan::default()
        })
    }

    /// Refuses two columns of one task: which of them is right, nobody could say.
    fn check_once(&self, table: &Table, labels: &[(usize, String)]) -> Result<()> {
        let mut column_of: BTreeMap<&str, usize> = BTreeMap::new();
        for (column, id) in labels {
            if let Some(other) = column_of.insert(id, *column) {
                let [a, b] = [other, *column].map(|c| &table.head()[c]);
                let what = format!("{id}: expected one column of its labels, got {a} and {b}");
                return Err(Error::table(&self.table, None, what));
            }
        }
        Ok(())
    }

    fn label_columns(
        &self,
        table: &Table,
        catalogue: &Catalogue,
        out: &mut Collected,
    ) -> Result<Vec<(usize, String)>> {
        let c = &self.columns;
        let named = [
            &c.scan,
            &c.mask,
            &c.nodules,
            &c.patient,
            &c.study,
            &c.split,
            &c.slope,
            &c.intercept,
        ];
        let mut labels = Vec::new();
        for (column, id) in &self.labels {
            if catalogue.get(id).is_none() {
                let what = format!("{id}, asked for as the task of column {column}, is no task");
                return Err(Error::table(&self.table, None, what));
            }
            labels.push((table.need(&[column])?, id.clone()));
        }
        let mut ignored = Vec::new();
        for (index, name) in table.head().iter().enumerate() {
            if named.contains(&name) || labels.iter().any(|(i, _)| *i == index) {
                continue;
            }
            let task = catalogue.get(name);
            match task.or_else(|| catalogue.by_label(&self.group, name)) {
                Some(task) => labels.push((index, task.id.clone())),
                None => ignored.push(name.clone()),
            }
        }
        self.check_once(table, &labels)?;
        out.note_some("columns that are no labels, left out", &ignored);
        let masked = [&c.mask, &c.nodules]
            .iter()
            .any(|n| table.find(n).is_some());
        if labels.is_empty() && !masked {
            let what = format!(
                "no column is a label of the group {} or a task id, and there is no mask",
                self.group
            );
            return Err(Error::table(&self.table, None, what));
        }
        Ok(labels)
    }
}
