//! `uniferum train`: from a manifest and a configuration to weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use uniferum_data::hub::{Hub, Progress};
use uniferum_data::{Manifest, Split};
use uniferum_kernels::DeviceChoice;
use uniferum_tasks::Catalogue;
use uniferum_train::distributed::Launch;
use uniferum_train::{Init, Learner, RunConfig, Trainer, latest_checkpoint};

use crate::global::Global;

/// Train a model on labels and masks together
///
/// The configuration (TOML or JSON) is the paper's recipe where it says nothing else; see
/// --print-config. The folder gets the resolved configuration, logs for people and for TensorBoard,
/// checkpoints, the best model by macro AUROC on the validation split, and the last one. A run that was
/// stopped at any moment goes on with --resume and ends in the same weights.
///
/// Published weights that [init] names by repository (the paper's recipe does) are taken from the Hugging
/// Face cache, and downloaded into it first where they are missing. HF_HUB_OFFLINE=1 forbids that; HF_HOME,
/// HF_ENDPOINT and HF_TOKEN mean what they mean elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration [default: the paper's recipe]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Table of standardised scans with splits, masks and labels; several are one collection
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    manifest: Vec<PathBuf>,

    /// Group of the catalogue whose column names the tables use; task ids are always understood
    #[arg(long, value_name = "GROUP", default_value = "ct-rate")]
    group: String,

    /// Add tasks from a file of your own (JSON or TOML)
    #[arg(long, value_name = "FILE")]
    tasks_file: Option<PathBuf>,

    /// Folder of the run
    #[arg(long, value_name = "DIR", required_unless_present = "print_config")]
    out: Option<PathBuf>,

    /// Go on where a run in this folder was stopped
    #[arg(long)]
    resume: bool,

    /// Start from random weights, whatever the configuration says
    #[arg(long)]
    from_scratch: bool,

    /// Seed of sampling, augmentation, fresh weights and dropout
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where to compute: auto (a GPU if there is one, with several processes one each), cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,

    /// Print a configuration with all its settings, and do nothing else
    #[arg(long, value_enum, value_name = "RECIPE", num_args = 0..=1, default_missing_value = "uniferum")]
    print_config: Option<Recipe>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Recipe {
    /// The paper's model
    Uniferum,
    /// The paper's multi-label baseline
    Baseline,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let config = configuration(&args)?;
    if args.print_config.is_some() {
        print!("{}", config.to_toml()?);
        return Ok(());
    }
    let out = args.out.as_deref().context("--out is missing")?;
    ensure!(
        args.resume || latest_checkpoint(out).is_none(),
        "{} holds a run already: go on with --resume, or choose another folder",
        out.display()
    );
    config.validate()?;
    let launch = Launch::from_env()?;
    let device = args.device.open_for(launch.local_rank)?;
    let mut catalogue = Catalogue::standard();
    if let Some(file) = &args.tasks_file {
        catalogue.add_file(file)?;
    }
    let manifest = read_manifests(&args.manifest, &catalogue, &args.group)?;
    let tasks = config.select_tasks(&catalogue, &manifest)?;
    let dataset = Arc::new(config.dataset(manifest, tasks)?);
    fetch(&config.init, global)?;
    let mut trainer = config.trainer(&catalogue, &dataset, &device)?;
    trainer.join(launch.join(&device)?)?;
    let done = trainer.resume_in(out)?;
    let first = launch.rank == 0;
    if first {
        let path = out.join("config.toml");
        std::fs::write(&path, config.to_toml()?).with_context(|| format!("{}", path.display()))?;
    }
    let loader = config.loader(&dataset, &device);
    if first {
        announce(&trainer, &loader.summary(), &dataset.manifest, global);
    }
    let steps = config.train.steps;
    let bar = global.bar(steps, "training");
    bar.set_position(done);
    trainer.run(&loader, |p| {
        bar.set_position(p.step);
        let part = |name: &str, loss: Option<f32>| {
            loss.map_or(String::new(), |loss| format!(" {name} {loss:.3}"))
        };
        let memory = |name: &str, mib: Option<f64>| {
            mib.map_or(String::new(), |m| format!(", {name} {m:.0} MiB"))
        };
        let (own, gpu) = (memory("RAM", p.memory_mib), memory("GPU", p.gpu_memory_mib));
        let (labels, masks) = (part("labels", p.label_loss), part("masks", p.mask_loss));
        let pace = p.samples_per_second;
        bar.set_message(format!(
            "loss {:.3}{labels}{masks}, {pace:.2} scans/s{own}{gpu}",
            p.loss
        ));
    })?;
    bar.finish_and_clear();
    if first {
        finish(&trainer, out, global)?;
    }
    Ok(())
}

/// Published weights that are not here yet, with a bar for each file.
fn fetch(init: &Init, global: &Global) -> anyhow::Result<()> {
    let mut current = (String::new(), ProgressBar::hidden());
    let mut show = |p: &Progress<'_>| {
        if current.0 != p.file {
            current.1.finish_and_clear();
            current = (p.file.to_owned(), global.bytes(p.total, p.file));
        }
        current.1.set_position(p.done);
    };
    let done = init.fetch(&Hub::from_env(), &mut show);
    current.1.finish_and_clear();
    Ok(done?)
}

fn configuration(args: &Args) -> anyhow::Result<RunConfig> {
    let mut config = match (&args.config, args.print_config) {
        (Some(path), _) => RunConfig::read(path)?,
        (None, Some(Recipe::Baseline)) => RunConfig::baseline(),
        (None, _) => RunConfig::default(),
    };
    if args.from_scratch {
        config.init = Init::none();
    }
    if let Some(seed) = args.seed {
        config.train.seed = seed;
    }
    Ok(config)
}

/// The scans of all tables.
pub(crate) fn read_manifests(
    paths: &[PathBuf],
    catalogue: &Catalogue,
    group: &str,
) -> anyhow::Result<Manifest> {
    let mut all = Manifest::default();
    for path in paths {
        all.scans
            .extend(Manifest::read(path, catalogue, group)?.scans);
    }
    Ok(all)
}

fn announce(
    trainer: &Trainer<Box<dyn Learner>>,
    (summary, steps): &(Vec<String>, usize),
    manifest: &Manifest,
    global: &Global,
) {
    let count = |split| manifest.of(split).len();
    let parameters = trainer.parameters() as f64 / 1e6;
    global.hint(format!(
        "{} training and {} validation scans; {parameters:.1} million trained parameters; an epoch \
         has {steps} steps",
        count(Split::Train),
        count(Split::Val),
    ));
    for line in summary {
        global.hint(format!("  {line}"));
    }
    if count(Split::Val) == 0 {
        global.warn("no scan has the split val: no best model is chosen, the last one counts");
    }
}

fn finish(trainer: &Trainer<Box<dyn Learner>>, out: &Path, global: &Global) -> anyhow::Result<()> {
    trainer.save_model(&out.join("model.safetensors"))?;
    trainer.learner().export_adapter(&out.join("adapter"))?;
    let state = trainer.state();
    if state.stopped {
        global.hint(format!("stopped early after {} steps", state.step));
    }
    match state.best {
        Some(best) => println!(
            "best macro AUROC {:.4} at step {}: {}",
            best.macro_auroc,
            best.step,
            out.join("best").join("model.safetensors").display()
        ),
        None => println!("{}", out.join("model.safetensors").display()),
    }
    Ok(())
}
