//! What can go wrong with tasks and task files.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file of tasks could not be read.
    #[error("{path}: cannot read the task file: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of tasks could not be written.
    #[error("{path}: cannot write the task file: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file of tasks is not valid JSON or TOML, or has an unknown or missing field.
    #[error("{path}: not a valid task file: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected there.
        reason: String,
    },
    /// The file has neither of the two known extensions.
    #[error("{path}: a task file must end in .json or .toml")]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// One task is described in a contradictory or incomplete way.
    #[error("task `{id}`: {reason}")]
    Invalid {
        /// The task's id.
        id: String,
        /// Which field, what was expected and what was found.
        reason: String,
    },
    /// Two tasks have the same id.
    #[error("task `{id}` is defined twice")]
    Duplicate {
        /// The repeated id.
        id: String,
    },
    /// No task has this id, and the text is no question either.
    #[error(
        "unknown task `{asked}`{}",
        .nearest.as_ref().map(|n| format!(" (did you mean `{n}`?)")).unwrap_or_default()
    )]
    UnknownTask {
        /// What was asked for.
        asked: String,
        /// The id that looks most like it, if any does.
        nearest: Option<String>,
    },
    /// The name is that of a group.
    #[error("`{asked}` is a group of {count} tasks: expected one task of it, or a question")]
    GroupAsTask {
        /// What was asked for.
        asked: String,
        /// Tasks in the group.
        count: usize,
    },
    /// No group has this name.
    #[error("unknown task group `{asked}`; known groups: {known}")]
    UnknownGroup {
        /// What was asked for.
        asked: String,
        /// All groups, separated by commas.
        known: String,
    },
}

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
