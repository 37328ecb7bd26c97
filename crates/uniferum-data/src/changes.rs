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
/// let (before, now) = (json!({ "ask": ["a", "b"] }), json!({ "ask": ["a", "c"] }));
/// assert_eq!(uniferum_data::changes("", &before, &now, &[]), [r#"ask[1]: expected "b", got "c""#]);
/// let now = json!({ "ask": ["a"] });
/// assert_eq!(uniferum_data::changes("", &before, &now, &[]), ["ask: expected 2 entries, got 1"]);
/// ```
pub fn changes(name: &str, before: &Value, now: &Value, free: &[&str]) -> Vec<String> {
    if free.contains(&name) || before == now {
        return Vec::new();
    }
    let (old, new) = match (before, now) {
        (Value::Object(old), Value::Object(new)) => (old, new),
        (Value::Array(old), Value::Array(new)) => return of_lists(name, old, new, free),
        _ => {
            let (before, now) = (short(before), short(now));
            return vec![format!("{name}: expected {before}, got {now}")];
        }
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

fn of_lists(name: &str, old: &[Value], new: &[Value], free: &[&str]) -> Vec<String> {
    let whole = old.len() != new.len() || old.iter().all(Value::is_number);
    if whole && old.iter().chain(new).all(Value::is_number) {
        let [old, new] = [old, new].map(|list| short(&Value::from(list)));
        return vec![format!("{name}: expected {old}, got {new}")];
    }
    if whole {
        let (old, new) = (old.len(), new.len());
        return vec![format!("{name}: expected {old} entries, got {new}")];
    }
    let pairs = old.iter().zip(new).enumerate();
    pairs
        .flat_map(|(i, (old, new))| changes(&format!("{name}[{i}]"), old, new, free))
        .collect()
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
