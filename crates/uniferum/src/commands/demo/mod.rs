//! `uniferum demo`: the whole path in one command, from nothing to a report.

mod plan;
mod report;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use candle_core::Device;
use uniferum::Predictor;
use uniferum::report::evaluation::mean_auroc;
use uniferum_data::{Dataset, Manifest, Split};
use uniferum_metrics::Bootstrap;
use uniferum_tasks::Catalogue;
use uniferum_train::{EvaluationReport, Intervals};

use crate::commands::claim::claim;
use crate::commands::phantoms::{AnyTrainer, Site, cohort, labels, standardised};
use crate::commands::predictions::write_predictions;
use crate::global::Global;
use plan::Plan;

/// Make synthetic chest CTs, train the model on them, and report how well it answers
///
/// Needs no download. Writes a labelled cohort of phantoms as NIfTI, standardises it, warms
/// the image encoder up on the labels, trains the whole model on findings, an outcome and organ masks
/// mixed in one batch, asks it about phantoms that it has not seen, and leaves model.safetensors,
/// predictions.csv, metrics.json and report.html.
/// A run that was stopped goes on where it was when the same command is given again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder for everything that is made
    #[arg(long, value_name = "DIR", default_value = "uniferum-demo")]
    out: PathBuf,

    /// Phantoms, of which a quarter is kept for the test; at least 10
    #[arg(long, value_name = "N", default_value_t = 900, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    scans: u32,

    /// Training steps of the whole model
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,

    /// Seed of phantoms, weights and training
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let start = Instant::now();
    let plan = Plan::new(args.scans as usize, args.steps, args.seed);
    let out = args.out.as_path();
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    claim(&out.join("demo.json"), &plan)?;
    let raw = out.join("phantoms");
    let table = cohort(
        &raw,
        plan.scans,
        plan.seed,
        &plan.phantom,
        "phantoms",
        global,
    )?;
    let prepared = out.join("standardised");
    let settings = &plan.input.standardise;
    let table = standardised(&table, &prepared, settings, "standardise", global)?;
    let site = Site {
        catalogue: &Catalogue::standard(),
        device: &Device::Cpu,
        global,
    };
    let manifest = Manifest::read(&table, site.catalogue, "phantom")?;
    let (trainer, dataset) = train(out, &plan, manifest, &site)?;
    let evaluation = test(&trainer, &dataset, global)?;
    leave(out, &plan, &trainer, &dataset, &evaluation)?;
    tell(out, &evaluation, start, global)
}

/// Trains the encoder, then the model.
fn train(
    out: &Path,
    plan: &Plan,
    manifest: Manifest,
    site: &Site<'_>,
) -> anyhow::Result<(AnyTrainer, Arc<Dataset>)> {
    let [alone, whole] = plan.runs();
    let tasks = plan.tasks(site.catalogue);
    let labelled = Arc::new(alone.dataset(manifest.clone(), labels(&tasks))?);
    let encoder = site.train("encoder", &alone, &labelled, None, &out.join("encoder"))?;
    let dataset = Arc::new(whole.dataset(manifest, tasks)?);
    let loader = whole.loader(&dataset, site.device);
    let (summary, steps) = loader.summary();
    let epochs = plan.train.steps as f64 / steps as f64;
    site.global.hint(format!(
        "{} scans, {epochs:.1} epochs of {steps} steps; an epoch asks\n  {}",
        loader.scans.len(),
        summary.join("\n  ")
    ));
    let run = out.join("run");
    let trainer = site.train("training", &whole, &dataset, Some(&encoder), &run)?;
    Ok((trainer, dataset))
}

fn test(
    trainer: &AnyTrainer,
    dataset: &Dataset,
    global: &Global,
) -> anyhow::Result<EvaluationReport> {
    let scans = dataset.manifest.of(Split::Test);
    let bar = global.bar(scans.len() as u64, "testing");
    let intervals = Intervals {
        bootstrap: Some(Bootstrap::default()),
        ..Intervals::default()
    };
    let report = trainer.evaluate(dataset, &scans, &intervals, || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(report)
}

/// Writes what the demonstration is for.
fn leave(
    out: &Path,
    plan: &Plan,
    trainer: &AnyTrainer,
    dataset: &Dataset,
    evaluation: &EvaluationReport,
) -> anyhow::Result<()> {
    let weights = out.join("model.safetensors");
    trainer.save_model(&weights)?;
    write_predictions(&out.join("predictions.csv"), &evaluation.predictions)?;
    report::write_metrics(&out.join("metrics.json"), evaluation)?;
    let log = report::read_log(&out.join("run").join("log.jsonl"))?;
    let story = report::Story {
        plan,
        parameters: trainer.parameters(),
        train_scans: dataset.manifest.of(Split::Train).len(),
        test_scans: &dataset.manifest.of(Split::Test),
        log: &log,
    };
    // The page shows what a user of the written checkpoint would get.
    let tokenizer = out.join("tokenizer.json");
    let predictor = Predictor::load(&weights, tokenizer, &Device::Cpu)?;
    let page = out.join("report.html");
    report::write_page(&page, &story, evaluation, &predictor, dataset)
}

fn tell(
    out: &Path,
    evaluation: &EvaluationReport,
    start: Instant,
    global: &Global,
) -> anyhow::Result<()> {
    let seconds = start.elapsed().as_secs_f64();
    let mut stdout = std::io::stdout().lock();
    writeln!(
        stdout,
        "macro AUROC {} over {} tasks on unseen phantoms",
        mean_auroc(&evaluation.labels),
        evaluation.labels.macro_auroc.n_tasks
    )?;
    let page = out.join("report.html");
    writeln!(stdout, "report      {}", page.display())?;
    global.hint(format!("finished in {seconds:.0} s"));
    Ok(())
}
