//! The question that is asked about a report, and the answer that is taken.

use serde::{Deserialize, Serialize};

/// The paper's prompt for a finding and a report.
///
/// # Reference
/// Paper, supplement.
pub fn prompt(pathology: &str, report: &str) -> String {
    format!(
        "Please review the radiology report and identify any findings indicative of {pathology}, focusing on \
         the lung region and heart. Return the following in a structured JSON format:\n\
         {{\n\
         \"KeySentence\": \"Provide the key sentence in the report that supports your answer. If no relevant \
         sentences, return 'NONE'.\",\n\
         \"PresenceOfPathology\": \"Answer with 'Yes' or 'No' based on the presence of {pathology}. If no \
         pathology is mentioned, assume 'No'.\"\n\
         }}\n\
         Return nothing else.\n\
         Below is the report:\n\
         {report}"
    )
}

/// What the model said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether the report says that the finding is there.
    pub present: bool,
    /// The sentence that says so; `None` for `NONE`.
    pub key_sentence: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// Text; some models write null where they were asked for `NONE`.
    #[serde(rename = "KeySentence")]
    key_sentence: serde_json::Value,
    #[serde(rename = "PresenceOfPathology")]
    presence: String,
}

/// Reads an answer: a JSON object with exactly the two fields, `Yes` or `No`, and nothing around it but
/// the fence that some models put around JSON, and the thoughts (`<think>…</think>`) that some put first.
///
/// # Errors
/// A sentence with what was expected and what came; nothing is guessed from free text.
pub fn parse_answer(text: &str) -> Result<Answer, String> {
    let trimmed = without_thoughts(text).trim();
    let fenced = trimmed
        .strip_prefix("```")
        .and_then(|t| t.strip_suffix("```"));
    let body = fenced
        .map_or(trimmed, |t| t.strip_prefix("json").unwrap_or(t))
        .trim();
    let short: String = trimmed.chars().take(200).collect();
    let raw: Raw = serde_json::from_str(body)
        .map_err(|e| format!("not the JSON that was asked for ({e}): {short:?}"))?;
    let present = match raw.presence.trim().trim_end_matches('.') {
        "Yes" | "yes" | "YES" => true,
        "No" | "no" | "NO" => false,
        other => {
            return Err(format!(
                "PresenceOfPathology: expected Yes or No, got {other:?}"
            ));
        }
    };
    let sentence = match &raw.key_sentence {
        serde_json::Value::Null => "",
        serde_json::Value::String(text) => text.trim(),
        other => return Err(format!("KeySentence: expected a text, got {other}")),
    };
    let none = sentence.is_empty() || sentence.eq_ignore_ascii_case("none");
    Ok(Answer {
        present,
        key_sentence: (!none).then(|| sentence.to_owned()),
    })
}

/// What follows the thoughts; a server may keep back the tag that opens them.
fn without_thoughts(text: &str) -> &str {
    let thoughts = text.split_once("</think>");
    match thoughts {
        Some((before, after)) if !before.trim_start().starts_with('{') => after,
        _ => text,
    }
}

impl Answer {
    /// Whether the key sentence stands in the report, but for case, spaces and punctuation; a model may
    /// make one up.
    pub fn sentence_is_in(&self, report: &str) -> bool {
        let plain = |text: &str| -> String {
            text.chars()
                .filter(|c| c.is_alphanumeric())
                .flat_map(char::to_lowercase)
                .collect()
        };
        let sentence = self.key_sentence.as_deref();
        sentence.is_none_or(|s| plain(report).contains(&plain(s)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_fields_and_yes_or_no_are_taken() {
        let yes = r#"{"KeySentence": "Small effusion.", "PresenceOfPathology": "Yes"}"#;
        let answer = parse_answer(yes).unwrap();
        assert!(answer.present);
        assert_eq!(answer.key_sentence.as_deref(), Some("Small effusion."));
        assert_eq!(parse_answer(&format!("```json\n{yes}\n```")), Ok(answer));
        for thoughts in ["<think>\nNo {fluid}?\n</think>\n\n", "It says so.</think>"] {
            assert!(parse_answer(&format!("{thoughts}{yes}")).unwrap().present);
        }
        let no =
            parse_answer(r#" {"PresenceOfPathology": "No.", "KeySentence": "NONE"} "#).unwrap();
        assert_eq!(
            no,
            Answer {
                present: false,
                key_sentence: None
            }
        );
        for wrong in [
            "Yes",
            "Sure! {\"KeySentence\": \"a\", \"PresenceOfPathology\": \"Yes\"}",
            r#"{"KeySentence": "a", "PresenceOfPathology": "Maybe"}"#,
            r#"{"KeySentence": "a"}"#,
            r#"{"KeySentence": "a", "PresenceOfPathology": true}"#,
            r#"{"KeySentence": "a", "PresenceOfPathology": "Yes", "Why": "b"}"#,
            r#"[{"KeySentence": "a", "PresenceOfPathology": "Yes"}]"#,
        ] {
            assert!(parse_answer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_made_up_sentence_is_noticed() {
        let report = "1. No embolism.\n2. Small left pleural effusion, unchanged.";
        let answer = |s: &str| Answer {
            present: true,
            key_sentence: Some(s.to_owned()),
        };
        assert!(answer("small left  pleural effusion unchanged").sentence_is_in(report));
        assert!(!answer("Large right pleural effusion.").sentence_is_in(report));
        assert!(
            Answer {
                present: false,
                key_sentence: None
            }
            .sentence_is_in(report)
        );
    }

    #[test]
    fn the_prompt_is_the_papers() {
        let text = prompt("emphysema", "Lungs clear.");
        assert!(text.starts_with(
            "Please review the radiology report and identify any findings indicative of emphysema,"
        ));
        assert!(text.contains("If no pathology is mentioned, assume 'No'."));
        assert!(text.ends_with("Return nothing else.\nBelow is the report:\nLungs clear."));
        assert!(!text.contains("{{") && !text.contains("PATHOLOGY}"));
    }
}
