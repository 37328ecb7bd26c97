//! Tables of scans, and of their slopes and intercepts.

use std::path::Path;

use super::{Entry, HuChoice, Scalings, base_name, parent};
use crate::error::{Error, Result};
use crate::io::read_separated;

/// Columns with the HU a stored unit is worth, the manifest's first.
pub(in crate::batch) const SLOPES: [&str; 3] = ["hu_slope", "slope", "RescaleSlope"];

/// Columns with the HU of stored 0.
pub(in crate::batch) const INTERCEPTS: [&str; 3] =
    ["hu_intercept", "intercept", "RescaleIntercept"];

pub(super) fn add_table(table: &Path, found: &mut Vec<Entry>) -> Result<()> {
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

/// `VolumeName` to slope and intercept.
pub(super) fn hu_table(path: &Path) -> Result<Scalings> {
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
