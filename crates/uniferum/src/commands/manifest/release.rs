//! The public release of the paper's code: its table and its training file.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use uniferum_ct::replace_atomically;
use uniferum_data::InputSettings;
use uniferum_data::collections::{ReleaseConfig, ReleaseTable, write_tasks};
use uniferum_fusion::UniferumConfig;
use uniferum_tasks::Catalogue;
use uniferum_train::{ModelChoice, RunConfig, TrainConfig};

use super::output::Output;
use crate::global::Global;

/// The parquet table of the paper's public release: question, img_file_path, label, split
///
/// A question `Segment:TAG` means a mask, found by replacing /bin/ in the image's path by /seg/ (or
/// /nodule_seg/). Questions that the catalogue does not have go to --tasks-out, which other commands
/// read with --tasks-file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The table
    table: PathBuf,

    /// The group that is preferred where several collections ask the same question
    #[arg(long)]
    group: Option<String>,

    /// The collection's name in the manifest
    #[arg(long, default_value = "release")]
    collection: String,

    /// Write questions that the catalogue does not have as tasks (JSON)
    #[arg(long, value_name = "FILE")]
    tasks_out: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

pub(super) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let mut settings = ReleaseTable::new(args.table);
    settings.group = args.group;
    settings.collection = args.collection;
    settings.absent = args.output.absent();
    let found = settings.read(&Catalogue::standard())?;
    match &args.tasks_out {
        Some(path) => write_tasks(path, &found.tasks)?,
        None => anyhow::ensure!(
            found.tasks.is_empty(),
            "{} questions are not in the catalogue, such as {:?}: say where they go with --tasks-out",
            found.tasks.len(),
            found.tasks[0].prompt
        ),
    }
    args.output.write(&found, args.tasks_out.as_deref(), global)
}

/// A training file (YAML) of the paper's public release, turned into a configuration of `uniferum train`
///
/// Says what has no counterpart, and what the release begins with: name it under [init] where it is not the
/// paper's.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// The YAML file
    yaml: PathBuf,

    /// The configuration to write, for `uniferum train --config`
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
}

pub(super) fn config(args: ConfigArgs, global: &Global) -> anyhow::Result<()> {
    let found = ReleaseConfig::read(&args.yaml)?;
    let mut train = serde_json::to_value(TrainConfig::default())?;
    for (key, value) in &found.train {
        train[key] = value.clone();
    }
    let train: TrainConfig = serde_json::from_value(train)
        .with_context(|| format!("{}: hf_TrainingArguments", args.yaml.display()))?;
    let mut model = UniferumConfig::default();
    model.bert.layers = found.bert_layers;
    let config = RunConfig {
        train,
        model: ModelChoice::Uniferum(model),
        input: InputSettings {
            transform: found.transform,
            standardise: uniferum_ct::StandardiseConfig::release(),
        },
        augment: found.augment,
        ..RunConfig::default()
    };
    config.validate()?;
    let text = config.to_toml()?;
    replace_atomically(&args.out, ".part", |part| std::fs::write(part, text))
        .with_context(|| format!("could not write {}", args.out.display()))?;
    for (what, value) in [
        ("the transformer begins with", &found.text_model),
        ("the image encoder begins with", &found.image_model),
        ("the table of questions is", &found.input_file),
        ("results go to", &found.output_dir),
    ] {
        if let Some(value) = value {
            global.hint(format!("note: {what} {value}"));
        }
    }
    for note in &found.notes {
        global.hint(format!("note: {note}"));
    }
    writeln!(std::io::stdout(), "{}", args.out.display())?;
    Ok(())
}
