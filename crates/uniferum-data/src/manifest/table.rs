//! Tables of text cells, whatever they were written as: CSV, TSV or parquet.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use csv::StringRecord;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use uniferum_ct::io::read_separated;

use crate::error::{Error, Result};

/// A table in memory; empty text stands for a missing value.
#[derive(Debug, Clone)]
pub struct Table {
    /// The file, for messages.
    pub path: PathBuf,
    head: Vec<String>,
    rows: Vec<StringRecord>,
}

impl Table {
    /// Reads a parquet file (known by its content), else a table of separated text.
    ///
    /// Text is read by [`read_separated`]; empty rows at the end are left out.
    ///
    /// # Errors
    /// [`Error::Table`] where the file cannot be read, a row has the wrong length, or two columns share a
    /// name.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut magic = [0u8; 4];
        let found = File::open(path).and_then(|mut f| f.read(&mut magic));
        let found = found.map_err(|e| Error::table(path, None, e))?;
        let table = if found == 4 && &magic == b"PAR1" {
            read_parquet(path)?
        } else {
            read_text(path)?
        };
        table.check_names()?;
        Ok(table)
    }

    /// The names of the columns.
    pub fn head(&self) -> &[String] {
        &self.head
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the table has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The position of a column.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.head.iter().position(|h| h == name)
    }

    /// The position of the first of several columns that exists.
    ///
    /// # Errors
    /// [`Error::Table`] naming what was looked for and what there is.
    pub fn need(&self, names: &[&str]) -> Result<usize> {
        let found = names.iter().find_map(|name| self.find(name));
        found.ok_or_else(|| {
            let have: Vec<&str> = self.head.iter().take(40).map(String::as_str).collect();
            let what = format!(
                "no column {}; there are {}",
                names.join(" or "),
                have.join(", ")
            );
            Error::table(&self.path, None, what)
        })
    }

    /// A cell without surrounding spaces; empty where it is missing.
    pub fn cell(&self, row: usize, column: usize) -> &str {
        let cell = self.rows.get(row).and_then(|r| r.get(column));
        cell.unwrap_or("").trim()
    }

    /// The cells of a column of ids, such as those of patients, for joining with other tables.
    ///
    /// Programs that know no missing integers write `17.0` for what another table calls `17`: it is `17` here
    /// too, unless two ids of the column would become one.
    pub fn ids(&self, column: usize) -> Vec<&str> {
        let cells: Vec<&str> = (0..self.len()).map(|row| self.cell(row, column)).collect();
        let ids: Vec<&str> = cells.iter().copied().map(integer).collect();
        let distinct = |ids: &[&str]| ids.iter().collect::<HashSet<_>>().len();
        if distinct(&ids) == distinct(&cells) {
            ids
        } else {
            cells
        }
    }

    /// The [`ids`](Self::ids) of the column of a name; empty ones where there is none.
    pub(crate) fn ids_of(&self, name: &str) -> Vec<&str> {
        match self.find(name) {
            Some(column) => self.ids(column),
            None => vec![""; self.len()],
        }
    }

    /// The number of a row as a spreadsheet shows it.
    pub(crate) fn row_number(&self, row: usize) -> usize {
        shown(row)
    }

    /// An error about a row.
    pub(crate) fn error(&self, row: usize, what: impl ToString) -> Error {
        Error::table(&self.path, Some(shown(row)), what)
    }

    /// Rows by the [`ids`](Self::ids) of a column, empty ones left out.
    pub(crate) fn by_id(&self, column: usize) -> HashMap<&str, Vec<usize>> {
        let mut rows: HashMap<&str, Vec<usize>> = HashMap::new();
        for (row, id) in self.ids(column).into_iter().enumerate() {
            if !id.is_empty() {
                rows.entry(id).or_default().push(row);
            }
        }
        rows
    }

    fn check_names(&self) -> Result<()> {
        let mut seen = HashSet::new();
        match self.head.iter().find(|h| !seen.insert(h.as_str())) {
            Some(twice) => {
                let what = format!("two columns are called {twice:?}");
                Err(Error::table(&self.path, None, what))
            }
            None => Ok(()),
        }
    }
}

/// A cell, without the zeros behind the point of an integer.
fn integer(cell: &str) -> &str {
    // A floating-point number of more digits may be another integer, rounded.
    const EXACT: usize = 15;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let zeros = |text: &str| !text.is_empty() && text.bytes().all(|b| b == b'0');
    match cell.split_once('.') {
        Some((whole, rest)) if digits(whole) && whole.len() <= EXACT && zeros(rest) => whole,
        _ => cell,
    }
}

fn read_text(path: &Path) -> Result<Table> {
    let mut reader = read_separated(path).map_err(|e| Error::table(path, None, e))?;
    let head = reader.headers().map_err(|e| Error::table(path, None, e))?;
    let head: Vec<String> = head.iter().map(|h| h.trim().to_owned()).collect();
    if head.is_empty() {
        return Err(Error::table(path, None, "the file is empty"));
    }
    let mut rows = Vec::new();
    for (index, record) in reader.records().enumerate() {
        rows.push(record.map_err(|e| Error::table(path, Some(shown(index)), e))?);
    }
    // Spreadsheets write rows that were emptied once.
    let empty = |row: &StringRecord| row.iter().all(|cell| cell.trim().is_empty());
    while rows.last().is_some_and(empty) {
        rows.pop();
    }
    Ok(Table {
        path: path.to_owned(),
        head,
        rows,
    })
}

/// The number of a row as a spreadsheet shows it: the head is row 1.
pub(super) fn shown(index: usize) -> usize {
    index + 2
}

fn read_parquet(path: &Path) -> Result<Table> {
    let fail = |e: &dyn std::fmt::Display| Error::table(path, None, e);
    let file = File::open(path).map_err(|e| fail(&e))?;
    let reader = SerializedFileReader::new(file).map_err(|e| fail(&e))?;
    let schema = reader.metadata().file_metadata().schema();
    let head: Vec<String> = schema
        .get_fields()
        .iter()
        .map(|f| f.name().to_owned())
        .collect();
    let mut rows = Vec::new();
    for (index, row) in reader.get_row_iter(None).map_err(|e| fail(&e))?.enumerate() {
        let row = row.map_err(|e| Error::table(path, Some(shown(index)), e))?;
        let cells: Result<StringRecord> = row
            .get_column_iter()
            .map(|(name, field)| {
                cell_text(field).ok_or_else(|| {
                    let what = format!("column {name}: not a plain value: {field}");
                    Error::table(path, Some(shown(index)), what)
                })
            })
            .collect();
        rows.push(cells?);
    }
    Ok(Table {
        path: path.to_owned(),
        head,
        rows,
    })
}

/// A parquet value as text; `None` for lists, groups and binary data that is no text.
fn cell_text(field: &Field) -> Option<String> {
    Some(match field {
        Field::Null => String::new(),
        Field::Str(text) => text.clone(),
        Field::Bytes(bytes) => bytes.as_utf8().ok()?.to_owned(),
        Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => return None,
        // The shortest text that reads back as the same number, of the single precision's own value.
        Field::Float(v) => f64::from(*v).to_string(),
        Field::Float16(v) => f64::from(f32::from(*v)).to_string(),
        Field::Double(v) => v.to_string(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(cells: &[&'static str]) -> Vec<String> {
        let table = Table {
            path: "t.csv".into(),
            head: vec!["patient".to_owned()],
            rows: cells
                .iter()
                .map(|cell| StringRecord::from(vec![*cell]))
                .collect(),
        };
        table.ids(0).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn integers_that_became_floating_point_numbers_are_integers_again() {
        assert_eq!(ids(&["17.0", "", "4.00", "17.0"]), ["17", "", "4", "17"]);
        // As tables are that were put together.
        assert_eq!(ids(&["17", "nan", "4.0"]), ["17", "nan", "4"]);
        assert_eq!(ids(&["17.0", "p4", "4.5"]), ["17", "p4", "4.5"]);
        for others in [
            // Two ids of one table are two, whatever they look like.
            ["17", "17.0", "4.0"],
            ["4.5", "4.", "1.2.840"],
            ["p4.0", "9007199254740992.0", ".0"],
        ] {
            assert_eq!(ids(&others), others);
        }
        assert_eq!(ids(&["007.0", "7.0"]), ["007", "7"]);
    }
}
