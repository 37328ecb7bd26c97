//! `uniferum tasks`: the questions that the catalogue knows.

use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use uniferum_tasks::{Catalogue, Task};

use crate::global::Global;

/// List the catalogue of questions: findings, outcomes, organ masks
///
/// Each line is an id (for --task of `predict`), the kind of answer, and the sentence that the model
/// reads. Any other sentence may be asked as well.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this group: ct-rate, rad-chest, inspect, anatomy, nodule, phantom; rad-chest and inspect
    /// have parts such as rad-chest-shared and inspect-unique
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Only tasks whose id or sentence contains this text
    #[arg(long, value_name = "TEXT")]
    find: Option<String>,

    /// Explain each task: label column, organ, mask numbers, the same finding elsewhere
    #[arg(long)]
    explain: bool,

    /// Add tasks from a file of your own (JSON or TOML)
    #[arg(long, value_name = "FILE")]
    tasks_file: Option<PathBuf>,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Columns for people
    Text,
    /// An array of objects with every field
    Json,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let mut catalogue = Catalogue::standard();
    if let Some(file) = &args.tasks_file {
        catalogue.add_file(file)?;
    }
    let mut tasks: Vec<&Task> = match &args.group {
        Some(group) => catalogue.require_group(group)?,
        None => catalogue.tasks().iter().collect(),
    };
    if let Some(text) = &args.find {
        let text = text.to_lowercase();
        tasks.retain(|t| t.id.contains(&text) || t.prompt.to_lowercase().contains(&text));
    }
    let mut out = std::io::stdout().lock();
    match args.format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, &tasks)?;
            writeln!(out)?;
        }
        Format::Text if args.explain => {
            for task in tasks {
                writeln!(out, "{}\n", catalogue.explain(task))?;
            }
        }
        Format::Text => {
            let width = tasks.iter().map(|t| t.id.len()).max().unwrap_or(0);
            for task in tasks {
                writeln!(
                    out,
                    "{:width$}  {:12}  {}",
                    task.id,
                    task.kind.as_str(),
                    task.prompt
                )?;
            }
            global.hint("ask one with: uniferum predict SCAN --checkpoint FILE --task ID");
        }
    }
    Ok(())
}
