//! `uniferum experiment`: the paper's comparisons on data that everybody can make.

mod collections;
mod plan;
mod results;
mod rows;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use uniferum_data::{Dataset, OnError};
use uniferum_kernels::DeviceChoice;
use uniferum_tasks::Catalogue;
use uniferum_train::{Learner, ask_scans, open_model};

use self::collections::Collections;
use self::plan::Plan;
use self::results::{RowResult, Table};
use self::rows::Row;
use super::claim::claim;
use super::phantoms::{AnyTrainer, Site};
use super::predictions::write_predictions;
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
/// tasks, beside the multi-label baseline, whose encoder the other rows on the same collections start
/// with. Each row is trained, evaluated and written down by itself: a run that was stopped goes on where
/// it was.
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

    /// Steps of every training, instead of the size's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,

    /// Training phantoms of each collection, instead of the size's; a third as many for validation, two
    /// thirds for the test; at least 4. With --steps: how long a size takes here
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(4..))]
    scans: Option<u16>,

    /// Seed of phantoms and training
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Where to compute: auto (a GPU if there is one), cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Size {
    /// Seconds: shows that everything runs, and nothing else
    Tiny,
    /// About 40 minutes on two cores: coarse volumes, a narrow transformer
    Small,
    /// The paper's model, volumes and steps, for a GPU
    Full,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let Experiment::PhantomTable2(args) = args.experiment;
    let mut plan = Plan::new(args.size, args.steps, args.seed);
    if let Some(scans) = args.scans {
        plan.few(scans.into());
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("{}", args.out.display()))?;
    claim(&args.out.join("plan.json"), &plan)?;
    let rows = Row::chosen(&args.row)?;
    let device = args.device.open()?;
    let site = Site {
        catalogue: &Catalogue::standard(),
        device: &device,
        global,
    };
    let experiment = Table2::new(&args.out, &plan, &site)?;
    let mut table = Table::default();
    for row in &rows {
        experiment.row(row)?;
        table = experiment.finished()?;
        table.write(&args.out)?;
    }
    write!(std::io::stdout(), "{}", table.markdown())?;
    global.hint(format!(
        "written to {}",
        args.out.join("table.html").display()
    ));
    Ok(())
}

/// What all rows share.
struct Table2<'a> {
    plan: &'a Plan,
    site: &'a Site<'a>,
    /// A folder a row.
    folder: PathBuf,
    collections: Collections,
    /// The test scans of each collection.
    tests: Vec<Dataset>,
}

impl<'a> Table2<'a> {
    fn new(out: &Path, plan: &'a Plan, site: &'a Site<'a>) -> anyhow::Result<Self> {
        let collections = Collections::write(&out.join("phantoms"), plan, site)?;
        let tests = collections.all.iter();
        let tests = tests.map(|c| c.test(plan, site.catalogue));
        Ok(Self {
            tests: tests.collect::<anyhow::Result<_>>()?,
            folder: out.join("rows"),
            plan,
            site,
            collections,
        })
    }

    /// Every row that is done, by this command or another, in the paper's order.
    fn finished(&self) -> anyhow::Result<Table> {
        let read = |row: Row| RowResult::read(&self.folder.join(row.slug())).transpose();
        let rows = Row::chosen(&[])?.into_iter().filter_map(read);
        Ok(Table {
            rows: rows.collect::<anyhow::Result<_>>()?,
        })
    }

    /// Trains and evaluates a row that was not done before.
    fn row(&self, row: &Row) -> anyhow::Result<()> {
        let folder = self.folder.join(row.slug());
        if RowResult::read(&folder)?.is_some() {
            return Ok(());
        }
        let start = Instant::now();
        let trainer = if row.baseline {
            self.train(row, None)?
        } else {
            let encoder = self.train(&row.encoder(), None)?;
            self.train(row, Some(&encoder))?
        };
        trainer.save_model(&folder.join("model.safetensors"))?;
        let (trained, train) = (start.elapsed(), Instant::now());
        let trained_tasks = self.collections.task_ids(row);
        let mut result = RowResult::new(row, trained_tasks, trainer.state(), &folder)?;
        drop(trainer);
        self.test(&folder, &mut result)?;
        result.write(&folder)?;
        self.site.global.hint(format!(
            "{}: trained in {:.0} s, tested in {:.0} s",
            row.name(),
            trained.as_secs_f64(),
            train.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Trains a row in its folder; at once where that was done before.
    fn train(&self, row: &Row, encoder: Option<&AnyTrainer>) -> anyhow::Result<AnyTrainer> {
        let config = self.plan.run_config(row, &self.collections);
        let tasks = self.collections.tasks_of(row, self.site.catalogue);
        let manifest = self.collections.training(row);
        let dataset = Arc::new(config.dataset(manifest, tasks)?);
        let folder = self.folder.join(row.slug());
        self.site
            .train(&row.name(), &config, &dataset, encoder, &folder)
    }

    /// Asks the row's best model about every collection.
    fn test(&self, folder: &Path, result: &mut RowResult) -> anyhow::Result<()> {
        let Site { device, global, .. } = self.site;
        let best = folder.join("best").join("model.safetensors");
        let model = open_model(if best.is_file() { &best } else { folder }, device)?;
        for (collection, test) in self.collections.all.iter().zip(&self.tests) {
            let scans: Vec<usize> = (0..test.manifest.scans.len()).collect();
            let bar = global.bar(scans.len() as u64, &format!("test {}", collection.name));
            let ask = model.examiner(&test.tasks)?;
            let answers = ask_scans(&ask, test, &scans, device, OnError::Stop, || bar.inc(1))?;
            bar.finish_and_clear();
            result.add(collection, &test.tasks, &answers.predictions)?;
            let name = format!("predictions-{}.csv", collection.name.to_lowercase());
            write_predictions(&folder.join(name), &answers.predictions)?;
        }
        Ok(())
    }
}
