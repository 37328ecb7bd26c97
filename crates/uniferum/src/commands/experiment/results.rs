//! What a row came to, and the table of all rows.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use uniferum::report::html::Page;
use uniferum::report::plots::{ForestAxis, ForestRow, forest_svg};
use uniferum_tasks::Task;
use uniferum_train::{Prediction, RunState, judge};

use super::collections::Collection;
use super::rows::Row;

/// The columns of the table, in its order.
const COLUMNS: [&str; 5] = ["A", "B shared", "B unique", "C shared", "C unique"];

/// A row's answer to a group of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// Whether none of the tasks was trained.
    zero_shot: bool,
    /// Mean AUROC with its interval, clustered by patient.
    auroc: Option<f64>,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
    /// Mean average precision.
    auprc: Option<f64>,
    /// Each task: AUROC with its interval, average precision, positives and negatives.
    tasks: Vec<TaskCell>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TaskCell {
    task: String,
    auroc: Option<f64>,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
    auprc: Option<f64>,
    n_pos: usize,
    n_neg: usize,
}

/// A finished row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RowResult {
    row: String,
    steps: u64,
    best_step: Option<u64>,
    /// Seconds of all training steps.
    training_seconds: f64,
    /// Ids of the tasks and groups that were trained.
    trained: Vec<String>,
    cells: BTreeMap<String, Cell>,
}

impl RowResult {
    pub(super) fn new(
        row: &Row,
        trained: Vec<String>,
        state: &RunState,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            row: row.name(),
            steps: state.step,
            best_step: state.best.map(|b| b.step),
            training_seconds: seconds(&folder.join("log.jsonl"))?,
            trained,
            cells: BTreeMap::new(),
        })
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("result.json")
    }

    pub(super) fn read(folder: &Path) -> anyhow::Result<Option<Self>> {
        let path = Self::file(folder);
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path)?;
        let read = serde_json::from_str(&text);
        read.with_context(|| format!("{}", path.display()))
            .map(Some)
    }

    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = Self::file(folder);
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(std::fs::rename(&partial, &path)?)
    }

    /// Enters the answers to a collection's tasks; a group that was not answered whole stays empty.
    pub(super) fn add(
        &mut self,
        collection: &Collection,
        tasks: &[Task],
        predictions: &[Prediction],
    ) -> anyhow::Result<()> {
        for (kind, ids) in [("shared", collection.shared), ("unique", collection.unique)] {
            let group: Vec<Task> = tasks
                .iter()
                .filter(|t| ids.contains(&t.id.as_str()))
                .cloned()
                .collect();
            let (reports, mean) = judge(&group, predictions)?;
            if group.is_empty() || reports.len() < group.len() {
                continue;
            }
            let precisions: Option<Vec<f64>> = reports.iter().map(|r| r.metrics.auprc).collect();
            let cell = Cell {
                zero_shot: !group.iter().any(|t| self.trained.contains(&t.id)),
                auroc: mean.value,
                ci_low: mean.ci_low,
                ci_high: mean.ci_high,
                auprc: precisions.map(|p| p.iter().sum::<f64>() / p.len() as f64),
                tasks: reports
                    .into_iter()
                    .map(|r| TaskCell {
                        task: r.metrics.task,
                        auroc: r.metrics.auroc,
                        ci_low: r.metrics.ci_low,
                        ci_high: r.metrics.ci_high,
                        auprc: r.metrics.auprc,
                        n_pos: r.metrics.n_pos,
                        n_neg: r.metrics.n_neg,
                    })
                    .collect(),
            };
            let column = if collection.name == "A" {
                "A".to_owned()
            } else {
                format!("{} {kind}", collection.name)
            };
            self.cells.insert(column, cell);
        }
        Ok(())
    }
}

/// Seconds of the steps in a log.
fn seconds(log: &Path) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(log).with_context(|| format!("{}", log.display()))?;
    let lines = text.lines().filter_map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        value.get("seconds")?.as_f64()
    });
    Ok(lines.sum())
}

/// All finished rows.
#[derive(Debug, Default, Serialize)]
pub(super) struct Table {
    pub(super) rows: Vec<RowResult>,
}

impl Table {
    /// Writes `table.json`, `table.csv`, `table.md` and `table.html`.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let put = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("{}", path.display()))
        };
        put("table.json", serde_json::to_string_pretty(self)? + "\n")?;
        put("table.csv", self.csv()?)?;
        put("table.md", self.markdown())?;
        self.page().write(&folder.join("table.html"))?;
        Ok(())
    }

    /// One line a row and column.
    fn csv(&self) -> anyhow::Result<String> {
        let mut out = csv::Writer::from_writer(Vec::new());
        let head = [
            "row",
            "column",
            "zero_shot",
            "auroc",
            "ci_low",
            "ci_high",
            "auprc",
            "steps",
        ];
        out.write_record(head)?;
        let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
        for row in &self.rows {
            for (column, cell) in &row.cells {
                out.write_record([
                    row.row.clone(),
                    column.clone(),
                    cell.zero_shot.to_string(),
                    number(cell.auroc),
                    number(cell.ci_low),
                    number(cell.ci_high),
                    number(cell.auprc),
                    row.steps.to_string(),
                ])?;
            }
        }
        Ok(String::from_utf8(out.into_inner()?)?)
    }

    /// Two tables, AUROC and average precision; zero-shot cells have a small circle.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        for (title, value) in MEASURES {
            let _ = writeln!(out, "{title}\n\n| trained on | {} |", COLUMNS.join(" | "));
            let _ = writeln!(out, "|---|{}", "---|".repeat(COLUMNS.len()));
            for row in &self.rows {
                let _ = writeln!(out, "| {} |", self.cells(row, value).join(" | "));
            }
            let _ = writeln!(out);
        }
        out + "° zero-shot: tasks of which the row has seen no label.\n"
    }

    fn cells(&self, row: &RowResult, value: Measure) -> Vec<String> {
        let cell = |column: &&str| match row.cells.get(*column) {
            Some(cell) => {
                let mark = if cell.zero_shot { "°" } else { "" };
                value(cell).map_or("undefined".to_owned(), |v| format!("{v:.3}{mark}"))
            }
            None => "–".to_owned(),
        };
        let cells = COLUMNS.iter().map(cell);
        [row.row.clone()].into_iter().chain(cells).collect()
    }

    fn page(&self) -> Page {
        let mut page = Page::new("Table 2 on phantoms");
        page.note(
            "A, B and C are synthetic collections with overlapping and unique labels. ° marks zero-shot \
             tasks. Intervals are of 95 %, clustered by patient.",
        );
        let head: Vec<&str> = ["trained on"].into_iter().chain(COLUMNS).collect();
        for (title, value) in MEASURES {
            let rows: Vec<Vec<String>> = self.rows.iter().map(|r| self.cells(r, value)).collect();
            page.section(title).table(&head, &rows);
        }
        let figures: Vec<(String, String)> = COLUMNS
            .iter()
            .map(|column| (self.forest(column), (*column).to_owned()))
            .collect();
        page.section("AUROC of each task").figures(&figures);
        page
    }

    /// Every task of a column and, below it, the rows' means.
    fn forest(&self, column: &str) -> String {
        let mut rows = Vec::new();
        for (row, cell) in self.cells_of(column) {
            for task in &cell.tasks {
                let name = task.task.rsplit('.').next().unwrap_or(&task.task);
                rows.push(ForestRow {
                    name: format!("{name}: {row}"),
                    value: task.auroc,
                    ci: task.ci_low.zip(task.ci_high),
                    summary: false,
                });
            }
        }
        rows.sort_by(|a, b| a.name.split(':').next().cmp(&b.name.split(':').next()));
        rows.extend(self.cells_of(column).map(|(row, cell)| ForestRow {
            name: format!("mean: {row}"),
            value: cell.auroc,
            ci: cell.ci_low.zip(cell.ci_high),
            summary: true,
        }));
        forest_svg(&rows, &ForestAxis::auroc())
    }

    fn cells_of<'a>(&'a self, column: &'a str) -> impl Iterator<Item = (&'a str, &'a Cell)> {
        let rows = self.rows.iter();
        rows.filter_map(move |r| Some((r.row.as_str(), r.cells.get(column)?)))
    }
}

type Measure = fn(&Cell) -> Option<f64>;

const MEASURES: [(&str, Measure); 2] = [
    ("Mean AUROC", |cell| cell.auroc),
    ("Mean average precision (AUPR)", |cell| cell.auprc),
];
