//! What a row came to, and the table of all rows.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use uniferum::report::evaluation::{Judged, Measure, forest, mean_auprc, mean_auroc, short_name};
use uniferum::report::html::Page;
use uniferum_ct::replace_atomically;
use uniferum_metrics::Bootstrap;
use uniferum_tasks::Task;
use uniferum_train::{GroupReport, Intervals, Prediction, RunState, judge};

use super::collections::Collection;
use super::rows::Row;

/// The columns of the table, in its order.
const COLUMNS: [&str; 5] = ["A", "B shared", "B unique", "C shared", "C unique"];

/// Bootstrap replicates of each average precision.
const REPLICATES: usize = 1000;

/// A row's answer to a group of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// Whether none of the tasks was trained.
    zero_shot: bool,
    /// Means and tasks with intervals, clustered by patient.
    #[serde(flatten)]
    report: GroupReport,
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
        let text = serde_json::to_string_pretty(self)? + "\n";
        replace_atomically(&path, ".part", |p| std::fs::write(p, text))
            .with_context(|| path.display().to_string())
    }

    /// Enters the answers to a collection's tasks; a group that was not answered whole stays empty.
    pub(super) fn add(
        &mut self,
        collection: &Collection,
        tasks: &[Task],
        predictions: &[Prediction],
    ) -> anyhow::Result<()> {
        let bootstrap = Bootstrap {
            replicates: REPLICATES,
            ..Bootstrap::default()
        };
        let intervals = Intervals {
            bootstrap: Some(bootstrap),
            ..Intervals::default()
        };
        for (kind, ids) in [("shared", collection.shared), ("unique", collection.unique)] {
            let group: Vec<Task> = tasks
                .iter()
                .filter(|t| ids.contains(&t.id.as_str()))
                .cloned()
                .collect();
            let report = judge(&group, predictions, &intervals)?;
            if group.is_empty() || report.tasks.len() < group.len() {
                continue;
            }
            let cell = Cell {
                zero_shot: !group.iter().any(|t| self.trained.contains(&t.id)),
                report,
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
            "auprc_ci_low",
            "auprc_ci_high",
            "steps",
        ];
        out.write_record(head)?;
        let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
        for row in &self.rows {
            for (column, cell) in &row.cells {
                let report = &cell.report;
                let all = &report.macro_auroc;
                out.write_record([
                    row.row.clone(),
                    column.clone(),
                    cell.zero_shot.to_string(),
                    number(all.value),
                    number(all.ci_low),
                    number(all.ci_high),
                    number(report.macro_auprc),
                    number(report.macro_auprc_ci_low),
                    number(report.macro_auprc_ci_high),
                    row.steps.to_string(),
                ])?;
            }
        }
        Ok(String::from_utf8(out.into_inner()?)?)
    }

    /// AUROC, average precision and each task's AUROC; zero-shot cells have a small circle.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::new();
        let mut table = |title: &str, head: &[String], rows: &[Vec<String>]| {
            let _ = writeln!(out, "{title}\n\n| {} |", head.join(" | "));
            let _ = writeln!(out, "|{}", "---|".repeat(head.len()));
            for row in rows {
                let _ = writeln!(out, "| {} |", row.join(" | "));
            }
            let _ = writeln!(out);
        };
        for (title, mean) in MEANS {
            table(title, &self.head(), &self.rows_of(mean));
        }
        let (head, rows) = self.tasks();
        table(TASKS, &head, &rows);
        out + NOTE + "\n"
    }

    fn head(&self) -> Vec<String> {
        let columns = COLUMNS.iter().map(|c| (*c).to_owned());
        ["trained on".to_owned()]
            .into_iter()
            .chain(columns)
            .collect()
    }

    fn rows_of(&self, mean: Mean) -> Vec<Vec<String>> {
        let rows = self.rows.iter().map(|row| {
            let cells = COLUMNS.iter().map(|column| match row.cells.get(*column) {
                Some(cell) => format!("{}{}", mean(&cell.report), cell.mark()),
                None => "–".to_owned(),
            });
            [row.row.clone()].into_iter().chain(cells).collect()
        });
        rows.collect()
    }

    /// A line a task, a column a row of the other tables.
    fn tasks(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let names = self.rows.iter().map(|r| r.row.clone());
        let head = ["task".to_owned(), "positive".to_owned()];
        let mut lines: Vec<Vec<String>> = Vec::new();
        for column in COLUMNS {
            let known = self
                .cells_of(column)
                .max_by_key(|(_, c)| c.report.tasks.len());
            for task in known.iter().flat_map(|(_, cell)| &cell.report.tasks) {
                let (m, collection) = (&task.metrics, &column[..1]);
                let first = format!("{collection}: {}", short_name(&m.task));
                let mut line = vec![first, format!("{} of {}", m.n_pos, m.n)];
                line.extend(self.rows.iter().map(|row| {
                    let cell = row.cells.get(column);
                    let found = cell.and_then(|c| c.report.task(&m.task));
                    let value = found.and_then(|t| t.metrics.auroc);
                    let untrained = !row.trained.contains(&m.task);
                    let mark = if untrained { "°" } else { "" };
                    value.map_or("–".to_owned(), |v| format!("{v:.2}{mark}"))
                }));
                lines.push(line);
            }
        }
        (head.into_iter().chain(names).collect(), lines)
    }

    fn page(&self) -> Page {
        let mut page = Page::new("Table 2 on phantoms");
        page.note(NOTE);
        let mut add = |title: &str, head: &[String], rows: &[Vec<String>]| {
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            page.section(title).table(&head, rows);
        };
        for (title, mean) in MEANS {
            add(title, &self.head(), &self.rows_of(mean));
        }
        let (head, rows) = self.tasks();
        add(TASKS, &head, &rows);
        let figures: Vec<(String, String)> = COLUMNS
            .iter()
            .map(|column| (self.forest(column), (*column).to_owned()))
            .collect();
        page.section("AUROC of each task, with intervals")
            .figures(&figures);
        page
    }

    /// Every task of a column and, below it, the rows' means.
    fn forest(&self, column: &str) -> String {
        let cells = self.cells_of(column).map(|(model, cell)| Judged {
            model,
            report: &cell.report,
        });
        forest(&cells.collect::<Vec<_>>(), Measure::Auroc)
    }

    fn cells_of<'a>(&'a self, column: &'a str) -> impl Iterator<Item = (&'a str, &'a Cell)> {
        let rows = self.rows.iter();
        rows.filter_map(move |r| Some((r.row.as_str(), r.cells.get(column)?)))
    }
}

impl Cell {
    fn mark(&self) -> &'static str {
        if self.zero_shot { "°" } else { "" }
    }
}

type Mean = fn(&GroupReport) -> String;

const MEANS: [(&str, Mean); 2] = [
    ("Mean AUROC", mean_auroc),
    ("Mean average precision (AUPR)", mean_auprc),
];

const TASKS: &str = "AUROC of each task";

const NOTE: &str = "A, B and C are synthetic collections with overlapping and unique labels. ° zero-shot: \
     the row has seen no label of the task, or of any task of the group. Intervals are of 95 %, clustered \
     by patient; those of average precision by bootstrap. – the network has no output for some task of the \
     group.";
