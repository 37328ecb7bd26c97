//! The table of the paper's public release: a row a question.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use uniferum_ct::HuSource;
use uniferum_tasks::{Catalogue, Task, slug};

use super::ct_rate::VolumeName;
use super::{Absent, Collected};
use crate::error::Result;
use crate::manifest::{Label, Scan, Split, Table, base_name, name_patients, split_cell};

/// The release's parquet: `question, img_file_path, label, split`.
///
/// A question `Segment:<tag>` means a mask: its path is the image's with `/bin/` replaced by `/seg/`
/// (`/nodule_seg/` for nodules) and the ending by `nii.gz`; its label means nothing.
#[derive(Debug, Clone)]
pub struct ReleaseTable {
    /// The table.
    pub table: PathBuf,
    /// The collection's name in the manifest.
    pub collection: String,
    /// The group whose tasks are preferred where several collections ask the same question.
    pub group: Option<String>,
    /// Rows without a file.
    pub absent: Absent,
}

impl ReleaseTable {
    /// A table.
    pub fn new(table: impl Into<PathBuf>) -> Self {
        ReleaseTable {
            table: table.into(),
            collection: "release".to_owned(),
            group: None,
            absent: Absent::Drop,
        }
    }

    /// Reads the table; questions that the catalogue does not have become tasks of the group `release`.
    ///
    /// Patients are known only where files are named as CT-RATE's are; elsewhere each scan is its own.
    ///
    /// # Errors
    /// [`Error::Table`](crate::Error::Table) with the row; [`Error::Tasks`](crate::Error::Tasks) for an unknown tag.
    pub fn read(&self, catalogue: &Catalogue) -> Result<Collected> {
        let table = Table::read(&self.table)?;
        let columns = ["question", "img_file_path", "label", "split"];
        let columns: Result<Vec<usize>> = columns.iter().map(|c| table.need(&[c])).collect();
        let columns = columns?;
        let mut out = Collected::default();
        let mut scans: Vec<Scan> = Vec::new();
        let mut at: HashMap<String, usize> = HashMap::new();
        let mut tasks: HashMap<String, Task> = HashMap::new();
        for row in 0..table.len() {
            let [question, image, label, split] = [0, 1, 2, 3].map(|c| table.cell(row, columns[c]));
            let split = split_cell(split).map_err(|e| table.error(row, e))?;
            if !tasks.contains_key(question) {
                let (task, own) = self.task(catalogue, question)?;
                if own {
                    out.tasks.push(task.clone());
                }
                tasks.insert(question.to_owned(), task);
            }
            let task = &tasks[question];
            let index = *at.entry(image.to_owned()).or_insert_with(|| {
                scans.push(self.scan(image, split));
                scans.len() - 1
            });
            let scan = &mut scans[index];
            if scan.split != split {
                return Err(table.error(row, format!("{image} is in two splits")));
            }
            if task.kind.is_segmentation() {
                set_mask(scan, task, self.folder(), Path::new(image))
                    .map_err(|e| table.error(row, e))?;
                continue;
            }
            let label = Label::parse(label).map_err(|e| table.error(row, e))?;
            if !scan.set_label(&task.id, label) {
                let what = format!("{question}: another row of {image} says the opposite");
                return Err(table.error(row, what));
            }
        }
        name_patients(&mut scans, self.folder());
        if scans.iter().any(|s| VolumeName::parse(&s.name()).is_none()) {
            out.note("the table names no patients: scans not named as CT-RATE's count as one each");
        }
        out.keep(scans, self.absent)?;
        Ok(out)
    }

    fn task(&self, catalogue: &Catalogue, question: &str) -> Result<(Task, bool)> {
        let same = |t: &&Task| t.prompt == question;
        let preferred = self.group.as_deref().map(|g| catalogue.group(g));
        let preferred = preferred.into_iter().flatten().find(same);
        if let Some(task) = preferred.or_else(|| catalogue.tasks().iter().find(same)) {
            return Ok((task.clone(), false));
        }
        let mut task = catalogue.from_release_question(question)?;
        let own = catalogue.get(&task.id).is_none();
        if own {
            task.id = format!("release.{}", slug(question));
            task.group = "release".to_owned();
        }
        Ok((task, own))
    }

    /// Paths are relative to the table, as in every other.
    fn folder(&self) -> &Path {
        self.table.parent().unwrap_or(Path::new(""))
    }

    fn scan(&self, image: &str, split: Split) -> Scan {
        let mut scan = Scan {
            path: self.folder().join(image),
            collection: self.collection.clone(),
            split,
            // The release's cache files hold HU.
            hu: HuSource::AlreadyHu,
            ..Scan::default()
        };
        match VolumeName::parse(&scan.name()) {
            Some(name) => {
                scan.patient = format!("ct-rate:{}", name.patient);
                scan.study = format!("ct-rate:{}", name.study);
            }
            None => scan.patient = format!("{}:", self.collection),
        }
        scan
    }
}

fn set_mask(
    scan: &mut Scan,
    task: &Task,
    table: &Path,
    path: &Path,
) -> std::result::Result<(), String> {
    let nodule = task.is_nodule();
    let folder = if nodule { "nodule_seg" } else { "seg" };
    if !path.components().any(|part| part.as_os_str() == "bin") {
        let path = path.display();
        return Err(format!("{path}: no folder `bin` to replace by `{folder}`"));
    }
    let parts = path.components().map(|part| match part.as_os_str() {
        name if name == "bin" => folder.as_ref(),
        name => name,
    });
    let mask: PathBuf = parts.collect();
    let mask = mask.with_file_name(base_name(path) + ".nii.gz");
    let place = if nodule {
        &mut scan.nodules
    } else {
        &mut scan.mask
    };
    *place = Some(table.join(mask));
    Ok(())
}

/// Tasks as a file that [`Catalogue::add_file`] reads.
///
/// # Errors
/// [`Error::Table`](crate::Error::Table) where the file cannot be written.
pub fn write_tasks(path: &Path, tasks: &[Task]) -> Result<()> {
    let rows: Vec<serde_json::Value> = tasks
        .iter()
        .map(|t| {
            serde_json::json!({
                "id": t.id, "kind": t.kind, "name": t.name, "label": t.label, "prompt": t.prompt,
            })
        })
        .collect();
    crate::manifest::write_atomically(path, |file| {
        Ok(serde_json::to_writer_pretty(
            file,
            &serde_json::json!({ "tasks": rows }),
        )?)
    })
}
