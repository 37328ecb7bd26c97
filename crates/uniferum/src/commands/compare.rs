//! `uniferum compare`: is one model better than another on the same cases.

use std::path::PathBuf;

use anyhow::ensure;
use uniferum::report::html::Page;
use uniferum::report::plots::{ForestAxis, ForestRow, forest_svg};
use uniferum_metrics::{
    AucEstimate, ChiSquared, Comparison, EvaluateOptions, Evaluation, auc_estimates, compare_tasks,
    equality_test, evaluate_tasks,
};

use super::evaluate::{
    Aligned, ColumnArgs, LevelArgs, OutputArgs, Record, Table, interval, number, percent,
    print_table, studies,
};
use crate::global::Global;

/// Compare models on the same cases: paired differences of AUROC with intervals and corrected p-values
///
/// Every table of scores is compared with the first, or with every other (--all-pairs). Tables are as
/// in `uniferum evaluate`. A difference is the first model's AUROC minus the second's.
///
/// Example:
///
///   uniferum compare ours.csv theirs.csv --labels labels.csv --names ours,theirs
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Tables of scores, two or more
    #[arg(required = true, num_args = 2.., value_name = "PREDICTIONS")]
    predictions: Vec<PathBuf>,

    /// Table of labels: 0, 1 or empty
    #[arg(long, short, value_name = "FILE")]
    labels: PathBuf,

    /// Names of the models with commas between them, as many as tables [default: those of the files]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,

    /// Compare every pair, not only each with the first
    #[arg(long)]
    all_pairs: bool,

    #[command(flatten)]
    columns: ColumnArgs,

    #[command(flatten)]
    level: LevelArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// What `--format json` prints.
#[derive(serde::Serialize)]
struct Output {
    models: Vec<Model>,
    comparisons: Vec<Pair>,
    /// Whether all models have the same AUROC, task by task; only with three or more models.
    equality: Vec<Equality>,
    settings: Settings,
}

#[derive(serde::Serialize)]
struct Model {
    model: String,
    predictions: PathBuf,
    #[serde(flatten)]
    evaluation: Evaluation,
}

#[derive(serde::Serialize)]
struct Pair {
    a: String,
    b: String,
    #[serde(flatten)]
    comparison: Comparison,
}

#[derive(serde::Serialize)]
struct Equality {
    task: String,
    #[serde(flatten)]
    test: Option<ChiSquared>,
}

#[derive(serde::Serialize)]
struct Settings {
    labels: PathBuf,
    level: f64,
    #[serde(flatten)]
    record: Record,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let names = args.names()?;
    let tables: Vec<Table> = args
        .predictions
        .iter()
        .map(|p| Table::read(p))
        .collect::<anyhow::Result<_>>()?;
    let cases = args.columns.align(&tables, &Table::read(&args.labels)?)?;
    cases.check_labelled(&args.labels)?;
    for note in &cases.notes {
        global.hint(format!("note: {note}"));
    }
    let output = args.judge(&names, &cases)?;
    args.output.leave(&output, page, print, global)
}

impl Args {
    fn names(&self) -> anyhow::Result<Vec<String>> {
        if !self.names.is_empty() {
            let (names, tables) = (self.names.len(), self.predictions.len());
            ensure!(
                names == tables,
                "--names: expected {tables} (one a table), got {names}"
            );
            return Ok(self.names.clone());
        }
        let stem = |p: &PathBuf| p.file_stem().map(|s| s.to_string_lossy().into_owned());
        let stems: Vec<String> = self.predictions.iter().filter_map(stem).collect();
        let path = |p: &PathBuf| p.display().to_string();
        let unique = stems.iter().collect::<std::collections::HashSet<_>>().len();
        Ok(if unique == self.predictions.len() {
            stems
        } else {
            self.predictions.iter().map(path).collect()
        })
    }

    fn judge(&self, names: &[String], cases: &Aligned) -> anyhow::Result<Output> {
        let options = EvaluateOptions {
            level: self.level.level,
            clusters: cases.clusters.as_deref(),
            weights: cases.weights.as_deref(),
            ..Default::default()
        };
        let tasks: Vec<&str> = cases.tasks.iter().map(String::as_str).collect();
        let (mut models, mut estimates) = (Vec::new(), Vec::new());
        for (m, name) in names.iter().enumerate() {
            let columns = cases.columns(m);
            estimates.push(auc_estimates(&columns, &options)?);
            models.push(Model {
                model: name.clone(),
                predictions: self.predictions[m].clone(),
                evaluation: evaluate_tasks(&columns, &options)?,
            });
        }
        let pairs = (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b)));
        let mut comparisons = Vec::new();
        for (a, b) in pairs.filter(|(a, _)| *a == 0 || self.all_pairs) {
            comparisons.push(Pair {
                a: names[a].clone(),
                b: names[b].clone(),
                comparison: compare_tasks(&tasks, &estimates[a], &estimates[b], options.level)?,
            });
        }
        Ok(Output {
            models,
            comparisons,
            equality: equality(&tasks, &estimates)?,
            settings: Settings {
                labels: self.labels.clone(),
                level: options.level,
                record: cases.record.clone(),
            },
        })
    }
}

fn equality(
    tasks: &[&str],
    estimates: &[Vec<Option<AucEstimate>>],
) -> anyhow::Result<Vec<Equality>> {
    if estimates.len() < 3 {
        return Ok(Vec::new());
    }
    let test = |(t, task): (usize, &&str)| {
        let all: Option<Vec<AucEstimate>> = estimates.iter().map(|m| m[t].clone()).collect();
        Ok(Equality {
            task: task.to_string(),
            test: match all {
                Some(all) => equality_test(&all)?,
                None => None,
            },
        })
    };
    tasks.iter().enumerate().map(test).collect()
}

const HEAD: [&str; 7] = ["task", "A", "B", "A - B", "p", "p Holm", "p BH"];

fn rows(pair: &Pair) -> Vec<Vec<String>> {
    let line = |name: &str, d: &uniferum_metrics::AurocDifference, holm, bh| {
        let p = match d.p_value {
            Some(p) => p_text(Some(p)),
            None => state(d.state).to_owned(),
        };
        vec![
            name.to_owned(),
            number(d.auroc_a),
            number(d.auroc_b),
            interval(d.difference, d.ci_low, d.ci_high),
            p,
            holm,
            bh,
        ]
    };
    let tasks = pair.comparison.tasks.iter();
    let mut rows: Vec<Vec<String>> = tasks
        .map(|t| line(&t.task, &t.difference, p_text(t.p_holm), p_text(t.p_bh)))
        .collect();
    let all = &pair.comparison.macro_difference;
    let name = format!(
        "macro, {} of {} tasks",
        all.n_tasks,
        pair.comparison.tasks.len()
    );
    rows.push(line(&name, &all.difference, String::new(), String::new()));
    rows
}

fn state(state: uniferum_metrics::ComparisonState) -> &'static str {
    use uniferum_metrics::ComparisonState as S;
    match state {
        S::Tested => "-",
        S::Identical => "identical",
        S::NoVariance => "no variance",
        S::TooFewUnits => "too few",
        S::Undefined => "undefined",
        _ => "-",
    }
}

fn p_text(p: Option<f64>) -> String {
    match p {
        None => "-".to_owned(),
        Some(p) if p < 1e-4 => "< 0.0001".to_owned(),
        Some(p) => format!("{p:.4}"),
    }
}

fn footnote(output: &Output) -> String {
    let how = match &output.settings.record.clustered_by {
        Some(column) => format!("clustered by patient (column '{column}', Obuchowski)"),
        None => "all cases taken as independent (DeLong)".to_owned(),
    };
    let level = percent(output.settings.level);
    let studies = studies(&output.settings.record);
    let studies = studies.map_or(String::new(), |note| format!(" {note}"));
    format!(
        "{level} intervals, {how}; p-values two-sided by Student's law, corrected over tasks by Holm and by \
         Benjamini and Hochberg.{studies}"
    )
}

fn print(out: &mut impl std::io::Write, output: &Output) -> std::io::Result<()> {
    for pair in &output.comparisons {
        writeln!(out, "A = {}, B = {}", pair.a, pair.b)?;
        print_table(out, &HEAD, &rows(pair))?;
        writeln!(out)?;
    }
    if !output.equality.is_empty() {
        let test = |e: &Equality| {
            let t = e.test;
            vec![
                e.task.clone(),
                number(t.map(|t| t.statistic)),
                t.map_or("-".to_owned(), |t| t.df.to_string()),
                p_text(t.map(|t| t.p_value)),
            ]
        };
        let rows: Vec<Vec<String>> = output.equality.iter().map(test).collect();
        writeln!(out, "all models equal?")?;
        print_table(out, &["task", "chi squared", "df", "p"], &rows)?;
        writeln!(out)?;
    }
    writeln!(out, "{}", footnote(output))
}

fn page(output: &Output) -> Page {
    let mut page = Page::new("Comparison of models");
    page.section("Models");
    let models = output.models.iter().map(|m| {
        let all = &m.evaluation.macro_auroc;
        vec![
            m.model.clone(),
            format!("{} of {}", all.n_tasks, all.n_tasks_total),
            interval(all.value, all.ci_low, all.ci_high),
        ]
    });
    page.table(
        &["model", "tasks", "macro AUROC"],
        &models.collect::<Vec<_>>(),
    );
    for pair in &output.comparisons {
        page.section(&format!("{} against {}", pair.a, pair.b));
        page.table(&HEAD, &rows(pair));
        page.note(&format!(
            "A = {}, B = {}. {}",
            pair.a,
            pair.b,
            footnote(output)
        ));
        let caption = format!("Above zero: {} is better", pair.a);
        page.figures(&[(forest(pair), caption)]);
    }
    page
}

fn forest(pair: &Pair) -> String {
    let row = |name: &str, d: &uniferum_metrics::AurocDifference, summary| ForestRow {
        name: name.to_owned(),
        value: d.difference,
        ci: d.ci_low.zip(d.ci_high),
        summary,
    };
    let tasks = pair.comparison.tasks.iter();
    let mut rows: Vec<ForestRow> = tasks.map(|t| row(&t.task, &t.difference, false)).collect();
    let all = &pair.comparison.macro_difference.difference;
    rows.push(row("macro average", all, true));
    forest_svg(&rows, &ForestAxis::difference())
}
