//! One plan a folder.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::Value;
use uniferum_ct::replace_atomically;
use uniferum_data::changes;

/// Writes what the folder's results depend on, or checks that it is what they were begun with.
pub(crate) fn claim(path: &Path, plan: &impl Serialize) -> anyhow::Result<()> {
    let place = || path.display().to_string();
    let text = serde_json::to_string_pretty(plan)? + "\n";
    if !path.is_file() {
        return replace_atomically(path, ".part", |part| std::fs::write(part, text))
            .with_context(place);
    }
    let before = std::fs::read_to_string(path).with_context(place)?;
    let before: Value = serde_json::from_str(&before).with_context(place)?;
    // By way of text, as the other: numbers are rounded there.
    let now: Value = serde_json::from_str(&text)?;
    let differ = changes("", &before, &now, &[]);
    ensure!(
        differ.is_empty() && before == now,
        "{}: the folder was begun with other settings ({}); give those, or another --out",
        path.display(),
        match differ.is_empty() {
            true => "of an earlier version".to_owned(),
            false => differ.join("; "),
        }
    );
    Ok(())
}
