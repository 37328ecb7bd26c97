//! `--tasks-file`: tasks of one's own beside the catalogue's.

use std::path::{Path, PathBuf};

use uniferum_tasks::Catalogue;

/// Tasks that a command knows besides the catalogue's.
#[derive(Debug, clap::Args)]
pub(crate) struct TasksFile {
    /// Add tasks from a file of your own (JSON or TOML); `uniferum tasks --help` shows one
    #[arg(long, value_name = "FILE")]
    tasks_file: Option<PathBuf>,
}

impl TasksFile {
    /// The catalogue, with the tasks of the file where one is given.
    pub(crate) fn catalogue(&self) -> anyhow::Result<Catalogue> {
        let mut catalogue = Catalogue::standard();
        if let Some(file) = &self.tasks_file {
            catalogue.add_file(file)?;
        }
        Ok(catalogue)
    }

    /// The file, if one is given.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.tasks_file.as_deref()
    }
}
