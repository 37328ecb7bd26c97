//! Asking a model before judging it: `uniferum evaluate --checkpoint`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use uniferum::report::evaluation::{Judged, add_group, add_masks, mean_auprc, mean_auroc};
use uniferum::report::html::Page;
use uniferum_data::{Dataset, InputSettings, OnError, SkippedScan, Split};
use uniferum_fusion::checkpoint;
use uniferum_kernels::DeviceChoice;
use uniferum_metrics::Bootstrap;
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::{
    GroupReport, Intervals, MaskMetrics, Prediction, RunConfig, ask_scans, judge, open_model,
};

use super::percent;
use crate::commands::check_usable;
use crate::commands::predictions::write_predictions;
use crate::commands::train::read_manifests;
use crate::global::Global;
use crate::output::Format;

/// The heading of the options about models.
pub(super) const HEADING: &str = "Ask a model instead of reading predictions";

/// Asks models of this project in place of reading predictions.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub(super) struct ModelArgs {
    /// Trained model, or the folder that holds it; several are set beside one another. Its predictions are
    /// written as a table, for which `evaluate --predictions` has all the other options. Scans that cannot be
    /// read are left out and listed, and the exit code is then 1
    #[arg(
        long,
        value_name = "PATH",
        requires = "manifest",
        conflicts_with_all = ["ColumnArgs", "ValidationArgs", "StatisticsArgs", "html"]
    )]
    pub(super) checkpoint: Vec<PathBuf>,

    /// Where to compute: auto (a GPU if there is one), cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Table of standardised scans with labels
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,

    /// Split that is asked
    #[arg(long, value_name = "SPLIT", default_value = "test", value_parser = ["train", "val", "test"])]
    split: String,

    /// Group of the catalogue whose column names the tables use
    #[arg(long, value_name = "GROUP", default_value = "ct-rate")]
    group: String,

    /// Task or group to ask [default: all that some scan has an answer for]
    #[arg(long = "ask", value_name = "TASK")]
    asked: Vec<String>,

    /// Folder for predictions, numbers, figures and a page
    #[arg(long, value_name = "DIR", default_value = "evaluation")]
    out: PathBuf,

    /// Write over an earlier evaluation in --out
    #[arg(long, requires = "checkpoint")]
    overwrite: bool,
}

/// The tasks of one group: a collection, or its part that is shared with CT-RATE or unique.
#[derive(Debug, serde::Serialize)]
struct GroupResult {
    group: String,
    #[serde(flatten)]
    report: GroupReport,
}

#[derive(Debug, serde::Serialize)]
struct ModelResult {
    checkpoint: PathBuf,
    /// Those that could be read.
    scans: usize,
    skipped: Vec<SkippedScan>,
    groups: Vec<GroupResult>,
    masks: Vec<MaskMetrics>,
}

pub(super) fn run(
    args: &ModelArgs,
    catalogue: &Catalogue,
    level: f64,
    seed: u64,
    format: Format,
    global: &Global,
) -> anyhow::Result<()> {
    for path in &args.checkpoint {
        check_usable(path)?;
    }
    let numbers = args.out.join("evaluation.json");
    let replaces = numbers.exists();
    ensure!(
        args.overwrite || !replaces,
        "{}: an earlier evaluation; expected another --out, or --overwrite",
        numbers.display()
    );
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;
    let mut results = Vec::new();
    for (number, path) in args.checkpoint.iter().enumerate() {
        let (result, predictions) = args.ask(path, catalogue, level, seed, global)?;
        // Nothing of an earlier evaluation is lost before there are new answers.
        if number == 0 && replaces {
            make_way(&args.out)?;
        }
        write_predictions(&args.out.join(table_name(number + 1)), &predictions)?;
        results.push(result);
    }
    let json = serde_json::to_string_pretty(&results)? + "\n";
    std::fs::write(&numbers, json)?;
    write_numbers(&args.out.join("evaluation.csv"), &results)?;
    write_page(&args.out, &results, level)?;
    format.print(&results, |out, results| print_groups(out, results))?;
    global.hint(format!(
        "written to {}",
        args.out.join("evaluation.html").display()
    ));
    let groups = || results.iter().flat_map(|r| &r.groups);
    let labelled = groups().flat_map(|g| &g.report.tasks);
    let none = !labelled.map(|t| &t.metrics).any(|m| m.n_pos + m.n_neg > 0);
    if none && groups().next().is_some() {
        global.warn("no scan has a label of the tasks that were asked");
    }
    complete(&results, global)
}

const FIGURES: &str = "figures";

/// What a group's figures show; `GROUP-MEASURE.svg`.
const MEASURES: [&str; 2] = ["auroc", "auprc"];

/// Removes the tables and figures of an earlier evaluation, of which there may have been more.
fn make_way(out: &Path) -> anyhow::Result<()> {
    let tables = (1..).map(|number| out.join(table_name(number)));
    let tables: Vec<PathBuf> = tables.take_while(|table| table.exists()).collect();
    let figures = std::fs::read_dir(out.join(FIGURES)).into_iter().flatten();
    let figures = figures.flatten().map(|entry| entry.path());
    let figures = figures.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        MEASURES
            .iter()
            .any(|m| name.ends_with(&format!("-{m}.svg")))
    });
    for file in tables.into_iter().chain(figures) {
        std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// The predictions of a model, counted from 1.
fn table_name(number: usize) -> String {
    format!("predictions-{number}.csv")
}

/// Names the scans that could not be read; the answers about the others are written by then.
fn complete(results: &[ModelResult], global: &Global) -> anyhow::Result<()> {
    let skipped = skipped(results);
    for reason in skipped.values() {
        global.warn(format!("left out: {reason}"));
    }
    let all = results.first().map_or(0, |r| r.scans + r.skipped.len());
    ensure!(
        skipped.is_empty(),
        "{} of {all} scans could not be used",
        skipped.len()
    );
    Ok(())
}

/// Scans that could not be read for some model, and why.
fn skipped(results: &[ModelResult]) -> BTreeMap<&str, &str> {
    let skipped = results.iter().flat_map(|r| &r.skipped);
    skipped
        .map(|s| (s.scan.as_str(), s.reason.as_str()))
        .collect()
}

fn print_groups(out: &mut impl Write, results: &[ModelResult]) -> std::io::Result<()> {
    for result in results {
        writeln!(out, "{}", result.checkpoint.display())?;
        for group in &result.groups {
            writeln!(
                out,
                "  {:20} {:3} tasks  AUROC {}  AUPR {}",
                group.group,
                group.report.macro_auroc.n_tasks,
                mean_auroc(&group.report),
                mean_auprc(&group.report),
            )?;
        }
    }
    Ok(())
}

impl ModelArgs {
    fn ask(
        &self,
        path: &Path,
        catalogue: &Catalogue,
        level: f64,
        seed: u64,
        global: &Global,
    ) -> anyhow::Result<(ModelResult, Vec<Prediction>)> {
        let device = self.device.open()?;
        let model = open_model(path, &device)?;
        let dataset = self.dataset(path, catalogue)?;
        let scans: Vec<usize> = (0..dataset.manifest.scans.len()).collect();
        let bar = global.bar(scans.len() as u64, "asking");
        let ask = model.examiner(&dataset.tasks)?;
        let on_error = OnError::SkipAndReport;
        let answers = ask_scans(&ask, &dataset, &scans, &device, on_error, || bar.inc(1))?;
        bar.finish_and_clear();
        ensure!(
            !answers.predictions.is_empty(),
            "{}: the model has no output for any of the tasks that were asked",
            path.display()
        );
        let bootstrap = Bootstrap {
            seed,
            ..Bootstrap::default()
        };
        let intervals = Intervals {
            level,
            bootstrap: Some(bootstrap),
        };
        let mut groups = Vec::new();
        for (name, tasks) in grouped(&dataset.tasks, catalogue) {
            let group = judge(&tasks, &answers.predictions, &intervals)?;
            if !group.tasks.is_empty() {
                let group = GroupResult {
                    group: name,
                    report: group,
                };
                groups.push(group);
            }
        }
        let result = ModelResult {
            checkpoint: path.to_owned(),
            scans: scans.len() - answers.skipped.len(),
            skipped: answers.skipped,
            groups,
            masks: answers.masks,
        };
        Ok((result, answers.predictions))
    }

    /// The split's scans, prepared as the model was trained on them.
    fn dataset(&self, path: &Path, catalogue: &Catalogue) -> anyhow::Result<Dataset> {
        let mut manifest = read_manifests(&self.manifest, catalogue, &self.group)?;
        let split = match self.split.as_str() {
            "train" => Split::Train,
            "val" => Split::Val,
            _ => Split::Test,
        };
        manifest.scans.retain(|scan| scan.split == split);
        ensure!(
            !manifest.scans.is_empty(),
            "no scan has the split {}",
            self.split
        );
        // Which tasks have answers is asked of training scans.
        let mut answered = manifest.clone();
        for scan in &mut answered.scans {
            scan.split = Split::Train;
        }
        let config = RunConfig {
            tasks: self.asked.clone(),
            ..RunConfig::default()
        };
        let tasks = config.select_tasks(catalogue, &answered)?;
        let input = InputSettings::find(path)?;
        if let Some(input) = &input {
            input.check_prepared(&manifest)?;
        }
        let input = input.unwrap_or_default();
        // A baseline's configuration is of another kind; it has no masks to be cut into patches.
        let own = checkpoint::read_config(path).ok().flatten();
        let patch = own.unwrap_or_default().patch;
        let dataset = Dataset::new(manifest, tasks, input.transform, patch, 0)?;
        Ok(dataset.with_spacing(input.standardise.spacing_mm))
    }
}

/// Label tasks by collection; where a collection has findings of CT-RATE and others, two groups.
fn grouped(tasks: &[Task], catalogue: &Catalogue) -> Vec<(String, Vec<Task>)> {
    let mut groups: Vec<(String, Vec<Task>)> = Vec::new();
    for task in tasks {
        let of_group = tasks.iter().filter(|t| t.group == task.group);
        let shared = of_group.filter(|t| catalogue.is_shared(t)).count();
        let all = tasks.iter().filter(|t| t.group == task.group).count();
        let name = if shared == 0 || shared == all {
            task.group.clone()
        } else if catalogue.is_shared(task) {
            format!("{}-shared", task.group)
        } else {
            format!("{}-unique", task.group)
        };
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, members)) => members.push(task.clone()),
            None => groups.push((name, vec![task.clone()])),
        }
    }
    groups
}

/// The task of the line with a group's means; no id is a word without a dot.
const MEAN: &str = "mean";

fn write_numbers(path: &Path, results: &[ModelResult]) -> anyhow::Result<()> {
    let mut out = csv::Writer::from_path(path).with_context(|| format!("{}", path.display()))?;
    out.write_record([
        "checkpoint",
        "group",
        "task",
        "n_pos",
        "n_neg",
        "auroc",
        "ci_low",
        "ci_high",
        "auprc",
        "auprc_ci_low",
        "auprc_ci_high",
    ])?;
    let number = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
    for result in results {
        let checkpoint = result.checkpoint.display().to_string();
        for group in &result.groups {
            for row in &group.report.tasks {
                let m = &row.metrics;
                out.write_record([
                    checkpoint.clone(),
                    group.group.clone(),
                    m.task.clone(),
                    m.n_pos.to_string(),
                    m.n_neg.to_string(),
                    number(m.auroc),
                    number(m.ci_low),
                    number(m.ci_high),
                    number(m.auprc),
                    number(row.auprc_ci_low),
                    number(row.auprc_ci_high),
                ])?;
            }
            let report = &group.report;
            let all = &report.macro_auroc;
            out.write_record([
                checkpoint.clone(),
                group.group.clone(),
                MEAN.to_owned(),
                String::new(),
                String::new(),
                number(all.value),
                number(all.ci_low),
                number(all.ci_high),
                number(report.macro_auprc),
                number(report.macro_auprc_ci_low),
                number(report.macro_auprc_ci_high),
            ])?;
        }
    }
    Ok(out.flush()?)
}

/// The page, and each figure as a file of its own.
fn write_page(folder: &Path, results: &[ModelResult], level: f64) -> anyhow::Result<()> {
    let mut page = Page::new("Evaluation");
    page.note(&format!(
        "{} intervals, clustered by patient. AUROC: as docs/statistics.md says of few and of many cases; \
         average precision: by bootstrap, and none below ten positive or negative patients.",
        percent(level)
    ));
    let names: Vec<String> = (1..=results.len()).map(|n| format!("model {n}")).collect();
    let facts = names.iter().zip(results);
    let facts = facts.map(|(name, r)| (name.clone(), r.checkpoint.display().to_string()));
    page.facts(&facts.collect::<Vec<_>>());
    let skipped = skipped(results).len();
    if skipped > 0 {
        page.note(&format!(
            "{skipped} scans could not be read and are left out."
        ));
    }
    let mut groups: Vec<&str> = Vec::new();
    for group in results.iter().flat_map(|r| &r.groups) {
        if !groups.contains(&group.group.as_str()) {
            groups.push(&group.group);
        }
    }
    let figures = folder.join(FIGURES);
    std::fs::create_dir_all(&figures).with_context(|| figures.display().to_string())?;
    for group in groups {
        let models: Vec<Judged<'_>> = names
            .iter()
            .zip(results)
            .filter_map(|(model, result)| {
                let found = result.groups.iter().find(|g| g.group == group)?;
                let report = &found.report;
                Some(Judged { model, report })
            })
            .collect();
        page.section(group);
        let plots = add_group(&mut page, &models, &[]);
        for (plot, measure) in plots.iter().zip(MEASURES) {
            let path = figures.join(format!("{group}-{measure}.svg"));
            std::fs::write(&path, plot).with_context(|| path.display().to_string())?;
        }
    }
    for (name, result) in names.iter().zip(results) {
        if results.len() > 1 && !result.masks.is_empty() {
            page.section(name);
        }
        add_masks(&mut page, &result.masks);
    }
    let path = folder.join("evaluation.html");
    page.write(&path)
        .with_context(|| format!("{}", path.display()))
}
