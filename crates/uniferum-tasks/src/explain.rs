//! A task in words.

use std::fmt::Write;

use crate::related::RELATED;
use crate::{Catalogue, Task, TaskKind, totalsegmentator};

impl Catalogue {
    /// Several lines that say what a task asks, what answers it, and where else it occurs.
    ///
    /// ```
    /// use uniferum_tasks::Catalogue;
    /// let catalogue = Catalogue::standard();
    /// let text = catalogue.explain(catalogue.get("anatomy.left-lung").unwrap());
    /// assert!(text.contains("lung_upper_lobe_left (10)"));
    /// assert!(text.contains("public release uses 12, 13, 14"));
    /// ```
    pub fn explain(&self, task: &Task) -> String {
        let mut lines = vec![
            format!("{}  ({})", task.id, task.kind),
            format!("asks      {}", task.prompt),
            format!("answer    {}", answer(task)),
            format!("source    {}", source(task)),
        ];
        lines.extend(organ(task));
        lines.extend(release(task));
        lines.extend(self.same_line(task));
        lines.extend(related(task));
        lines.join("\n  ") + "\n"
    }

    fn same_line(&self, task: &Task) -> Option<String> {
        let same = self.same_finding(task);
        let ids: Vec<&str> = same.iter().map(|t| t.id.as_str()).collect();
        (!ids.is_empty()).then(|| format!("same as   {}", ids.join(", ")))
    }
}

fn organ(task: &Task) -> Option<String> {
    let organ = task.organ.as_ref()?;
    Some(format!("organ     {organ} ({})", task.relation.as_str()))
}

fn answer(task: &Task) -> String {
    match task.kind {
        TaskKind::Diagnosis => "the probability that the scan shows it".to_owned(),
        TaskKind::Prognosis => match task.months {
            Some(months) => format!("the probability of the event within {months} month(s)"),
            None => "the probability of the event".to_owned(),
        },
        TaskKind::Segmentation => {
            "a mask, one value per 8x8x8 voxels of the model's grid".to_owned()
        }
    }
}

fn source(task: &Task) -> String {
    if !task.kind.is_segmentation() {
        return format!("column `{}` of {}", task.label, task.group);
    }
    if task.is_nodule() {
        return "a mask file of its own, voxels above 0".to_owned();
    }
    let names: Vec<String> = task.mask_labels.iter().map(|&id| named(id)).collect();
    format!("TotalSegmentator v2: {}", names.join(", "))
}

fn named(id: u16) -> String {
    match totalsegmentator::name(id) {
        Some(name) => format!("{name} ({id})"),
        None => format!("{id}"),
    }
}

fn release(task: &Task) -> Option<String> {
    let tag = task.release_tag.as_ref()?;
    let mut line = format!("release   `Segment:{tag}`");
    if !task.mask_labels.is_empty() && task.release_labels != task.mask_labels {
        let ids: Vec<String> = task.release_labels.iter().map(u16::to_string).collect();
        // Writing to a String cannot fail.
        let _ = write!(line, "; the public release uses {}", ids.join(", "));
    }
    Some(line)
}

fn related(task: &Task) -> Vec<String> {
    RELATED
        .iter()
        .filter_map(|&(a, b, how)| match task.id.as_str() {
            id if id == a => Some(format!("near to   {b}: {how}")),
            id if id == b => Some(format!("near to   {a}: {how}")),
            _ => None,
        })
        .collect()
}
