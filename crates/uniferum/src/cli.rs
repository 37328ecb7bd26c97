//! The command line: one variant a subcommand, each in its own file under `commands/`.

use clap::{Parser, Subcommand};

use crate::commands;
use crate::global::{Global, GlobalArgs};

/// Ask a chest CT questions: findings, outcomes and organ masks from one model.
///
/// A scan and a sentence go in; a probability or a coarse mask comes out. Results go to standard
/// output or to the folder given with --out; progress and warnings go to standard error.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Bench(commands::bench::Args),
    Compare(commands::compare::Args),
    Demo(commands::demo::Args),
    Doctor(commands::doctor::Args),
    Evaluate(Box<commands::evaluate::Args>),
    Experiment(commands::experiment::Args),
    Info(commands::info::Args),
    Inspect(commands::inspect::Args),
    LabelReports(commands::label_reports::Args),
    Manifest(commands::manifest::Args),
    Predict(commands::predict::Args),
    Prepare(commands::prepare::Args),
    Tasks(commands::tasks::Args),
    Train(commands::train::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        match self {
            Command::Bench(args) => commands::bench::run(args, global),
            Command::Compare(args) => commands::compare::run(args, global),
            Command::Demo(args) => commands::demo::run(args, global),
            Command::Doctor(args) => commands::doctor::run(args, global),
            Command::Evaluate(args) => commands::evaluate::run(*args, global),
            Command::Experiment(args) => commands::experiment::run(args, global),
            Command::Info(args) => commands::info::run(args, global),
            Command::Inspect(args) => commands::inspect::run(args, global),
            Command::LabelReports(args) => commands::label_reports::run(args, global),
            Command::Manifest(args) => commands::manifest::run(args, global),
            Command::Predict(args) => commands::predict::run(args, global),
            Command::Prepare(args) => commands::prepare::run(args, global),
            Command::Tasks(args) => commands::tasks::run(args, global),
            Command::Train(args) => commands::train::run(args, global),
        }
    }
}
