//! From tables to columns of scores and labels over the same cases.

mod sheet;
mod study;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{bail, ensure};
use clap::ValueEnum;
use uniferum_metrics::cluster_ids;

use self::sheet::{Cell, Sheet, pivot};
use super::table::{Table, some};

/// How tables are read, aligned and aggregated.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Columns")]
pub(crate) struct ColumnArgs {
    /// Column that names the case [default: the first]
    #[arg(long, value_name = "COL")]
    case: Option<String>,

    /// Column that names the patient; intervals and tests then allow for several cases of a patient
    /// [default: `patient` or `patient_id` where there is one]
    #[arg(long, value_name = "COL")]
    patient: Option<String>,

    /// Treat all cases as independent even if a patient has several
    #[arg(long, conflicts_with = "patient")]
    unclustered: bool,

    /// Judge studies instead of volumes, by the mean or the largest score of their volumes
    #[arg(long, value_enum, value_name = "HOW")]
    study_aggregate: Option<Aggregate>,

    /// Column that names the study for --study-aggregate [default: `study` or `study_id`, else the
    /// patient]
    #[arg(long, value_name = "COL", requires = "study_aggregate")]
    study: Option<String>,

    /// Column of case weights
    #[arg(long, value_name = "COL")]
    weight: Option<String>,

    /// Column of scores in a long table [default: `score`, `probability` or `logit`]
    #[arg(long, value_name = "COL")]
    score: Option<String>,

    /// Only this task; may be repeated [default: all that have scores and labels]
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,

    /// Leave out cases that not all tables have, and labels whose score is missing
    #[arg(long)]
    common_cases: bool,
}

/// How the volumes of a study become one case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Aggregate {
    /// The mean score
    Mean,
    /// The largest score
    Max,
}

/// Scores of one or more models and labels over the same cases.
#[derive(Debug)]
pub(crate) struct Aligned {
    pub(crate) tasks: Vec<String>,
    /// The names of the cases in the tables, before they became studies.
    pub(crate) cases: Vec<String>,
    pub(crate) n_cases: usize,
    /// By model, task and case.
    pub(crate) scores: Vec<Vec<Vec<f64>>>,
    /// By task and case.
    pub(crate) labels: Vec<Vec<Option<bool>>>,
    pub(crate) clusters: Option<Vec<u32>>,
    pub(crate) weights: Option<Vec<f64>>,
    pub(crate) record: Record,
    /// What the reader should know.
    pub(crate) notes: Vec<String>,
}

/// How the cases came about, for the result's own record.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Record {
    /// Cases that are judged: rows, or studies.
    pub(crate) n_cases: usize,
    /// Column of the patients that intervals are clustered by.
    pub(crate) clustered_by: Option<String>,
    /// How volumes were put together.
    pub(crate) study_aggregate: Option<Aggregate>,
    /// Column of the studies.
    pub(crate) study: Option<String>,
    /// Column of the weights.
    pub(crate) weight: Option<String>,
    /// Cases left out because some table lacks them.
    pub(crate) n_left_out: usize,
}

/// Which columns of a table mean what.
struct Layout {
    case: usize,
    /// Columns of task and value in a long table.
    long: Option<(usize, usize)>,
    tasks: Vec<String>,
    /// Tasks of a long table whose answers are masks: one number of each says little.
    masks: Vec<String>,
}

impl Aligned {
    /// Refuses cases without a label: there is nothing to judge.
    pub(crate) fn check_labelled(&self, labels: &Path) -> anyhow::Result<()> {
        ensure!(
            self.labels.iter().flatten().any(Option::is_some),
            "{}: expected labels of these tasks, got none that is not missing",
            labels.display()
        );
        Ok(())
    }
}

/// The table (0: labels) and name of a column that says something of each case beside its scores.
type Role = Option<(usize, String)>;

struct Roles {
    patient: Role,
    study: Role,
    weight: Role,
}

impl Roles {
    /// Columns that are no tasks.
    fn names(&self) -> Vec<&str> {
        let roles = [&self.patient, &self.study, &self.weight].into_iter();
        let found = roles.flatten().map(|(_, name)| name.as_str());
        found
            .chain(["patient", "patient_id", "study", "study_id"])
            .collect()
    }
}

/// The values of a role, case by case.
struct RoleColumn<'a> {
    table: &'a Table,
    name: String,
    values: Vec<String>,
}

impl<'a> RoleColumn<'a> {
    /// Looks a role up in the table that has it; `sheets` are the tables' in their order.
    fn of(role: &Role, tables: &[&'a Table], sheets: &[&Sheet], cases: &[&str]) -> Option<Self> {
        let (at, name) = role.as_ref()?;
        let (table, sheet) = (tables[*at], sheets[*at]);
        let column = &table.columns[table.find(name)?];
        let rows = cases.iter().map(|c| sheet.rows[sheet.index[*c]]);
        Some(Self {
            table,
            name: name.clone(),
            values: rows.map(|row| column.cell(row).to_owned()).collect(),
        })
    }

    /// Refuses cases that it says nothing of.
    fn check_patients(&self, cases: &[&str]) -> anyhow::Result<()> {
        match self.values.iter().position(String::is_empty) {
            None => Ok(()),
            Some(at) => bail!(
                "{}: case '{}' has no patient in column '{}'",
                self.table.path.display(),
                cases[at],
                self.name
            ),
        }
    }

    fn weights(&self) -> anyhow::Result<Vec<f64>> {
        let parse = |text: &String| match text.parse::<f64>() {
            Ok(weight) if weight.is_finite() && weight >= 0.0 => Ok(weight),
            _ => bail!(
                "{}, column '{}': expected a weight of at least 0, got '{text}'",
                self.table.path.display(),
                self.name
            ),
        };
        self.values.iter().map(parse).collect()
    }
}

impl ColumnArgs {
    /// Reads the tables of some models and of the labels, and puts them side by side.
    pub(crate) fn align(&self, predictions: &[Table], labels: &Table) -> anyhow::Result<Aligned> {
        let tables: Vec<&Table> = std::iter::once(labels).chain(predictions).collect();
        let roles = self.roles(&tables)?;
        let truth = self.layout(labels, &roles.names(), &["label"])?;
        let layouts = self.score_layouts(predictions, &roles)?;
        let mut notes = Vec::new();
        notes.extend(masks_left_out(&layouts));
        let tasks = self.common_tasks(predictions, &layouts, labels, &truth, &mut notes)?;
        let truth = pivot(labels, &truth, &tasks, true)?;
        let sheets: Vec<Sheet> = predictions
            .iter()
            .zip(&layouts)
            .map(|(table, layout)| pivot(table, layout, &tasks, false))
            .collect::<anyhow::Result<_>>()?;
        let (cases, n_left_out) = self.common_cases(&truth, &sheets)?;
        let (scores, labels) = self.values(&tasks, &cases, &truth, &sheets)?;
        let sheets: Vec<&Sheet> = std::iter::once(&truth).chain(&sheets).collect();
        let column = |role: &Role| RoleColumn::of(role, &tables, &sheets, &cases);
        let (patients, weights) = (column(&roles.patient), column(&roles.weight));
        if let Some(patients) = &patients {
            patients.check_patients(&cases)?;
            let name = &patients.name;
            notes.push(format!(
                "intervals are clustered by patient (column '{name}')"
            ));
        }
        let mut aligned = Aligned {
            cases: cases.iter().map(|c| (*c).to_owned()).collect(),
            n_cases: cases.len(),
            record: Record {
                n_cases: cases.len(),
                clustered_by: patients.as_ref().map(|p| p.name.clone()),
                study_aggregate: self.study_aggregate,
                study: None,
                weight: weights.as_ref().map(|w| w.name.clone()),
                n_left_out,
            },
            tasks,
            scores,
            labels,
            clusters: patients.as_ref().map(|p| cluster_ids(&p.values)),
            weights: weights.as_ref().map(RoleColumn::weights).transpose()?,
            notes,
        };
        if let Some(how) = self.study_aggregate {
            let Some(studies) = column(&roles.study).or(patients) else {
                bail!("--study-aggregate needs to know the studies: give --study COL");
            };
            aligned.aggregate(how, &studies.name, &studies.values);
        }
        Ok(aligned)
    }

    fn roles(&self, tables: &[&Table]) -> anyhow::Result<Roles> {
        let patient = self.role(tables, &self.patient, &["patient", "patient_id"])?;
        Ok(Roles {
            patient: patient.filter(|_| !self.unclustered),
            study: self.role(tables, &self.study, &["study", "study_id"])?,
            weight: self.role(tables, &self.weight, &[])?,
        })
    }

    fn score_layouts(&self, predictions: &[Table], roles: &Roles) -> anyhow::Result<Vec<Layout>> {
        let values = match &self.score {
            Some(name) => vec![name.as_str()],
            None => vec!["score", "probability", "logit"],
        };
        let layouts = predictions.iter();
        layouts
            .map(|table| self.layout(table, &roles.names(), &values))
            .collect()
    }

    fn role(
        &self,
        tables: &[&Table],
        asked: &Option<String>,
        usual: &[&str],
    ) -> anyhow::Result<Role> {
        let find = |name: &str| tables.iter().position(|t| t.find(name).is_some());
        if let Some(name) = asked {
            let Some(table) = find(name) else {
                let paths: Vec<String> = tables
                    .iter()
                    .map(|t| t.path.display().to_string())
                    .collect();
                let columns = tables[0].names();
                bail!(
                    "no column '{name}' in {}; {} has {columns}",
                    paths.join(" or "),
                    paths[0]
                );
            };
            return Ok(Some((table, name.clone())));
        }
        let found = usual
            .iter()
            .find_map(|name| Some((find(name)?, name.to_string())));
        Ok(found)
    }

    fn layout(&self, table: &Table, roles: &[&str], values: &[&str]) -> anyhow::Result<Layout> {
        let case = match &self.case {
            None => 0,
            Some(name) => match table.find(name) {
                Some(column) => column,
                None => bail!(
                    "{}: no column '{name}' for the case; it has {}",
                    table.path.display(),
                    table.names()
                ),
            },
        };
        let value = values.iter().find_map(|name| table.find(name));
        if let Some((task, value)) = table.find("task").zip(value) {
            let (mut tasks, mut masks): (Vec<String>, Vec<String>) = Default::default();
            let mut seen = std::collections::HashSet::new();
            let kind = table.find("kind");
            for row in 0..table.rows {
                let name = table.columns[task].cell(row);
                if name.is_empty() {
                    // What `predict` writes of a scan that it could not use.
                    let empty = table.columns[value].cell(row).is_empty();
                    ensure!(empty, "{}: no task", table.place(row, task));
                    continue;
                }
                let is_mask = kind.is_some_and(|k| table.columns[k].cell(row) == "segmentation");
                if seen.insert(name) {
                    let list = if is_mask { &mut masks } else { &mut tasks };
                    list.push(name.to_owned());
                }
            }
            return Ok(Layout {
                case,
                long: Some((task, value)),
                tasks,
                masks,
            });
        }
        let wide = table.columns.iter().enumerate();
        let tasks: Vec<String> = wide
            .filter(|(i, c)| *i != case && !roles.contains(&c.name.as_str()))
            .map(|(_, c)| c.name.clone())
            .collect();
        ensure!(
            !tasks.is_empty(),
            "{}: no column of values beside the case",
            table.path.display()
        );
        Ok(Layout {
            case,
            long: None,
            tasks,
            masks: Vec::new(),
        })
    }

    fn common_tasks(
        &self,
        predictions: &[Table],
        layouts: &[Layout],
        labels: &Table,
        truth: &Layout,
        notes: &mut Vec<String>,
    ) -> anyhow::Result<Vec<String>> {
        let lists = |name: &String| {
            let here = predictions.iter().zip(layouts);
            let here = here.map(|(t, l)| (t, l.tasks.contains(name)));
            here.chain([(labels, truth.tasks.contains(name))])
                .find(|(_, has)| !has)
                .map(|(table, _)| table)
        };
        if !self.tasks.is_empty() {
            for name in &self.tasks {
                if let Some(table) = lists(name) {
                    let layout = predictions.iter().position(|p| p.path == table.path);
                    let has = layout.map_or(truth, |at| &layouts[at]);
                    bail!(
                        "{}: no task '{name}'; it has {}",
                        table.path.display(),
                        some(&refs(&has.tasks))
                    );
                }
            }
            return Ok(self.tasks.clone());
        }
        let mut every: Vec<&String> = layouts.iter().flat_map(|l| &l.tasks).collect();
        every.extend(&truth.tasks);
        let (mut common, mut lone) = (Vec::new(), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for name in every.into_iter().filter(|n| seen.insert(n.as_str())) {
            match lists(name) {
                None => common.push(name.clone()),
                Some(_) => lone.push(name.as_str()),
            }
        }
        ensure!(
            !common.is_empty(),
            "{} and {} have no task in common: the first has {}, the second {}",
            predictions[0].path.display(),
            labels.path.display(),
            some(&refs(&layouts[0].tasks)),
            some(&refs(&truth.tasks))
        );
        if !lone.is_empty() {
            notes.push(format!("left out, not in every table: {}", some(&lone)));
        }
        Ok(common)
    }

    /// The cases that all tables have, in the order of the labels.
    fn common_cases<'a>(
        &self,
        truth: &'a Sheet,
        sheets: &[Sheet],
    ) -> anyhow::Result<(Vec<&'a str>, usize)> {
        let everywhere = |case: &&str| sheets.iter().all(|s| s.index.contains_key(*case));
        let names = refs(&truth.cases);
        let cases: Vec<&str> = names.iter().copied().filter(everywhere).collect();
        if cases.is_empty() {
            let other = sheets.first();
            let has = |s: &Sheet| format!("; {} has {}", s.path.display(), some(&refs(&s.cases)));
            let other = other.map(has);
            bail!(
                "the tables have no case in common: {} has {}{} (--case names their column)",
                truth.path.display(),
                some(&names),
                other.unwrap_or_default()
            );
        }
        let mut left_out = truth.cases.len() - cases.len();
        for sheet in sheets {
            let without_label = sheet.cases.iter().filter(|c| !truth.index.contains_key(*c));
            let without_label: Vec<&str> = without_label.map(String::as_str).collect();
            let without_score = names.iter().filter(|c| !sheet.index.contains_key(**c));
            let without_score: Vec<&str> = without_score.copied().collect();
            left_out += without_label.len();
            if self.common_cases {
                continue;
            }
            let (p, l) = (sheet.path.display(), truth.path.display());
            ensure!(
                without_score.is_empty(),
                "{p} lacks {} of the {} cases of {l}: {} (--common-cases leaves them out)",
                without_score.len(),
                names.len(),
                some(&without_score)
            );
            ensure!(
                without_label.is_empty(),
                "{l} lacks {} of the {} cases of {p}: {} (--common-cases leaves them out)",
                without_label.len(),
                sheet.cases.len(),
                some(&without_label)
            );
        }
        Ok((cases, left_out))
    }

    #[allow(clippy::type_complexity)] // By model, task and case; a name would say no more.
    fn values(
        &self,
        tasks: &[String],
        cases: &[&str],
        truth: &Sheet,
        sheets: &[Sheet],
    ) -> anyhow::Result<(Vec<Vec<Vec<f64>>>, Vec<Vec<Option<bool>>>)> {
        let at: Vec<usize> = cases.iter().map(|c| truth.index[*c]).collect();
        let label = |cell: &Cell| match cell {
            Cell::Value(v) => Some(*v == 1.0),
            Cell::Missing => None,
        };
        let mut labels: Vec<Vec<Option<bool>>> = truth
            .values
            .iter()
            .map(|column| at.iter().map(|&i| label(&column[i])).collect())
            .collect();
        let mut scores = Vec::with_capacity(sheets.len());
        for sheet in sheets {
            let at: Vec<usize> = cases.iter().map(|c| sheet.index[*c]).collect();
            let mut by_task = Vec::with_capacity(tasks.len());
            for (t, column) in sheet.values.iter().enumerate() {
                let mut of_task = Vec::with_capacity(cases.len());
                for (row, &i) in at.iter().enumerate() {
                    let score = match column[i] {
                        Cell::Value(score) => score,
                        // Without a label the score is not looked at.
                        Cell::Missing if labels[t][row].is_none() => 0.0,
                        Cell::Missing if self.common_cases => {
                            labels[t][row] = None;
                            0.0
                        }
                        Cell::Missing => bail!(
                            "{}: case '{}' has a label for task '{}' but no score \
                             (--common-cases leaves it out)",
                            sheet.path.display(),
                            cases[row],
                            tasks[t]
                        ),
                    };
                    of_task.push(score);
                }
                by_task.push(of_task);
            }
            scores.push(by_task);
        }
        Ok((scores, labels))
    }
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// A note of the tasks whose answers are masks.
fn masks_left_out(layouts: &[Layout]) -> Option<String> {
    let masks: BTreeSet<&str> = layouts.iter().flat_map(|l| refs(&l.masks)).collect();
    let masks: Vec<&str> = masks.into_iter().collect();
    let some = some(&masks);
    (!masks.is_empty()).then(|| format!("left out, masks are not judged by one score: {some}"))
}
