//! The three templates that turn a label into a question.
//!
//! # Reference
//! Paper, section 3.3.

use crate::Relation;

/// `Diagnose the presence of {name} in/around the {organ}`.
///
/// ```
/// use uniferum_tasks::{Relation, prompt};
/// assert_eq!(
///     prompt::diagnosis("pleural effusion", Relation::Around, "lungs"),
///     "Diagnose the presence of pleural effusion around the lungs",
/// );
/// ```
pub fn diagnosis(name: &str, relation: Relation, organ: &str) -> String {
    format!(
        "Diagnose the presence of {name} {} the {organ}",
        relation.as_str()
    )
}

/// `Predict the risk of {name} in {months} months`.
///
/// ```
/// use uniferum_tasks::prompt;
/// assert_eq!(prompt::prognosis("mortality", 6), "Predict the risk of mortality in 6 months");
/// assert_eq!(prompt::prognosis("mortality", 1), "Predict the risk of mortality in 1 month");
/// ```
pub fn prognosis(name: &str, months: u16) -> String {
    let unit = if months == 1 { "month" } else { "months" };
    format!("Predict the risk of {name} in {months} {unit}")
}

/// `Segment {name} in the image.`, with the article where the name is not numbered.
///
/// ```
/// use uniferum_tasks::prompt;
/// assert_eq!(prompt::segmentation("lungs"), "Segment the lungs in the image.");
/// assert_eq!(prompt::segmentation("left rib 4"), "Segment left rib 4 in the image.");
/// ```
pub fn segmentation(name: &str) -> String {
    let numbered = name.ends_with(|c: char| c.is_ascii_digit());
    let article = if numbered { "" } else { "the " };
    format!("Segment {article}{name} in the image.")
}

/// The question that the public release makes of the tag after `Segment:` in its tables.
///
/// ```
/// use uniferum_tasks::prompt;
/// assert_eq!(prompt::release_segmentation("lungs"), "Segment lungs in the image.");
/// assert_eq!(prompt::release_segmentation("Nodule"), "Segment pulmonary nodules in the image.");
/// ```
pub fn release_segmentation(tag: &str) -> String {
    let name = if tag == "Nodule" {
        "pulmonary nodules"
    } else {
        tag
    };
    format!("Segment {name} in the image.")
}
