//! `uniferum experiment`: the paper's comparisons on data that everybody can make.

mod collections;
mod plan;
mod results;
mod rows;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use candle_core::Device;
use clap::{Subcommand, ValueEnum};
use uniferum_tasks::Catalogue;
use uniferum_train::{Trainer, open_model};

use self::collections::Collections;
use self::plan::Plan;
use self::results::{RowResult, Table};
use self::rows::Row;
use crate::global::Global;

/// Run one of the paper's experiments on synthetic collections
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    PhantomTable2(Table2Args),
}

/// The rows of Table 2 on three phantom collections with overlapping and unique labels
///
/// Single against combined collections, with and without masks (+SEG), on shared, unique and zero-shot
/// tasks, beside the multi-label baseline. Each row is trained, evaluated and written down by itself: a
/// run that was stopped goes on where it was.
#[derive(Debug, clap::Args)]
struct Table2Args {
    /// Folder for phantoms, runs and tables
    #[arg(long, value_name = "DIR", default_value = "uniferum-table2")]
    out: PathBuf,

    /// How large: phantoms, network, steps
    #[arg(long, value_enum, default_value_t = Size::Small)]
    size: Size,

    /// Only these rows, such as A+C+SEG or CNN:B [default: all]
    #[arg(long, value_name = "ROW")]
    row: Vec<String>,

    /// Steps of every row, instead of the size's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,

    /// Seed of phantoms and training
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// Minutes: shows that everything runs, and nothing else
    Tiny,
    /// About an hour on two cores: coarse volumes, a thin network
    Small,
    /// The paper's model, volumes and steps, for a GPU
    Full,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let Experiment::PhantomTable2(args) = args.experiment;
    let plan = Plan::new(args.size, args.steps, args.seed);
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;
    plan.claim(&args.out)?;
    let rows = Row::chosen(&args.row)?;
    let catalogue = Catalogue::standard();
    let collections = Collections::write(&args.out.join("phantoms"), &plan, &catalogue, global)?;
    let mut table = Table::default();
    for row in &rows {
        let result = one_row(
            &args.out.join("rows"),
            row,
            &plan,
            &collections,
            &catalogue,
            global,
        )?;
        table.rows.push(result);
        table.write(&args.out)?;
    }
    print!("{}", table.markdown());
    global.hint(format!(
        "written to {}",
        args.out.join("table.html").display()
    ));
    Ok(())
}

/// Trains and evaluates a row that was not done before.
fn one_row(
    folder: &std::path::Path,
    row: &Row,
    plan: &Plan,
    collections: &Collections,
    catalogue: &Catalogue,
    global: &Global,
) -> anyhow::Result<RowResult> {
    let folder = folder.join(row.slug());
    if let Some(done) = RowResult::read(&folder)? {
        return Ok(done);
    }
    let config = plan.run_config(row, collections);
    let device = Device::Cpu;
    let tasks = collections.tasks_of(row, catalogue);
    let manifest = collections.training(row);
    let dataset = Arc::new(config.dataset(manifest, tasks)?);
    let mut trainer: Trainer<_> = config.trainer(catalogue, &dataset, &device)?;
    let done = trainer.resume_in(&folder)?;
    let bar = global.bar(config.train.steps, &row.name());
    bar.set_position(done);
    trainer.run(&config.loader(&dataset, &device), |p| {
        bar.set_position(p.step);
        bar.set_message(format!(
            "loss {:.3}, {:.2} scans/s",
            p.loss, p.samples_per_second
        ));
    })?;
    bar.finish_and_clear();
    trainer.save_model(&folder.join("model.safetensors"))?;
    let best = folder.join("best").join("model.safetensors");
    let model = open_model(if best.is_file() { &best } else { &folder }, &device)?;
    let mut result = RowResult::new(row, config.tasks.clone(), trainer.state(), &folder)?;
    for collection in &collections.all {
        let test = collections.test(collection, &config, catalogue)?;
        let scans: Vec<usize> = (0..test.manifest.scans.len()).collect();
        let bar = global.bar(scans.len() as u64, &format!("test {}", collection.name));
        let ask = model.examiner(&test.tasks)?;
        let report = uniferum_train::evaluate_with(&ask, &test, &scans, &device, || bar.inc(1))?;
        bar.finish_and_clear();
        result.add(collection, &test.tasks, &report.predictions)?;
    }
    result.write(&folder)?;
    Ok(result)
}
