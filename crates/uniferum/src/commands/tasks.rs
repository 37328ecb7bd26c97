//! `uniferum tasks`: the questions that the catalogue knows.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use uniferum_fusion::checkpoint::locate;
use uniferum_tasks::{Task, trained};
use uniferum_train::Baseline;

use super::tasks_file::TasksFile;
use crate::global::Global;
use crate::output::Format;

/// List the catalogue of questions: findings, outcomes, organ masks
///
/// Each line is an id (for --task of `predict`), the kind of answer, and the sentence that the model
/// reads. Any other sentence may be asked as well.
///
/// A file of tasks of your own (--tasks-file here and elsewhere) looks as follows; `prompt` replaces
/// the sentence that is made of the other fields, `label` is the column in your table where it is not
/// the name:
///
///   [[tasks]]
///   id = "site-a.rib-fracture"    # the part before the dot is the group
///   kind = "diagnosis"
///   name = "rib fracture"
///   organ = "ribs"                # a diagnosis needs an organ, or a prompt
///   relation = "in"               # or "around"
///   label = "fracture"
///
///   [[tasks]]
///   id = "site-a.stroke-3m"
///   kind = "prognosis"
///   name = "stroke"
///   months = 3
///
///   [[tasks]]
///   id = "site-a.spleen"
///   kind = "segmentation"
///   name = "spleen"
///   mask_labels = [1]             # numbers in the mask, TotalSegmentator v2 or your own
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// Only this group: ct-rate, rad-chest, inspect, anatomy, nodule, phantom; rad-chest and inspect
    /// have parts such as rad-chest-shared and inspect-unique
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,

    /// Only tasks whose id or sentence contains this text
    #[arg(long, value_name = "TEXT")]
    find: Option<String>,

    /// Only those that a model was trained on: a .safetensors file, or its folder
    #[arg(long, value_name = "FILE", conflicts_with = "group")]
    checkpoint: Option<PathBuf>,

    /// Explain each task: label column, organ, mask numbers, the same finding elsewhere
    #[arg(long)]
    explain: bool,

    #[command(flatten)]
    tasks_file: TasksFile,

    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn learnt(checkpoint: &Path) -> anyhow::Result<Vec<Task>> {
    let name = checkpoint.display();
    ensure!(checkpoint.exists(), "{name}: no such file");
    let found = trained::beside(checkpoint)?;
    let file = trained::FILE_NAME;
    found.with_context(|| format!("{name}: no {file} beside it says what the model was trained on"))
}

/// A baseline takes no sentences.
fn is_baseline(checkpoint: &Path) -> anyhow::Result<bool> {
    Ok(Baseline::read_config(&locate(checkpoint))?.is_some())
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let catalogue = args.tasks_file.catalogue()?;
    let trained = args.checkpoint.as_deref().map(learnt).transpose()?;
    let mut tasks: Vec<&Task> = match (&args.group, &trained) {
        (Some(group), _) => catalogue.require_group(group)?,
        (None, Some(trained)) => trained.iter().collect(),
        (None, None) => catalogue.tasks().iter().collect(),
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
        let baseline = args.checkpoint.as_deref().map(is_baseline).transpose()?;
        global.hint(match baseline {
            Some(true) => "ask it with: uniferum evaluate --checkpoint FILE --manifest TABLE",
            _ => "ask one with: uniferum predict SCAN --checkpoint FILE --task ID",
        });
    }
    Ok(())
}
