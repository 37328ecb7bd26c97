//! One task: a question about a scan, and what answers it.

use serde::{Deserialize, Serialize};

use crate::{Error, Result, prompt};

/// What kind of answer a task has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A finding that the scan shows or does not show: one probability.
    Diagnosis,
    /// An event after the scan: one probability.
    Prognosis,
    /// Where a structure lies: a coarse mask.
    Segmentation,
}

impl TaskKind {
    /// Whether the answer is a mask rather than a probability.
    pub fn is_segmentation(self) -> bool {
        self == TaskKind::Segmentation
    }

    /// The name used in files: `diagnosis`, `prognosis` or `segmentation`.
    pub fn as_str(self) -> &'static str {
        match self {
            TaskKind::Diagnosis => "diagnosis",
            TaskKind::Prognosis => "prognosis",
            TaskKind::Segmentation => "segmentation",
        }
    }
}

impl std::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a finding lies to its organ: the template's "in/around".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The finding is inside the organ.
    #[default]
    In,
    /// The finding is next to the organ.
    Around,
}

impl Relation {
    /// The word of the template.
    pub fn as_str(self) -> &'static str {
        match self {
            Relation::In => "in",
            Relation::Around => "around",
        }
    }
}

/// A question about a scan: its prompt, and where its label or mask comes from.
///
/// # Reference
/// Paper, sections 3.1 and 3.3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Unique name, `group.finding`, in lower case: `ct-rate.pleural-effusion`.
    pub id: String,
    /// The group (collection) that the task belongs to: `ct-rate`, `anatomy`, ….
    pub group: String,
    /// The column of the collection's own table, or the mask's name for segmentation.
    pub label: String,
    /// The readable name that the prompt contains.
    pub name: String,
    /// What kind of answer it has.
    pub kind: TaskKind,
    /// The organ that the template names; `None` for prognosis and segmentation.
    pub organ: Option<String>,
    /// How the finding lies to the organ.
    #[serde(default)]
    pub relation: Relation,
    /// Months that a prognosis looks ahead.
    pub months: Option<u16>,
    /// The text that the model reads.
    pub prompt: String,
    /// Numbers of the TotalSegmentator v2 label map that make up the mask; empty for labels and
    /// for masks of their own (nodules).
    pub mask_labels: Vec<u16>,
    /// The numbers that the public release of the paper's code uses for the same name; they
    /// differ where it is wrong (left and right lung, left ribs), and are empty where it has no
    /// such task.
    pub release_labels: Vec<u16>,
    /// The name after `Segment:` in the release's tables, where it has one.
    pub release_tag: Option<String>,
    /// Tasks of different collections with the same `finding` ask for the same thing.
    pub finding: Option<String>,
}

impl Task {
    /// Refuses what could not be asked or answered.
    pub(crate) fn check(&self) -> Result<()> {
        let blind = self.kind.is_segmentation() && self.mask_labels.is_empty() && !self.is_nodule();
        let reason = if self.id.is_empty() || self.id.contains(char::is_whitespace) {
            "`id` must be a word without spaces"
        } else if self.prompt.trim().is_empty() {
            "`prompt` is empty"
        } else if self.months == Some(0) {
            "a prognosis needs `months` of at least 1"
        } else if blind {
            "a segmentation needs `mask_labels`"
        } else {
            return Ok(());
        };
        Err(Error::Invalid {
            id: self.id.clone(),
            reason: reason.to_owned(),
        })
    }

    /// Whether its mask is a scan's nodule mask, a file of its own that has no numbers of structures.
    pub fn is_nodule(&self) -> bool {
        self.kind.is_segmentation() && self.mask_labels.is_empty() && self.group == "nodule"
    }

    /// A diagnostic task with the paper's template.
    pub fn diagnosis(
        group: &str,
        label: &str,
        name: &str,
        relation: Relation,
        organ: &str,
    ) -> Self {
        Task {
            organ: Some(organ.to_owned()),
            relation,
            prompt: prompt::diagnosis(name, relation, organ),
            ..Task::bare(group, label, name, TaskKind::Diagnosis)
        }
    }

    /// A prognostic task with the paper's template.
    pub fn prognosis(group: &str, label: &str, name: &str, months: u16) -> Self {
        Task {
            id: format!("{group}.{}-{months}m", slug(name)),
            months: Some(months),
            prompt: prompt::prognosis(name, months),
            ..Task::bare(group, label, name, TaskKind::Prognosis)
        }
    }

    /// A segmentation task with the paper's template.
    pub fn segmentation(group: &str, label: &str, name: &str, mask_labels: Vec<u16>) -> Self {
        Task {
            prompt: prompt::segmentation(name),
            mask_labels,
            ..Task::bare(group, label, name, TaskKind::Segmentation)
        }
    }

    fn bare(group: &str, label: &str, name: &str, kind: TaskKind) -> Self {
        Task {
            id: format!("{group}.{}", slug(name)),
            group: group.to_owned(),
            label: label.to_owned(),
            name: name.to_owned(),
            kind,
            organ: None,
            relation: Relation::In,
            months: None,
            prompt: String::new(),
            mask_labels: Vec::new(),
            release_labels: Vec::new(),
            release_tag: None,
            finding: None,
        }
    }

    /// A task made of a free question, so that a model can be asked anything.
    ///
    /// The kind follows from how the question begins: `Segment …` asks for a mask, `Predict the
    /// risk of …` for a prognosis, everything else for a diagnosis. The id is the question itself.
    pub fn from_question(question: &str) -> Self {
        let text = question.trim();
        let lower = text.to_lowercase();
        let kind = if lower.starts_with("segment ") {
            TaskKind::Segmentation
        } else if lower.starts_with("predict ") {
            TaskKind::Prognosis
        } else {
            TaskKind::Diagnosis
        };
        Task {
            id: text.to_owned(),
            prompt: text.to_owned(),
            ..Task::bare("question", text, text, kind)
        }
    }

    pub(crate) fn with_finding(mut self, finding: Option<&str>) -> Self {
        self.finding = finding.map(str::to_owned);
        self
    }
}

/// Lower case, every run of other characters than letters and digits one hyphen.
pub fn slug(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        assert_eq!(slug("Pleural effusion"), "pleural-effusion");
        assert_eq!(
            slug("pacemaker or defibrillator (ICD)"),
            "pacemaker-or-defibrillator-icd"
        );
        assert_eq!(slug("--a__b--"), "a-b");
        assert_eq!(slug("é"), "");
    }

    #[test]
    fn kinds_have_their_names_in_files() {
        for kind in [
            TaskKind::Diagnosis,
            TaskKind::Prognosis,
            TaskKind::Segmentation,
        ] {
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
    }

    #[test]
    fn questions_tell_their_kind() {
        let kind = |q: &str| Task::from_question(q).kind;
        assert_eq!(
            kind("Segment the lungs in the image."),
            TaskKind::Segmentation
        );
        assert_eq!(
            kind(" Predict the risk of stroke in 3 months"),
            TaskKind::Prognosis
        );
        assert_eq!(
            kind("Is there a fracture of the sternum?"),
            TaskKind::Diagnosis
        );
    }
}
