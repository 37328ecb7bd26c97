//! Tables as other programs write them: separated text, Parquet and JSON.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

/// A table in memory, cells as text.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: usize,
    /// Where the rows of further files begin, and the files.
    starts: Vec<(usize, PathBuf)>,
}

/// A column of a table; the cells lie end to end in one string.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    text: String,
    ends: Vec<usize>,
}

impl Column {
    fn new(name: &str) -> Self {
        Column {
            name: name.to_owned(),
            text: String::new(),
            ends: Vec::new(),
        }
    }

    fn push(&mut self, cell: &str) {
        self.text.push_str(cell);
        self.ends.push(self.text.len());
    }

    /// Fills up with empty cells.
    fn pad(&mut self, rows: usize) {
        self.ends.resize(rows, self.text.len());
    }

    pub(crate) fn cell(&self, row: usize) -> &str {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        self.text[start..self.ends[row]].trim()
    }
}

impl Table {
    /// Reads JSON where the name ends in `.json`, `.jsonl` or `.ndjson`, else what
    /// [`uniferum_data::Table::read`] takes.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Table> {
        let table = Self::read_any(path)?;
        table.check_rows()?;
        Ok(table)
    }

    fn read_any(path: &Path) -> anyhow::Result<Table> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let columns = match ending.to_ascii_lowercase().as_str() {
            "json" | "jsonl" | "ndjson" => {
                read_json(path).with_context(|| path.display().to_string())?
            }
            _ => from_table(&uniferum_data::Table::read(path)?),
        };
        let rows = columns.first().map_or(0, |c| c.ends.len());
        for (i, column) in columns.iter().enumerate() {
            ensure!(
                !columns[..i].iter().any(|c| c.name == column.name),
                "{}: two columns are named '{}'",
                path.display(),
                column.name
            );
        }
        Ok(Table {
            path: path.to_owned(),
            columns,
            rows,
            starts: Vec::new(),
        })
    }

    /// Tables of one model, as the parts that `predict --shard` writes, as one; some may have no rows.
    pub(crate) fn read_parts(paths: &[PathBuf]) -> anyhow::Result<Table> {
        let mut parts = paths.iter().map(|path| Table::read_any(path));
        let mut whole = parts.next().context("no table is given")??;
        for part in parts {
            whole.append(part?)?;
        }
        whole.check_rows()?;
        Ok(whole)
    }

    fn check_rows(&self) -> anyhow::Result<()> {
        ensure!(
            self.rows > 0,
            "{}: the table has no rows",
            self.path.display()
        );
        Ok(())
    }

    /// Not where a part had no scan, or none that could be used.
    fn has_answers(&self) -> bool {
        let failed = self.find("error").is_some() && self.find("task").is_none();
        self.rows > 0 && !failed
    }

    /// Puts the rows of a part behind these, by the names of columns. Those that only some parts of `predict`
    /// have are empty elsewhere.
    fn append(&mut self, part: Table) -> anyhow::Result<()> {
        const SOMETIMES: [&str; 2] = ["error", "mask_file"];
        let has_all = |a: &Table, b: &Table| {
            let mut names = b.columns.iter().map(|column| column.name.as_str());
            names.all(|name| SOMETIMES.contains(&name) || a.find(name).is_some())
        };
        let same = has_all(self, &part) && has_all(&part, self);
        ensure!(
            same || !self.has_answers() || !part.has_answers(),
            "{}: expected the columns of {} ({}), got {}",
            part.path.display(),
            self.path.display(),
            self.names(),
            part.names()
        );
        for more in &part.columns {
            let at = self.find(&more.name).unwrap_or(self.columns.len());
            if at == self.columns.len() {
                self.columns.push(Column::new(&more.name));
                self.columns[at].pad(self.rows);
            }
            (0..part.rows).for_each(|row| self.columns[at].push(more.cell(row)));
        }
        self.starts.push((self.rows, part.path));
        self.rows += part.rows;
        let rows = self.rows;
        self.columns.iter_mut().for_each(|column| column.pad(rows));
        Ok(())
    }

    /// The column of this very name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == name)
    }

    /// Row number as an editor or spreadsheet shows it, the header being 1.
    pub(crate) fn place(&self, row: usize, column: usize) -> String {
        let part = self.starts.iter().rev().find(|(start, _)| *start <= row);
        let (start, path) = part.map_or((0, &self.path), |(start, path)| (*start, path));
        format!(
            "{}, row {}, column '{}'",
            path.display(),
            row - start + 2,
            self.columns[column].name
        )
    }

    /// The names of all columns, for messages.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        some(&names)
    }
}

/// The first few of a list, and how many more there are.
pub(crate) fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let head = names[..names.len().min(SHOWN)].join(", ");
    match names.len() {
        n if n > SHOWN => format!("{head} and {} more", n - SHOWN),
        _ => head,
    }
}

fn from_table(table: &uniferum_data::Table) -> Vec<Column> {
    let column = |(index, name): (usize, &String)| {
        let mut column = Column::new(name);
        (0..table.len()).for_each(|row| column.push(table.cell(row, index)));
        column
    };
    let columns = table.head().iter().enumerate().map(column);
    // What pandas calls the index is a column like the others, but never the first.
    let (index, columns): (Vec<_>, Vec<_>) =
        columns.partition(|c| c.name.starts_with("__index_level_"));
    columns.into_iter().chain(index).collect()
}

/// A JSON object whose fields keep their order, so that there is a first column.
struct Record(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Record {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Record;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object, one row of the table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Record(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// An array of objects, one object a line, or one object of equally long arrays.
fn read_json(path: &Path) -> anyhow::Result<Vec<Column>> {
    let text = std::fs::read_to_string(path)?;
    if text.trim_start().starts_with('[') {
        let rows: Vec<Record> = serde_json::from_str(&text)?;
        return from_records(rows);
    }
    let rows: Result<Vec<Record>, _> = serde_json::Deserializer::from_str(&text)
        .into_iter()
        .collect();
    let rows = rows?;
    match <[Record; 1]>::try_from(rows) {
        Ok([Record(fields)]) if fields.iter().all(|(_, v)| v.is_array()) => from_arrays(&fields),
        Ok(row) => from_records(row.into()),
        Err(rows) => from_records(rows),
    }
}

fn from_records(rows: Vec<Record>) -> anyhow::Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::new();
    for (row, Record(fields)) in rows.iter().enumerate() {
        for (i, (name, value)) in fields.iter().enumerate() {
            // Rows mostly name their fields in the same order.
            let at = match columns.get(i) {
                Some(column) if column.name == *name => Some(i),
                _ => columns.iter().position(|c| c.name == *name),
            };
            let at = at.unwrap_or_else(|| {
                columns.push(Column::new(name));
                columns.len() - 1
            });
            columns[at].pad(row);
            let text = scalar(value).with_context(|| format!("row {}, '{name}'", row + 1))?;
            columns[at].push(&text);
        }
    }
    columns.iter_mut().for_each(|c| c.pad(rows.len()));
    Ok(columns)
}

fn from_arrays(fields: &[(String, Value)]) -> anyhow::Result<Vec<Column>> {
    let length = |v: &Value| v.as_array().map_or(0, Vec::len);
    let rows = fields.first().map_or(0, |(_, v)| length(v));
    let mut columns = Vec::new();
    for (name, values) in fields {
        ensure!(
            length(values) == rows,
            "'{name}' has {} values where the first column has {rows}",
            length(values)
        );
        let mut column = Column::new(name);
        for (row, value) in values.as_array().into_iter().flatten().enumerate() {
            let text = scalar(value).with_context(|| format!("row {}, '{name}'", row + 1))?;
            column.push(&text);
        }
        columns.push(column);
    }
    Ok(columns)
}

fn scalar(value: &Value) -> anyhow::Result<String> {
    Ok(match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Array(_) => bail!("expected a number or a text, got an array"),
        Value::Object(_) => bail!("expected a number or a text, got an object"),
    })
}
