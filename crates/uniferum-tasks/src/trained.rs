//! The questions that a model was trained on, in a file beside its weights.
//!
//! A model answers any sentence; the answer to one that it never learnt means little.

use std::fs;
use std::path::Path;

use crate::{Error, Result, Task};

/// The file's name.
pub const FILE_NAME: &str = "questions.json";

/// The folder of a model, by the file of its weights or itself: what its use needs lies there.
pub fn folder(checkpoint: &Path) -> &Path {
    match checkpoint.is_dir() {
        true => checkpoint,
        false => checkpoint.parent().unwrap_or(Path::new("")),
    }
}

/// Writes the questions into the folder of a model.
///
/// # Errors
/// When the file cannot be written.
pub fn save(folder: &Path, tasks: &[Task]) -> Result<()> {
    let path = folder.join(FILE_NAME);
    let text = serde_json::to_string_pretty(tasks).map_err(|e| Error::Parse {
        path: path.clone(),
        reason: e.to_string(),
    })?;
    fs::write(&path, text + "\n").map_err(|source| Error::Write { path, source })
}

/// The questions of a model, by the file of its weights or its folder; `None` where nobody wrote them.
///
/// # Errors
/// When the file cannot be read or has unknown fields.
pub fn beside(checkpoint: &Path) -> Result<Option<Vec<Task>>> {
    let path = folder(checkpoint).join(FILE_NAME);
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(|source| Error::Read {
        path: path.clone(),
        source,
    })?;
    let tasks = serde_json::from_str(&text).map_err(|e| Error::Parse {
        path,
        reason: e.to_string(),
    })?;
    Ok(Some(tasks))
}

/// Those of `asked` that a model has not learnt: it reads sentences, whatever their ids.
pub fn unknown<'a>(asked: &'a [Task], trained: &[Task]) -> Vec<&'a Task> {
    let same = |a: &Task, b: &Task| a.kind == b.kind && a.prompt.eq_ignore_ascii_case(&b.prompt);
    let known = |task: &Task| trained.iter().any(|t| same(t, task));
    asked.iter().filter(|task| !known(task)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn questions_survive_their_file_and_are_known_by_their_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.safetensors");
        assert_eq!(beside(&weights).unwrap(), None);
        let catalogue = Catalogue::standard();
        let trained: Vec<Task> = catalogue.group("ct-rate").into_iter().cloned().collect();
        save(folder.path(), &trained).unwrap();
        assert_eq!(beside(&weights).unwrap().as_ref(), Some(&trained));
        assert_eq!(beside(folder.path()).unwrap().as_ref(), Some(&trained));
        let asked = [
            Task::from_question(&trained[3].prompt),
            Task::from_question("Diagnose the presence of gout in the chest"),
            catalogue.get("anatomy.heart").unwrap().clone(),
        ];
        let unknown: Vec<&str> = unknown(&asked, &trained)
            .iter()
            .map(|t| t.prompt.as_str())
            .collect();
        assert_eq!(unknown, [asked[1].prompt.as_str(), &asked[2].prompt]);
        fs::write(folder.path().join(FILE_NAME), "[{}]").unwrap();
        let error = beside(&weights).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME), "{error}");
    }
}
