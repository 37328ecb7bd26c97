//! One table as values by task and case.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{bail, ensure};
use uniferum_data::{Label, is_missing};

use super::Layout;
use crate::commands::evaluate::Table;

/// One table pivoted: values by task and case.
pub(super) struct Sheet {
    pub(super) path: PathBuf,
    pub(super) cases: Vec<String>,
    pub(super) index: HashMap<String, usize>,
    pub(super) values: Vec<Vec<Cell>>,
    /// Row of the table in which each case first appears.
    pub(super) rows: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell {
    Missing,
    Value(f64),
}

/// Values of the tasks by case, whatever the shape of the table.
pub(super) fn pivot(
    table: &Table,
    layout: &Layout,
    tasks: &[String],
    labels: bool,
) -> anyhow::Result<Sheet> {
    let mut sheet = Sheet {
        path: table.path.clone(),
        cases: Vec::new(),
        index: HashMap::with_capacity(table.rows),
        values: vec![Vec::new(); tasks.len()],
        rows: Vec::new(),
    };
    let read = |row: usize, column: usize| {
        if labels {
            label_cell(table, row, column)
        } else {
            score_cell(table, row, column)
        }
    };
    match layout.long {
        None => {
            let columns: Vec<usize> = tasks.iter().filter_map(|t| table.find(t)).collect();
            for row in 0..table.rows {
                let (_, new) = sheet.case(table, row, layout.case)?;
                if !new {
                    let name = table.columns[layout.case].cell(row);
                    bail!("{}: case '{name}' again", table.place(row, layout.case));
                }
                for (values, &column) in sheet.values.iter_mut().zip(&columns) {
                    values.push(read(row, column)?);
                }
            }
        }
        Some((task, value)) => {
            let number: HashMap<&str, usize> = tasks
                .iter()
                .enumerate()
                .map(|(i, t)| (t.as_str(), i))
                .collect();
            let mut filled: Vec<Vec<bool>> = vec![Vec::new(); tasks.len()];
            for row in 0..table.rows {
                let name = table.columns[task].cell(row);
                if name.is_empty() {
                    continue;
                }
                let (case, _) = sheet.case(table, row, layout.case)?;
                let Some(&t) = number.get(name) else {
                    continue;
                };
                let n = sheet.cases.len();
                sheet.values[t].resize(n, Cell::Missing);
                filled[t].resize(n, false);
                if std::mem::replace(&mut filled[t][case], true) {
                    bail!(
                        "{}: case '{}' has task '{name}' twice",
                        table.place(row, layout.case),
                        sheet.cases[case]
                    );
                }
                sheet.values[t][case] = read(row, value)?;
            }
        }
    }
    let n = sheet.cases.len();
    sheet
        .values
        .iter_mut()
        .for_each(|v| v.resize(n, Cell::Missing));
    Ok(sheet)
}

impl Sheet {
    /// Number of the case of a row, and whether it is new.
    fn case(&mut self, table: &Table, row: usize, column: usize) -> anyhow::Result<(usize, bool)> {
        let name = table.columns[column].cell(row);
        ensure!(!name.is_empty(), "{}: no case", table.place(row, column));
        if let Some(&at) = self.index.get(name) {
            return Ok((at, false));
        }
        let at = self.cases.len();
        self.index.insert(name.to_owned(), at);
        self.cases.push(name.to_owned());
        self.rows.push(row);
        Ok((at, true))
    }
}

fn label_cell(table: &Table, row: usize, column: usize) -> anyhow::Result<Cell> {
    let text = table.columns[column].cell(row);
    match Label::parse(text).map(Label::known) {
        Ok(Some(true)) => Ok(Cell::Value(1.0)),
        Ok(Some(false)) => Ok(Cell::Value(0.0)),
        Ok(None) => Ok(Cell::Missing),
        Err(_) => bail!(
            "{}: expected 0, 1 or nothing (missing), got '{text}' \
             (--task chooses among the columns)",
            table.place(row, column)
        ),
    }
}

fn score_cell(table: &Table, row: usize, column: usize) -> anyhow::Result<Cell> {
    let text = table.columns[column].cell(row);
    // A model that says NaN has failed: that is no answer left out.
    if is_missing(text) && !text.eq_ignore_ascii_case("nan") {
        return Ok(Cell::Missing);
    }
    match text.parse::<f64>() {
        Ok(score) if score.is_finite() => Ok(Cell::Value(score)),
        _ => bail!(
            "{}: expected a finite score, got '{text}'",
            table.place(row, column)
        ),
    }
}
