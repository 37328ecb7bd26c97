//! A sample of answers for a radiologist to check, and what the check says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Answer, LogLine};
use crate::collections::Report;
use crate::error::Result;
use crate::manifest::{Label, Table, write_atomically};

/// An answer to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The task's id.
    pub task: String,
    /// The report.
    pub id: String,
    /// What the model said.
    pub present: bool,
    /// The sentence that it gave.
    pub key_sentence: String,
    /// The report's text.
    pub report: String,
}

/// Draws answers of each task, half of them positive as far as there are enough, by the seed.
///
/// # Reference
/// Paper, section 3.4.3: 120 samples, 10 a class.
pub fn audit_sample(
    lines: &[LogLine],
    reports: &[Report],
    per_task: usize,
    seed: u64,
) -> Vec<AuditRow> {
    let texts: HashMap<&str, &str> = reports
        .iter()
        .map(|r| (r.id.as_str(), r.text.as_str()))
        .collect();
    let mut by_task: BTreeMap<&str, [Vec<AuditRow>; 2]> = BTreeMap::new();
    for line in lines {
        let Some(answer) = &line.answer else {
            continue;
        };
        let row = AuditRow {
            task: line.task.clone(),
            id: line.id.clone(),
            present: answer.present,
            key_sentence: answer.key_sentence.clone().unwrap_or_default(),
            report: texts
                .get(line.id.as_str())
                .map_or(String::new(), |t| (*t).to_owned()),
        };
        by_task.entry(&line.task).or_default()[usize::from(answer.present)].push(row);
    }
    let mut sample = Vec::new();
    for (stream, (_, [mut no, mut yes])) in by_task.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        no.shuffle(&mut rng);
        yes.shuffle(&mut rng);
        let half = (per_task / 2)
            .max(per_task.saturating_sub(no.len()))
            .min(yes.len());
        let mut drawn: Vec<AuditRow> = yes.into_iter().take(half).collect();
        drawn.extend(no.into_iter().take(per_task - half));
        drawn.shuffle(&mut rng);
        sample.extend(drawn);
    }
    sample
}

const COLUMNS: [&str; 6] = ["task", "id", "model", "key_sentence", "report", "reviewer"];

/// Writes a sample with a column `reviewer`, for `yes` or `no`. Reviews that the file has stay: they are about
/// the report, whatever the model says of it now, also where the new sample leaves it out. `lines` are all
/// that this run asked: they renew what the model says in such rows, and rows of other tasks stay as they are.
///
/// # Errors
/// [`Error::Table`](crate::Error::Table) where the file cannot be written, or one that is there not be read.
pub fn write_audit(path: &Path, sample: &[AuditRow], lines: &[LogLine]) -> Result<()> {
    let mut before = match path.exists() {
        true => rows(path)?,
        false => BTreeMap::new(),
    };
    let now: HashMap<(&str, &str), &Answer> = lines
        .iter()
        .filter_map(|l| Some(((&*l.task, &*l.id), l.answer.as_ref()?)))
        .collect();
    let asked: BTreeSet<&str> = lines.iter().map(|l| &*l.task).collect();
    write_atomically(path, |file| {
        let mut out = csv::Writer::from_writer(file);
        out.write_record(COLUMNS)?;
        for row in sample {
            let key = (row.task.clone(), row.id.clone());
            let review = before.remove(&key).map(|old| old[5].clone());
            out.write_record([
                &row.task,
                &row.id,
                word(row.present),
                &row.key_sentence,
                &row.report,
                review.as_deref().unwrap_or(""),
            ])?;
        }
        // What somebody has reviewed stays, beside what the model says now; and the sample of tasks that this
        // run did not ask.
        let stays = |row: &[String; 6]| !row[5].is_empty() || !asked.contains(&*row[0]);
        for mut row in before.into_values().filter(stays) {
            let answer = now.get(&(&*row[0], &*row[1])).copied();
            if let Some(answer) = answer {
                row[2] = word(answer.present).to_owned();
                row[3] = answer.key_sentence.clone().unwrap_or_default();
            }
            out.write_record(&row)?;
        }
        out.flush()?;
        Ok(())
    })
}

fn word(present: bool) -> &'static str {
    if present { "yes" } else { "no" }
}

/// The rows of a file by task and report.
fn rows(path: &Path) -> Result<BTreeMap<(String, String), [String; 6]>> {
    let table = Table::read(path)?;
    let columns: Vec<usize> = COLUMNS
        .iter()
        .map(|name| table.need(&[name]))
        .collect::<Result<_>>()?;
    let row = |row| std::array::from_fn(|i| table.cell(row, columns[i]).to_owned());
    let rows = (0..table.len()).map(row);
    Ok(rows
        .map(|row: [String; 6]| ((row[0].clone(), row[1].clone()), row))
        .collect())
}

/// How many of the reviewed answers were right, and how many were reviewed: `(right, reviewed)`.
///
/// # Errors
/// [`Error::Table`](crate::Error::Table) for a column that is missing or a review that is neither yes nor no.
pub fn agreement(path: &Path) -> Result<(usize, usize)> {
    let table = Table::read(path)?;
    let (model, reviewer) = (table.need(&["model"])?, table.need(&["reviewer"])?);
    let read = |text: &str| match text.to_ascii_lowercase().as_str() {
        "yes" | "y" => Ok(Label::Positive),
        "no" | "n" => Ok(Label::Negative),
        other => Label::parse(other),
    };
    let (mut right, mut reviewed) = (0, 0);
    for row in 0..table.len() {
        let label = |column| {
            let label = read(table.cell(row, column)).map_err(|e| table.error(row, e))?;
            Ok::<_, crate::Error>(label.known())
        };
        if let Some(review) = label(reviewer)? {
            reviewed += 1;
            right += usize::from(label(model)? == Some(review));
        }
    }
    Ok((right, reviewed))
}
