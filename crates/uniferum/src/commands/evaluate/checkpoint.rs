//! Asking a model before judging it: `uniferum evaluate --checkpoint`.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use uniferum::report::html::Page;
use uniferum::report::plots::{ForestAxis, ForestRow, forest_svg};
use uniferum_data::{Dataset, InputSettings, Split};
use uniferum_fusion::checkpoint;
use uniferum_kernels::DeviceChoice;
use uniferum_metrics::{
    Bootstrap, EvaluateOptions, MacroAuroc, TaskColumn, TaskDetails, TaskMetrics, cluster_ids,
    describe_task, evaluate_tasks,
};
use uniferum_tasks::{Catalogue, Task};
use uniferum_train::{MaskMetrics, Prediction, RunConfig, evaluate_with, open_model};

use super::interval;
use crate::commands::train::read_manifests;
use crate::global::Global;

/// Asks models of this project in place of reading predictions.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Ask a model instead of reading predictions")]
pub(super) struct ModelArgs {
    /// Trained model, or the folder that holds it; several are set beside one another
    #[arg(
        long,
        value_name = "PATH",
        requires = "manifest",
        conflicts_with = "predictions"
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

    /// Add tasks from a file of your own (JSON)
    #[arg(long, value_name = "FILE")]
    tasks_file: Option<PathBuf>,

    /// Folder for predictions, numbers, figures and a page
    #[arg(long, value_name = "DIR", default_value = "evaluation")]
    out: PathBuf,
}

/// A task's numbers, average precision with its interval.
#[derive(Debug, serde::Serialize)]
struct TaskRow {
    #[serde(flatten)]
    metrics: TaskMetrics,
    auprc_ci_low: Option<f64>,
    auprc_ci_high: Option<f64>,
}

/// The tasks of one group: a collection, or its part that is shared with CT-RATE or unique.
#[derive(Debug, serde::Serialize)]
struct GroupResult {
    group: String,
    #[serde(rename = "macro")]
    macro_auroc: MacroAuroc,
    /// Mean average precision of the tasks in which it is defined.
    macro_auprc: Option<f64>,
    tasks: Vec<TaskRow>,
}

#[derive(Debug, serde::Serialize)]
struct ModelResult {
    checkpoint: PathBuf,
    scans: usize,
    groups: Vec<GroupResult>,
    masks: Vec<MaskMetrics>,
}

pub(super) fn run(args: &ModelArgs, level: f64, seed: u64, global: &Global) -> anyhow::Result<()> {
    let mut catalogue = Catalogue::standard();
    if let Some(file) = &args.tasks_file {
        catalogue.add_file(file)?;
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;
    let mut results = Vec::new();
    for (number, path) in args.checkpoint.iter().enumerate() {
        let (result, predictions) = args.ask(path, &catalogue, level, seed, global)?;
        let name = format!("predictions-{}.csv", number + 1);
        write_predictions(&args.out.join(name), &predictions)?;
        results.push(result);
    }
    let json = serde_json::to_string_pretty(&results)? + "\n";
    std::fs::write(args.out.join("evaluation.json"), json)?;
    write_numbers(&args.out.join("evaluation.csv"), &results)?;
    write_page(&args.out, &results, level)?;
    for result in &results {
        println!("{}", result.checkpoint.display());
        for group in &result.groups {
            let all = &group.macro_auroc;
            println!(
                "  {:20} {:3} tasks  AUROC {}  AUPR {}",
                group.group,
                all.n_tasks,
                interval(all.value, all.ci_low, all.ci_high),
                group
                    .macro_auprc
                    .map_or("undefined".into(), |v| format!("{v:.3}")),
            );
        }
    }
    global.hint(format!(
        "written to {}",
        args.out.join("evaluation.html").display()
    ));
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
        let report = evaluate_with(&ask, &dataset, &scans, &device, || bar.inc(1))?;
        bar.finish_and_clear();
        let mut groups = Vec::new();
        for (name, tasks) in grouped(&dataset.tasks, catalogue) {
            let result = judge(name, &tasks, &report.predictions, level, seed)?;
            groups.extend(result);
        }
        let result = ModelResult {
            checkpoint: path.to_owned(),
            scans: scans.len(),
            groups,
            masks: report.masks,
        };
        Ok((result, report.predictions))
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
        let transform = InputSettings::beside(path)?.transform;
        // A baseline's configuration is of another kind; it has no masks to be cut into patches.
        let own = checkpoint::read_config(path).ok().flatten();
        let patch = own.unwrap_or_default().patch;
        Ok(Dataset::new(manifest, tasks, transform, patch, 0)?)
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

/// The numbers of a group; none for masks and for tasks that the model has no answer to.
fn judge(
    group: String,
    tasks: &[Task],
    predictions: &[Prediction],
    level: f64,
    seed: u64,
) -> anyhow::Result<Option<GroupResult>> {
    let of = |task: &Task| -> Vec<&Prediction> {
        let labels = predictions.iter().filter(|p| p.task == task.id);
        labels
            .filter(|p| p.kind != uniferum_tasks::TaskKind::Segmentation)
            .collect()
    };
    let asked: Vec<(&Task, Vec<&Prediction>)> = tasks.iter().map(|t| (t, of(t))).collect();
    let asked: Vec<_> = asked.into_iter().filter(|(_, p)| !p.is_empty()).collect();
    let Some((_, first)) = asked.first() else {
        return Ok(None);
    };
    let patients: Vec<String> = first.iter().map(|p| p.patient.clone()).collect();
    let clusters = cluster_ids(&patients);
    let scores: Vec<Vec<f64>> = asked
        .iter()
        .map(|(_, rows)| rows.iter().map(|p| p.logit).collect())
        .collect();
    let labels: Vec<Vec<Option<bool>>> = asked
        .iter()
        .map(|(_, rows)| rows.iter().map(|p| p.label).collect())
        .collect();
    let columns: Vec<TaskColumn<'_>> = asked
        .iter()
        .zip(scores.iter().zip(&labels))
        .map(|((task, _), (scores, labels))| TaskColumn {
            task: &task.id,
            scores,
            labels,
        })
        .collect();
    let options = EvaluateOptions {
        level,
        clusters: Some(&clusters),
        ..Default::default()
    };
    let evaluation = evaluate_tasks(&columns, &options)?;
    let bootstrap = Bootstrap {
        seed,
        level,
        ..Default::default()
    };
    let detail = uniferum_metrics::DetailOptions {
        bootstrap: Some(bootstrap),
        ..Default::default()
    };
    let mut rows = Vec::new();
    for (metrics, column) in evaluation.tasks.into_iter().zip(&columns) {
        let details: TaskDetails = describe_task(column, &options, &detail)?;
        rows.push(TaskRow {
            metrics,
            auprc_ci_low: details.auprc_ci_low,
            auprc_ci_high: details.auprc_ci_high,
        });
    }
    let defined: Vec<f64> = rows.iter().filter_map(|r| r.metrics.auprc).collect();
    let mean = defined.iter().sum::<f64>() / defined.len() as f64;
    Ok(Some(GroupResult {
        group,
        macro_auroc: evaluation.macro_auroc,
        macro_auprc: (!defined.is_empty()).then_some(mean),
        tasks: rows,
    }))
}

fn write_predictions(path: &Path, predictions: &[Prediction]) -> anyhow::Result<()> {
    let mut out = csv::Writer::from_path(path).with_context(|| format!("{}", path.display()))?;
    out.write_record(["scan", "patient", "task", "label", "logit", "score"])?;
    for p in predictions {
        let label = p.label.map_or("", |l| if l { "1" } else { "0" });
        let (logit, score) = (p.logit.to_string(), p.probability.to_string());
        out.write_record([&p.scan, &p.patient, &p.task, label, &logit, &score])?;
    }
    Ok(out.flush()?)
}

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
            for row in &group.tasks {
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
        }
    }
    Ok(out.flush()?)
}

/// The page, and each figure as a file of its own.
fn write_page(folder: &Path, results: &[ModelResult], level: f64) -> anyhow::Result<()> {
    let mut page = Page::new("Evaluation");
    page.note(&format!(
        "Intervals of {} %. AUROC: by DeLong's variance, clustered by patient; average precision: by \
         bootstrap.",
        100.0 * level
    ));
    let mut names: Vec<&str> = Vec::new();
    for group in results.iter().flat_map(|r| &r.groups) {
        if !names.contains(&group.group.as_str()) {
            names.push(&group.group);
        }
    }
    let figures = folder.join("figures");
    std::fs::create_dir_all(&figures)?;
    for name in names {
        let of: Vec<(usize, &GroupResult)> = results
            .iter()
            .enumerate()
            .flat_map(|(i, r)| r.groups.iter().map(move |g| (i + 1, g)))
            .filter(|(_, g)| g.group == name)
            .collect();
        page.section(name).table(&HEAD, &table_rows(&of));
        let (auroc, auprc) = (forest(&of, false), forest(&of, true));
        std::fs::write(figures.join(format!("{name}-auroc.svg")), &auroc)?;
        std::fs::write(figures.join(format!("{name}-auprc.svg")), &auprc)?;
        let captions = ["AUROC", "Average precision"].map(str::to_owned);
        let [first, second] = captions;
        page.figures(&[(auroc, first), (auprc, second)]);
    }
    page.section("Models");
    let facts: Vec<(String, String)> = results
        .iter()
        .enumerate()
        .map(|(i, r)| {
            (
                format!("model {}", i + 1),
                r.checkpoint.display().to_string(),
            )
        })
        .collect();
    page.facts(&facts);
    let path = folder.join("evaluation.html");
    page.write(&path)
        .with_context(|| format!("{}", path.display()))
}

const HEAD: [&str; 6] = ["model", "task", "positive", "negative", "AUROC", "AUPR"];

fn table_rows(groups: &[(usize, &GroupResult)]) -> Vec<Vec<String>> {
    let rows = groups.iter().flat_map(|(model, group)| {
        let tasks = group.tasks.iter().map(move |row| {
            let m = &row.metrics;
            vec![
                model.to_string(),
                m.task.clone(),
                m.n_pos.to_string(),
                m.n_neg.to_string(),
                interval(m.auroc, m.ci_low, m.ci_high),
                interval(m.auprc, row.auprc_ci_low, row.auprc_ci_high),
            ]
        });
        let all = &group.macro_auroc;
        let mean = vec![
            model.to_string(),
            format!("mean of {}", all.n_tasks),
            String::new(),
            String::new(),
            interval(all.value, all.ci_low, all.ci_high),
            interval(group.macro_auprc, None, None),
        ];
        tasks.chain([mean])
    });
    rows.collect()
}

fn forest(groups: &[(usize, &GroupResult)], precision: bool) -> String {
    let several = groups.len() > 1;
    let named = |name: &str, model: usize| {
        let short = name.split_once('.').map_or(name, |(_, short)| short);
        if several {
            format!("{short} ({model})")
        } else {
            short.to_owned()
        }
    };
    let mut rows: Vec<ForestRow> = Vec::new();
    for (model, group) in groups {
        for row in &group.tasks {
            let m = &row.metrics;
            let (value, low, high) = if precision {
                (m.auprc, row.auprc_ci_low, row.auprc_ci_high)
            } else {
                (m.auroc, m.ci_low, m.ci_high)
            };
            rows.push(ForestRow {
                name: named(&m.task, *model),
                value,
                ci: low.zip(high),
                summary: false,
            });
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows.extend(groups.iter().map(|(model, group)| {
        let all = &group.macro_auroc;
        let (value, ci) = if precision {
            (group.macro_auprc, None)
        } else {
            (all.value, all.ci_low.zip(all.ci_high))
        };
        ForestRow {
            name: named("mean", *model),
            value,
            ci,
            summary: true,
        }
    }));
    let axis = if precision {
        ForestAxis {
            label: "Average precision".into(),
            reference: None,
            ..ForestAxis::auroc()
        }
    } else {
        ForestAxis::auroc()
    };
    forest_svg(&rows, &axis)
}
