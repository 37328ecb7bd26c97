//! A user's own tasks, from a JSON or TOML file.
//!
//! The file has a list `tasks`; each needs `id`, `kind` and `name`:
//!
//! ```toml
//! [[tasks]]
//! id = "site-a.rib-fracture"        # the part before the dot becomes the group
//! kind = "diagnosis"
//! name = "rib fracture"
//! organ = "ribs"                    # diagnosis only
//! relation = "in"                   # or "around"; default "in"
//! label = "fracture"                # column in your table; default: the name
//!
//! [[tasks]]
//! id = "site-a.stroke-3m"
//! kind = "prognosis"
//! name = "stroke"
//! months = 3
//!
//! [[tasks]]
//! id = "site-a.spleen"
//! kind = "segmentation"
//! name = "spleen"
//! mask_labels = [1]                 # TotalSegmentator v2 numbers, or those of your own masks
//! ```
//!
//! `prompt` replaces the template's text; `finding` names what other collections call the same.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, Relation, Result, Task, TaskKind};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    tasks: Vec<UserTask>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserTask {
    id: String,
    kind: TaskKind,
    name: String,
    label: Option<String>,
    organ: Option<String>,
    relation: Option<Relation>,
    months: Option<u16>,
    prompt: Option<String>,
    #[serde(default)]
    mask_labels: Vec<u16>,
    finding: Option<String>,
}

/// Reads the tasks of a `.json` or `.toml` file.
///
/// # Errors
/// When the file cannot be read, has unknown fields, or describes a task that cannot be: an id
/// with spaces, a prognosis without months, a segmentation without mask labels, and the like.
pub fn read(path: &Path) -> Result<Vec<Task>> {
    let text = fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    let parse_error = |reason: String| Error::Parse {
        path: path.to_owned(),
        reason,
    };
    let file: TaskFile = match path.extension().and_then(|e| e.to_str()) {
        Some("json") => serde_json::from_str(&text).map_err(|e| parse_error(e.to_string()))?,
        Some("toml") => toml::from_str(&text).map_err(|e| parse_error(e.to_string()))?,
        _ => {
            return Err(Error::Extension {
                path: path.to_owned(),
            });
        }
    };
    file.tasks.into_iter().map(UserTask::build).collect()
}

impl UserTask {
    fn build(self) -> Result<Task> {
        self.validate()?;
        let group = self.id.split_once('.').map_or("user", |(group, _)| group);
        let label = self.label.as_deref().unwrap_or(&self.name);
        let mut task = match self.kind {
            TaskKind::Diagnosis => {
                let organ = self.organ.as_deref().unwrap_or("chest");
                let relation = self.relation.unwrap_or_default();
                Task::diagnosis(group, label, &self.name, relation, organ)
            }
            TaskKind::Prognosis => {
                Task::prognosis(group, label, &self.name, self.months.unwrap_or_default())
            }
            TaskKind::Segmentation => {
                Task::segmentation(group, label, &self.name, self.mask_labels)
            }
        };
        if let Some(prompt) = self.prompt {
            task.prompt = prompt.trim().to_owned();
        }
        task.id = self.id;
        task.months = task.months.filter(|months| *months > 0);
        task.finding = self.finding;
        Ok(task)
    }

    fn validate(&self) -> Result<()> {
        let own_prompt = self.prompt.is_some();
        let segmentation = self.kind.is_segmentation();
        let diagnosis = self.kind == TaskKind::Diagnosis;
        let prognosis = self.kind == TaskKind::Prognosis;
        self.refuse_if(
            self.id.is_empty() || self.id.contains(|c: char| c.is_whitespace() || c == '/'),
            "`id` must be a word without spaces and slashes",
        )?;
        self.refuse_if(self.name.trim().is_empty(), "`name` is empty")?;
        self.refuse_if(
            self.prompt.as_ref().is_some_and(|p| p.trim().is_empty()),
            "`prompt` is empty",
        )?;
        self.refuse_if(
            diagnosis && self.organ.is_none() && !own_prompt,
            "a diagnosis needs `organ` or a `prompt` of its own",
        )?;
        self.refuse_if(
            prognosis && self.months.is_none_or(|m| m == 0) && !own_prompt,
            "a prognosis needs `months` of at least 1 or a `prompt` of its own",
        )?;
        self.refuse_if(
            segmentation && self.mask_labels.is_empty(),
            "a segmentation needs `mask_labels`",
        )?;
        self.refuse_if(
            self.mask_labels.contains(&0),
            "`mask_labels` contains 0, which is the background",
        )?;
        self.refuse_if(
            !segmentation && !self.mask_labels.is_empty(),
            "`mask_labels` belongs to segmentation only",
        )?;
        self.refuse_if(
            !diagnosis && (self.organ.is_some() || self.relation.is_some()),
            "`organ` and `relation` belong to diagnosis only",
        )?;
        self.refuse_if(
            !prognosis && self.months.is_some(),
            "`months` belongs to prognosis only",
        )
    }

    fn refuse_if(&self, wrong: bool, reason: &str) -> Result<()> {
        if wrong {
            return Err(Error::Invalid {
                id: self.id.clone(),
                reason: reason.to_owned(),
            });
        }
        Ok(())
    }
}
