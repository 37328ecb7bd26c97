//! All tasks, by id and by group.

use std::collections::HashMap;
use std::path::Path;

use crate::tables::{self, anatomy, ct_rate, inspect, phantom, rad_chest};
use crate::{Error, Result, Task, user};

/// The standard groups, in the catalogue's order.
pub const GROUPS: [&str; 6] = [
    "ct-rate",
    "rad-chest",
    "inspect",
    "anatomy",
    "nodule",
    "phantom",
];

/// A set of tasks with unique ids: the standard ones, plus a user's own.
///
/// ```
/// use uniferum_tasks::Catalogue;
/// let catalogue = Catalogue::standard();
/// assert_eq!(catalogue.group("ct-rate").len(), 18);
/// let task = catalogue.get("rad-chest.pleural-effusion").unwrap();
/// assert_eq!(task.prompt, "Diagnose the presence of pleural effusion around the lungs");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    tasks: Vec<Task>,
    by_id: HashMap<String, usize>,
}

impl Catalogue {
    /// A catalogue without tasks.
    pub fn empty() -> Self {
        Catalogue::default()
    }

    /// Every task of the paper, and those of the synthetic phantoms.
    ///
    /// # Reference
    /// Paper, section 3.3, Table 1 and supplement. The supplement's rows "INSPECT (shared)" and
    /// "(unique)" are swapped there; here the 12 diagnoses are the shared ones, as in the text.
    pub fn standard() -> Self {
        let mut tasks = tables::diagnoses("ct-rate", &ct_rate::ROWS);
        tasks.extend(tables::diagnoses("rad-chest", &rad_chest::ROWS));
        tasks.extend(inspect::tasks("inspect"));
        tasks.extend(anatomy::tasks("anatomy"));
        tasks.push(anatomy::nodule("nodule"));
        tasks.extend(phantom::tasks("phantom"));
        let by_id = tasks
            .iter()
            .enumerate()
            .map(|(i, t)| (t.id.clone(), i))
            .collect();
        Catalogue { tasks, by_id }
    }

    /// All tasks in order.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The task with this id.
    pub fn get(&self, id: &str) -> Option<&Task> {
        self.by_id.get(id).map(|&i| &self.tasks[i])
    }

    /// The tasks of a group, in order; empty when there is no such group.
    ///
    /// `rad-chest` and `inspect` have the parts `…-shared` and `…-unique` of the paper's Table 2.
    pub fn group(&self, name: &str) -> Vec<&Task> {
        let exists = self.tasks.iter().any(|t| t.group == name);
        let (group, shared) = match name.rsplit_once('-') {
            Some((group, "shared")) if !exists => (group, Some(true)),
            Some((group, "unique")) if !exists => (group, Some(false)),
            _ => (name, None),
        };
        self.tasks
            .iter()
            .filter(|t| t.group == group && shared.is_none_or(|s| self.is_shared(t) == s))
            .collect()
    }

    /// As [`Catalogue::group`], with an error that lists the known groups.
    ///
    /// # Errors
    /// When the group has no task.
    pub fn require_group(&self, name: &str) -> Result<Vec<&Task>> {
        let tasks = self.group(name);
        if tasks.is_empty() {
            let known = self.groups().join(", ");
            return Err(Error::UnknownGroup {
                asked: name.to_owned(),
                known,
            });
        }
        Ok(tasks)
    }

    /// The names of all groups, in the order of their first task.
    pub fn groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = Vec::new();
        for task in &self.tasks {
            if !groups.contains(&task.group) {
                groups.push(task.group.clone());
            }
        }
        groups
    }

    /// The tasks of other collections that ask for the same finding.
    pub fn same_finding(&self, task: &Task) -> Vec<&Task> {
        let Some(finding) = &task.finding else {
            return Vec::new();
        };
        self.tasks
            .iter()
            .filter(|t| t.id != task.id && t.finding.as_ref() == Some(finding))
            .collect()
    }

    /// Whether CT-RATE has a task for the same finding: the "shared" columns of the paper.
    pub fn is_shared(&self, task: &Task) -> bool {
        task.group == "ct-rate" || self.same_finding(task).iter().any(|t| t.group == "ct-rate")
    }

    /// The task of `group` whose label (column) is this one.
    pub fn by_label(&self, group: &str, label: &str) -> Option<&Task> {
        self.tasks
            .iter()
            .find(|t| t.group == group && t.label == label)
    }

    /// The task that a row of the public release's tables means: `Segment:<tag>` is a mask,
    /// everything else is the question itself.
    ///
    /// # Errors
    /// When the tag is not one of the release's.
    pub fn from_release_question(&self, question: &str) -> Result<Task> {
        let Some(tag) = question.strip_prefix("Segment:") else {
            return Ok(Task::from_question(question));
        };
        let found = self
            .tasks
            .iter()
            .find(|t| t.release_tag.as_deref() == Some(tag));
        found.cloned().ok_or_else(|| Error::UnknownTask {
            asked: question.to_owned(),
            nearest: self.nearest(tag).map(|t| t.id.clone()),
        })
    }

    /// A task from what a person typed: an id, or a question of several words.
    ///
    /// # Errors
    /// When the text is empty, or a single word that is no id, such as the name of a group.
    pub fn resolve(&self, text: &str) -> Result<Task> {
        let text = text.trim();
        if let Some(task) = self
            .get(text)
            .or_else(|| self.tasks.iter().find(|t| t.prompt == text))
        {
            return Ok(task.clone());
        }
        if text.contains(char::is_whitespace) {
            return Ok(Task::from_question(text));
        }
        let count = self.group(text).len();
        if count > 0 {
            let asked = text.to_owned();
            return Err(Error::GroupAsTask { asked, count });
        }
        let nearest = self.nearest(text).map(|t| t.id.clone());
        Err(Error::UnknownTask {
            asked: text.to_owned(),
            nearest,
        })
    }

    fn nearest(&self, text: &str) -> Option<&Task> {
        let wanted = crate::task::slug(text);
        if wanted.is_empty() {
            return None;
        }
        let tail = |t: &Task| {
            t.id.split_once('.')
                .map_or(t.id.clone(), |(_, tail)| tail.to_owned())
        };
        let exact = self.tasks.iter().find(|t| tail(t) == wanted);
        exact
            .or_else(|| self.tasks.iter().find(|t| t.id.contains(&wanted)))
            .or_else(|| self.misspelt(text))
    }

    /// The task whose id differs from `text` in a letter or two.
    fn misspelt(&self, text: &str) -> Option<&Task> {
        let alike = |t: &Task| strsim::normalized_levenshtein(&t.id, text);
        let best = self
            .tasks
            .iter()
            .max_by(|a, b| alike(a).total_cmp(&alike(b)));
        best.filter(|t| alike(t) > 0.8)
    }

    /// Adds one task.
    ///
    /// # Errors
    /// When its id exists already or is no word, when it has no prompt, or is a segmentation that says of no
    /// voxels that they are its own.
    pub fn add(&mut self, task: Task) -> Result<()> {
        task.check()?;
        if self.by_id.contains_key(&task.id) {
            return Err(Error::Duplicate { id: task.id });
        }
        self.by_id.insert(task.id.clone(), self.tasks.len());
        self.tasks.push(task);
        Ok(())
    }

    /// Adds the tasks of a file; returns how many. See [`crate::user`] for the format.
    ///
    /// # Errors
    /// When the file cannot be read, is not valid, or repeats an id; the catalogue is unchanged
    /// then.
    pub fn add_file(&mut self, path: impl AsRef<Path>) -> Result<usize> {
        let tasks = user::read(path.as_ref())?;
        let mut extended = self.clone();
        let added = tasks.len();
        for task in tasks {
            extended.add(task)?;
        }
        *self = extended;
        Ok(added)
    }
}

impl<'a> IntoIterator for &'a Catalogue {
    type Item = &'a Task;
    type IntoIter = std::slice::Iter<'a, Task>;

    fn into_iter(self) -> Self::IntoIter {
        self.tasks.iter()
    }
}
