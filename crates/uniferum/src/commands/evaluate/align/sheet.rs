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

/// Reads a cell, by row and column.
type Read = fn(&Table, usize, usize) -> anyhow::Result<Cell>;

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
    let read: Read = if labels { label_cell } else { score_cell };
    match layout.long {
        None => sheet.fill_wide(table, layout.case, tasks, read)?,
        Some(columns) => sheet.fill_long(table, layout.case, columns, tasks, read)?,
    }
    let n = sheet.cases.len();
    sheet
        .values
        .iter_mut()
        .for_each(|v| v.resize(n, Cell::Missing));
    Ok(sheet)
}

impl Sheet {
    /// A row a case, whose name is in the column `case`, and a column a task.
    fn fill_wide(
        &mut self,
        table: &Table,
        case: usize,
        tasks: &[String],
        read: Read,
    ) -> anyhow::Result<()> {
        let columns: Vec<usize> = tasks.iter().filter_map(|t| table.find(t)).collect();
        for row in 0..table.rows {
            let (_, new) = self.case(table, row, case)?;
            if !new {
                let name = table.columns[case].cell(row);
                bail!("{}: case '{name}' again", table.place(row, case));
            }
            for (values, &column) in self.values.iter_mut().zip(&columns) {
                values.push(read(table, row, column)?);
            }
        }
        Ok(())
    }

    /// A row a case and task, with the case in the column `case`, the task's name and its value in two others.
    fn fill_long(
        &mut self,
        table: &Table,
        case: usize,
        (task, value): (usize, usize),
        tasks: &[String],
        read: Read,
    ) -> anyhow::Result<()> {
        let numbers = tasks.iter().enumerate().map(|(i, t)| (t.as_str(), i));
        let numbers: HashMap<&str, usize> = numbers.collect();
        let mut filled: Vec<Vec<bool>> = vec![Vec::new(); tasks.len()];
        for row in 0..table.rows {
            let name = table.columns[task].cell(row);
            if name.is_empty() {
                continue;
            }
            let (at, _) = self.case(table, row, case)?;
            let Some(&t) = numbers.get(name) else {
                continue;
            };
            let n = self.cases.len();
            self.values[t].resize(n, Cell::Missing);
            filled[t].resize(n, false);
            if std::mem::replace(&mut filled[t][at], true) {
                bail!(
                    "{}: case '{}' has task '{name}' twice",
                    table.place(row, case),
                    self.cases[at]
                );
            }
            self.values[t][at] = read(table, row, value)?;
        }
        Ok(())
    }

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
