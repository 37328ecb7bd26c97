//! Which questions are asked.

use anyhow::ensure;
use uniferum_tasks::Task;

use crate::commands::tasks_file::TasksFile;

/// The questions of a command line.
#[derive(Debug, clap::Args)]
pub(crate) struct QuestionArgs {
    /// A question: an id of `uniferum tasks`, or any sentence ("Segment …" asks for a mask)
    #[arg(long = "task", value_name = "TEXT")]
    task: Vec<String>,

    /// All questions of a group: ct-rate, rad-chest, inspect, anatomy, nodule, phantom
    #[arg(long = "tasks", value_name = "GROUP")]
    group: Vec<String>,

    #[command(flatten)]
    tasks_file: TasksFile,
}

impl QuestionArgs {
    /// The questions in the order of the command line, groups after single ones, each once.
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<Task>> {
        let catalogue = self.tasks_file.catalogue()?;
        let mut tasks: Vec<Task> = Vec::new();
        for text in &self.task {
            ensure!(
                !text.trim().is_empty(),
                "--task: expected an id or a sentence, got nothing"
            );
            add(&mut tasks, catalogue.resolve(text)?);
        }
        for group in &self.group {
            for task in catalogue.require_group(group)? {
                add(&mut tasks, task.clone());
            }
        }
        ensure!(
            !tasks.is_empty(),
            "no question: give --task TEXT or --tasks GROUP (see `uniferum tasks`)"
        );
        Ok(tasks)
    }
}

fn add(tasks: &mut Vec<Task>, task: Task) {
    if tasks.iter().all(|t| t.id != task.id) {
        tasks.push(task);
    }
}
