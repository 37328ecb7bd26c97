//! The tasks of each collection, as tables.

pub(crate) mod anatomy;
pub(crate) mod ct_rate;
pub(crate) mod inspect;
pub(crate) mod phantom;
pub(crate) mod rad_chest;

use crate::{Relation, Task};

/// Column, readable name, relation, organ, shared finding.
pub(crate) type Row = (
    &'static str,
    &'static str,
    Relation,
    &'static str,
    Option<&'static str>,
);

pub(crate) fn diagnoses(group: &str, rows: &[Row]) -> Vec<Task> {
    rows.iter()
        .map(|&(label, name, relation, organ, finding)| {
            Task::diagnosis(group, label, name, relation, organ).with_finding(finding)
        })
        .collect()
}
