//! What the files that belong to a scan are called.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::bail;
use uniferum_data::base_name;
use uniferum_tasks::{Task, slug};

/// A name for each scan, all different: its file's, behind its folder's where several scans have it.
pub(crate) fn of<'a>(scans: impl Iterator<Item = &'a Path> + Clone) -> anyhow::Result<Vec<String>> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for scan in scans.clone() {
        *count.entry(base_name(scan)).or_default() += 1;
    }
    let name = |scan: &Path| {
        let name = base_name(scan);
        match scan.parent().and_then(Path::file_name) {
            Some(folder) if count[&name] > 1 => format!("{}_{name}", folder.to_string_lossy()),
            _ => name,
        }
    };
    let names: Vec<String> = scans.clone().map(name).collect();
    let mut owners: BTreeMap<&str, &Path> = BTreeMap::new();
    for (name, scan) in names.iter().zip(scans) {
        if let Some(other) = owners.insert(name, scan) {
            bail!(
                "--save-masks: the masks of {} and {} would have one name, {name}: ask about them in runs \
                 with an --out each",
                other.display(),
                scan.display()
            );
        }
    }
    Ok(names)
}

/// A name for the masks of each question, by its id, all different: a sentence's words, and a number behind
/// them where another sentence has the same ones.
pub(crate) fn of_masks(tasks: &[Task]) -> BTreeMap<String, String> {
    // File systems take 255 bytes for the whole name.
    const LONGEST: usize = 100;
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let masks = tasks.iter().filter(|task| task.kind.is_segmentation());
    let names = masks.map(|task| {
        let mut words = slug(&task.id);
        words.truncate(LONGEST);
        words.truncate(words.trim_end_matches('-').len());
        if words.is_empty() {
            // Of a script that has no words here.
            words.push_str("question");
        }
        let mut name = words.clone();
        let mut number = 1;
        while !taken.insert(name.clone()) {
            number += 1;
            name = format!("{words}-{number}");
        }
        (task.id.clone(), name)
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_do_not_share_a_name() {
        let ask = |text: &str| Task::from_question(text);
        let tasks = [
            ask("Segment the nodules > 6 mm"),
            ask("Segment the nodules < 6 mm"),
            ask("Is there emphysema?"),
            ask(&format!("Segment {}", "every ".repeat(60))),
            ask("Segment nodules"),
            ask("Segment nodules 2"),
            ask("Segment nodules!"),
        ];
        let names = of_masks(&tasks);
        let different: BTreeSet<&String> = names.values().collect();
        assert_eq!((names.len(), different.len()), (6, 6));
        assert_eq!(names[&tasks[0].id], "segment-the-nodules-6-mm");
        assert_eq!(names[&tasks[1].id], "segment-the-nodules-6-mm-2");
        assert!(names[&tasks[3].id].len() <= 100);
    }

    fn names(scans: &[&str]) -> anyhow::Result<Vec<String>> {
        of(scans.iter().map(Path::new))
    }

    #[test]
    fn scans_do_not_share_a_name() {
        let series = names(&[
            "a/1.2.840.1.nii.gz",
            "a/1.2.840.2.nii.gz",
            "dicom/1.2.840.3",
        ]);
        assert_eq!(series.unwrap(), ["1.2.840.1", "1.2.840.2", "1.2.840.3"]);
        let patients = names(&["p1/ct.nii.gz", "p2/ct.nii.gz", "p2/other.nii"]);
        assert_eq!(patients.unwrap(), ["p1_ct", "p2_ct", "other"]);
        for equal in [["a/p/ct.nii", "b/p/ct.nii"], ["ct.nii", "ct.nii"]] {
            let error = names(&equal).unwrap_err().to_string();
            assert!(
                error.contains(equal[0]) && error.contains(equal[1]),
                "{error}"
            );
        }
    }
}
