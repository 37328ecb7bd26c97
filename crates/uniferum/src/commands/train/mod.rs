//! `uniferum train`: from a manifest and a configuration to weights.

mod announce;
mod folder;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use indicatif::ProgressBar;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use uniferum_ct::replace_atomically;
use uniferum_data::hub::{Hub, Progress};
use uniferum_data::{Loader, Manifest};
use uniferum_kernels::DeviceChoice;
use uniferum_tasks::Catalogue;
use uniferum_train::distributed::Launch;
use uniferum_train::{Init, RunConfig, latest_checkpoint};

use self::announce::{announce, tell_absent};
use self::folder::{CONFIG, check_folder};
use super::lock::lock;
use super::phantoms::AnyTrainer;
use super::tasks_file::TasksFile;
use crate::global::Global;
use crate::progress::time_left;

/// Train a model on labels and masks together
///
/// The configuration (TOML or JSON) is the paper's recipe where it says nothing else; see
/// --print-config. The folder gets the resolved configuration, logs for people and for TensorBoard,
/// checkpoints, the best model by macro AUROC on the validation split, and the last one. A run that was
/// stopped at any moment goes on with --resume and ends in the same weights, with as many threads. Ctrl-C and
/// SIGTERM end a run behind the step that is being taken, with a checkpoint; a second one ends it at once.
/// best/model.safetensors is the best model, model.safetensors the last, adapter/ holds LoRA's weights alone.
///
/// Published weights that [init] names by repository (the paper's recipe does) are taken from the Hugging
/// Face cache, and downloaded into it first where they are missing. HF_HUB_OFFLINE=1 forbids that; HF_HOME,
/// HF_ENDPOINT and HF_TOKEN mean what they mean elsewhere.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Configuration [default: the paper's recipe; with --resume the run's own config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Table of standardised scans with splits, masks and labels; several are one collection
    #[arg(long, value_name = "FILE", required_unless_present = "print_config")]
    manifest: Vec<PathBuf>,

    /// Group of the catalogue whose column names the tables use; task ids are always understood
    #[arg(long, value_name = "GROUP", default_value = "ct-rate")]
    group: String,

    #[command(flatten)]
    tasks_file: TasksFile,

    /// Folder of the run
    #[arg(long, value_name = "DIR", required_unless_present_any = ["print_config", "dry_run"])]
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

    /// Check configuration, tables and tasks, print what an epoch asks, and stop before first weights are read;
    /// with --resume the run's checkpoint is read and compared
    #[arg(long)]
    dry_run: bool,

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

/// Settings that have no line in a printed configuration, since they are off.
const OFF: &str = "\
# Off, and therefore without a line below:
#   [init]       checkpoint = \"model.safetensors\"    # in place of vision and text
#   [train]      ema_decay = 0.999, early_stop = 3    # validations without a better macro AUROC
#   [train.lora] rank = 8, alpha = 16.0               # with freeze = \"bert\"
# schedule: { kind = \"linear\" }, { kind = \"constant\" } or { kind = \"plateau\" }; precision: \"f32\", or \"bf16\" on a GPU;
# model.kind: \"uniferum\", or \"baseline\" (--print-config baseline)
";

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let config = configuration(&args)?;
    if args.print_config.is_some() {
        write!(std::io::stdout(), "{OFF}{}", config.to_toml()?)?;
        return Ok(());
    }
    if let Some(out) = &args.out {
        check_folder(out, &args, global)?;
    }
    config.validate()?;
    let (config, first_weights) = with_network(config, &args)?;
    let launch = Launch::from_env()?;
    let device = args.device.open_for(launch.local_rank)?;
    let valid = config.train.validate_for(&device, launch.world);
    match launch.world {
        1 => valid?,
        world => valid.with_context(|| {
            format!(
                "one of {world} processes, as the variables of mpirun, srun, torchrun or Slurm say"
            )
        })?,
    }
    let catalogue = args.tasks_file.catalogue()?;
    let manifest = read_manifests(&args.manifest, &catalogue, &args.group)?;
    config.input.check_prepared(&manifest)?;
    let tasks = config.select_tasks(&catalogue, &manifest)?;
    let dataset = Arc::new(config.dataset(manifest, tasks)?);
    let loader = config.loader(&dataset, &device);
    let first = launch.rank == 0;
    if first {
        announce(&config, &loader, global)?;
    }
    if args.dry_run {
        tell_absent(&first_weights.init, global);
        let begun = |out: &&Path| args.resume && latest_checkpoint(out).is_some();
        let Some(out) = args.out.as_deref().filter(begun) else {
            return Ok(());
        };
        let mut trainer = first_weights.trainer(&catalogue, &dataset, &device)?;
        trainer.read_latest(out)?;
        return trainer
            .check(&loader)
            .with_context(|| out.display().to_string());
    }
    let out = args.out.as_deref().context("--out is missing")?;
    let _lock = first.then(|| lock(out, ".lock", "trains")).transpose()?;
    fetch(&first_weights.init, global)?;
    let mut trainer = first_weights.trainer(&catalogue, &dataset, &device)?;
    trainer.join(launch.join(&device)?)?;
    trainer.set_stop(stop_on_signal()?);
    let result = train(&mut trainer, &config, &loader, out, first, global);
    if let Err(error) = &result
        && launch.world > 1
    {
        // Its message is lost and the job hangs if it merely returns: MPI ends when all processes end it, and
        // these wait for this one in their next sum.
        eprintln!("error: {}", crate::one_line(error));
        let elsewhere = error.downcast_ref::<uniferum_train::Error>();
        if matches!(elsewhere, Some(uniferum_train::Error::Elsewhere { .. })) {
            // The one that knows more speaks, and ends the others.
            std::thread::sleep(Duration::from_secs(2));
        }
        trainer.abort();
    }
    result
}

/// The run with the network of its first weights, and with the weights to begin with now: those of a run that
/// goes on are its own, and what it began with may be gone.
fn with_network(config: RunConfig, args: &Args) -> anyhow::Result<(RunConfig, RunConfig)> {
    let out = args.out.as_deref().filter(|_| args.resume);
    let Some(checkpoint) = out.and_then(latest_checkpoint) else {
        let config = config.resolved()?;
        return Ok((config.clone(), config));
    };
    let now = config.clone().resumed(&checkpoint).resolved()?;
    let config = RunConfig {
        model: now.model.clone(),
        ..config
    };
    Ok((config, now))
}

/// A flag that is set by Ctrl-C and by the end that a batch system asks for; the second ends at once.
fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// What can be done about a scan that stopped a run.
fn with_remedy(error: uniferum_train::Error) -> anyhow::Error {
    let of_scan = matches!(
        error,
        uniferum_train::Error::Data(uniferum_data::Error::Scan { .. })
    );
    let error = anyhow::Error::from(error);
    if !of_scan {
        return error;
    }
    let remedy = "on_error = \"skip-and-report\" in the configuration leaves such scans out, also with --resume";
    anyhow::anyhow!("{}; {remedy}", crate::one_line(&error))
}

/// From the first step, or the newest checkpoint, to the files of a finished run.
fn train(
    trainer: &mut AnyTrainer,
    config: &RunConfig,
    loader: &Loader,
    out: &Path,
    first: bool,
    global: &Global,
) -> anyhow::Result<()> {
    let done = trainer.resume_in(out)?;
    // A run that is refused keeps its configuration.
    trainer.check(loader)?;
    if first {
        let path = out.join(CONFIG);
        let text = config.to_toml()?;
        replace_atomically(&path, ".part", |part| std::fs::write(part, text))
            .with_context(|| path.display().to_string())?;
        if done > 0 {
            global.hint(format!("going on after step {done}"));
        }
        let parameters = trainer.parameters() as f64 / 1e6;
        global.hint(format!("{parameters:.1} million trained parameters"));
    }
    let steps = config.train.steps;
    let bar = if first {
        global.steps(steps, "training")
    } else {
        ProgressBar::hidden()
    };
    bar.set_position(done);
    let trained = trainer.run(loader, |p| {
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
            "{}, loss {:.3}{labels}{masks}, {pace:.2} scans/s{own}{gpu}",
            time_left(p.eta_seconds),
            p.loss
        ));
    });
    bar.finish_and_clear();
    trained.map_err(with_remedy)?;
    let step = trainer.state().step;
    ensure!(
        !first || !trainer.interrupted() || step == steps,
        "stopped by a signal after step {step} of {steps}, which is saved: go on with --resume"
    );
    if first {
        finish(trainer, out, global)?;
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
    let own = args.out.as_deref().filter(|_| args.resume);
    let own = own
        .map(|out| out.join(CONFIG))
        .filter(|path| path.is_file());
    let mut config = match (args.config.as_ref().or(own.as_ref()), args.print_config) {
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

/// The scans of all tables, which must agree about those that stand in several.
pub(crate) fn read_manifests(
    paths: &[PathBuf],
    catalogue: &Catalogue,
    group: &str,
) -> anyhow::Result<Manifest> {
    let read = |path| Manifest::read(path, catalogue, group);
    let parts: Vec<Manifest> = paths.iter().map(read).collect::<Result<_, _>>()?;
    let all = Manifest::merge(parts)?;
    match all.leaks().into_iter().next() {
        Some(leak) => bail!("the tables together: {}", leak.what),
        None => Ok(all),
    }
}

fn finish(trainer: &AnyTrainer, out: &Path, global: &Global) -> anyhow::Result<()> {
    trainer.save_model(&out.join("model.safetensors"))?;
    trainer.export_adapter(&out.join("adapter"))?;
    let state = trainer.state();
    if state.stopped {
        global.hint(format!("stopped early after {} steps", state.step));
    }
    let mut stdout = std::io::stdout().lock();
    match state.best {
        Some(best) => writeln!(
            stdout,
            "best macro AUROC {:.4} at step {}: {}",
            best.macro_auroc,
            best.step,
            out.join("best").join("model.safetensors").display()
        )?,
        None => writeln!(stdout, "{}", out.join("model.safetensors").display())?,
    }
    Ok(())
}
