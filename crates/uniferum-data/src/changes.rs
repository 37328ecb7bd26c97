//! What two sets of settings differ in.

use serde_json::Value;

/// A line for each setting that is not as it was, by its dotted name below `name`: `train.steps: expected 7,
/// got 9`.
///
/// Settings that came to be later are not in `before` and do not matter; nor do those in `free`.
///
/// ```
/// use serde_json::json;
/// let before = json!({ "steps": 7, "model": { "hidden": 256 } });
/// let now = json!({ "steps": 9, "model": { "hidden": 256, "layers": 4 } });
/// assert_eq!(uniferum_data::changes("run", &before, &now, &[]), ["run.steps: expected 7, got 9"]);
/// assert!(uniferum_data::changes("run", &before, &now, &["run.steps"]).is_empty());
/// ```
pub fn changes(name: &str, before: &Value, now: &Value, free: &[&str]) -> Vec<String> {
    if free.contains(&name) || before == now {
        return Vec::new();
    }
    let (Value::Object(old), Value::Object(new)) = (before, now) else {
        let (before, now) = (short(before), short(now));
        return vec![format!("{name}: expected {before}, got {now}")];
    };
    let below = old.iter().flat_map(|(key, before)| {
        let now = new.get(key).unwrap_or(&Value::Null);
        let name = match name {
            "" => key.clone(),
            _ => format!("{name}.{key}"),
        };
        changes(&name, before, now, free)
    });
    below.collect()
}

/// A value in a line of a message.
fn short(value: &Value) -> String {
    const LENGTH: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
