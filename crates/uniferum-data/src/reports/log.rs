//! The log of answers: what makes a run resumable, and what labels are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use uniferum_ct::io::cache::Hash;

use super::Answer;
use crate::error::{Error, Result};

/// A question and its answer, a line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    /// The report.
    pub id: String,
    /// The task's id.
    pub task: String,
    /// Whether a keyword had selected the report.
    pub keyword: bool,
    /// The model that answered.
    pub model: String,
    /// Hash of the prompt: another report text or prompt is asked again.
    pub prompt: String,
    /// The answer; `None` where none could be had.
    pub answer: Option<Answer>,
    /// Whether the key sentence stands in the report.
    pub sentence_found: bool,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// A short hash of a prompt.
pub(super) fn prompt_hash(prompt: &str) -> String {
    let mut hash = Hash::of(prompt.as_bytes()).to_string();
    hash.truncate(24);
    hash
}

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: Mutex<File>,
    lines: Vec<LogLine>,
}

impl Log {
    /// Opens a log, or makes an empty one. A last line that was cut off is taken away.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| Error::table(path, None, e);
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| fail(&e))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true);
        let file = options.open(path).map_err(|e| fail(&e))?;
        let (mut lines, mut good) = (Vec::new(), 0u64);
        let mut reader = BufReader::new(&file);
        let mut line = String::new();
        loop {
            line.clear();
            let read = reader.read_line(&mut line).map_err(|e| fail(&e))?;
            if read == 0 || !line.ends_with('\n') {
                break;
            }
            let row = lines.len() + 1;
            lines.push(serde_json::from_str(&line).map_err(|e| Error::table(path, Some(row), e))?);
            good += read as u64;
        }
        drop(reader);
        file.set_len(good).map_err(|e| fail(&e))?;
        Ok(Log {
            path: path.to_owned(),
            file: Mutex::new(file),
            lines,
        })
    }

    /// Answers that were had before.
    pub(super) fn lines(&self) -> &[LogLine] {
        &self.lines
    }

    /// Appends a line; it is on disk when this returns.
    pub(super) fn append(&self, line: &LogLine) -> Result<()> {
        let fail = |e: &dyn std::fmt::Display| Error::table(&self.path, None, e);
        let mut text = serde_json::to_string(line).map_err(|e| fail(&e))?;
        text.push('\n');
        let mut file = self
            .file
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(|e| fail(&e))?;
        file.sync_data().map_err(|e| fail(&e))
    }
}

/// Writes a table of labels, a row a report and a column a task; reports that were not asked about a
/// finding, or got no answer, have an empty cell.
///
/// # Errors
/// [`Error::Table`] where the file cannot be written.
pub fn write_labels<'a>(path: &Path, lines: impl IntoIterator<Item = &'a LogLine>) -> Result<()> {
    let mut tasks: BTreeSet<&str> = BTreeSet::new();
    let mut rows: BTreeMap<&str, HashMap<&str, bool>> = BTreeMap::new();
    for line in lines {
        tasks.insert(&line.task);
        let row = rows.entry(&line.id).or_default();
        if let Some(answer) = &line.answer {
            row.insert(&line.task, answer.present);
        }
    }
    crate::manifest::write_atomically(path, |file| {
        let mut out = csv::Writer::from_writer(file);
        out.write_record(std::iter::once("id").chain(tasks.iter().copied()))?;
        for (id, labels) in &rows {
            let cell = |task: &&str| match labels.get(task) {
                Some(true) => "1",
                Some(false) => "0",
                None => "",
            };
            out.write_record(std::iter::once(*id).chain(tasks.iter().map(cell)))?;
        }
        out.flush()?;
        Ok(())
    })
}
