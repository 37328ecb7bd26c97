//! `uniferum tasks`: the questions that the catalogue knows.

use std::io::Write;
use std::path::PathBuf;

use uniferum_tasks::{Catalogue, Task};

use crate::global::Global;
use crate::output::Format;

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
    args.format.print(&tasks, |out, tasks| {
        let width = tasks.iter().map(|t| t.id.len()).max().unwrap_or(0);
        for task in tasks {
            if args.explain {
                writeln!(out, "{}", catalogue.explain(task))?;
                continue;
            }
            let (id, kind) = (&task.id, task.kind.as_str());
            writeln!(out, "{id:width$}  {kind:12}  {}", task.prompt)?;
        }
        Ok(())
    })?;
    if args.format == Format::Text && !args.explain {
        global.hint("ask one with: uniferum predict SCAN --checkpoint FILE --task ID");
    }
    Ok(())
}
