//! What the cells of a manifest mean.

use uniferum_ct::HuSource;

use super::Split;

/// Whether a cell says in the words of spreadsheets and scripts that there is nothing.
pub fn is_missing(text: &str) -> bool {
    const WORDS: [&str; 8] = ["", "nan", "na", "n/a", "#n/a", "<na>", "none", "null"];
    WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A label cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// The scan shows it, or the event happened.
    Positive,
    /// It does not.
    Negative,
    /// Nobody knows.
    Missing,
    /// The patient was lost before the outcome could be known: missing, and counted as such.
    Censored,
}

impl Label {
    /// Reads 1 and 0 as any number is written, `true` and `false` in any case; empty, `nan`, `na`, `n/a`,
    /// `none`, `null` and -1 are missing, everything that begins with `censor` is censored.
    ///
    /// # Errors
    /// A sentence, for any other text: a guess would become a label.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        match lower.as_str() {
            "true" => return Ok(Label::Positive),
            "false" => return Ok(Label::Negative),
            missing if is_missing(missing) => return Ok(Label::Missing),
            censored if censored.starts_with("censor") => return Ok(Label::Censored),
            _ => {}
        }
        match lower.parse::<f64>() {
            Ok(1.0) => Ok(Label::Positive),
            Ok(0.0) => Ok(Label::Negative),
            Ok(-1.0) => Ok(Label::Missing),
            _ => Err(format!(
                "label: expected 1, 0, true, false, censored or nothing, got {text:?}"
            )),
        }
    }

    /// Positive or negative, if it is known.
    pub fn known(self) -> Option<bool> {
        match self {
            Label::Positive => Some(true),
            Label::Negative => Some(false),
            Label::Missing | Label::Censored => None,
        }
    }
}

/// `train`, `val` or `test`, also `training`, `valid`, `validation` and `testing`, in any case.
pub(crate) fn split_cell(text: &str) -> Result<Split, String> {
    match text.to_ascii_lowercase().as_str() {
        "train" | "training" => Ok(Split::Train),
        "val" | "valid" | "validation" => Ok(Split::Val),
        "test" | "testing" => Ok(Split::Test),
        _ => Err(format!("split: expected train, val or test, got {text:?}")),
    }
}

/// `header`, `already_hu` or `table` with slope and intercept.
pub(super) fn hu(source: &str, slope: &str, intercept: &str) -> Result<HuSource, String> {
    match source {
        "" | "header" => Ok(HuSource::Header),
        "already_hu" => Ok(HuSource::AlreadyHu),
        "table" => Ok(HuSource::Table {
            slope: number("hu_slope", slope)?,
            intercept: number("hu_intercept", intercept)?,
        }),
        other => Err(format!(
            "hu_source: expected header, already_hu or table, got {other:?}"
        )),
    }
}

/// The three cells of [`hu`].
pub(super) fn hu_cells(hu: HuSource) -> [String; 3] {
    let none = String::new;
    match hu {
        HuSource::Header => ["header".to_owned(), none(), none()],
        HuSource::AlreadyHu => ["already_hu".to_owned(), none(), none()],
        HuSource::Table { slope, intercept } => {
            ["table".to_owned(), slope.to_string(), intercept.to_string()]
        }
    }
}

/// A finite number; the error names the column.
pub(crate) fn number(name: &str, text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{name}: expected a number, got {text:?}")),
    }
}

/// Three positive lengths in mm separated by spaces, or nothing.
pub(super) fn spacing(text: &str) -> Result<Option<[f64; 3]>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let values: Result<Vec<f64>, String> = text
        .split_whitespace()
        .map(|part| number("spacing_mm", part))
        .collect();
    match values?.as_slice() {
        &[x, y, z] if x > 0.0 && y > 0.0 && z > 0.0 => Ok(Some([x, y, z])),
        _ => Err(format!(
            "spacing_mm: expected three lengths such as `0.8 0.8 1.5`, got {text:?}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_the_collections() {
        for text in ["TRUE", "True", "1", "1.0", "1.000", " true "] {
            assert_eq!(Label::parse(text), Ok(Label::Positive), "{text}");
        }
        for text in ["FALSE", "False", "0", "0.0"] {
            assert_eq!(Label::parse(text), Ok(Label::Negative), "{text}");
        }
        for text in ["Censored", "Censor", "CENSORED"] {
            assert_eq!(Label::parse(text), Ok(Label::Censored), "{text}");
            assert_eq!(Label::parse(text).unwrap().known(), None);
        }
        for text in ["", "NaN", "-1", "-1.0", "None", "n/a", "#N/A", "<NA>"] {
            assert_eq!(Label::parse(text), Ok(Label::Missing), "{text}");
        }
        for text in ["yes", "2", "0.5", "inf"] {
            assert!(Label::parse(text).unwrap_err().contains(text));
        }
    }

    #[test]
    fn hounsfield_sources_survive_their_cells() {
        let table = HuSource::Table {
            slope: 1.0,
            intercept: -8192.0,
        };
        for source in [HuSource::Header, HuSource::AlreadyHu, table] {
            let [a, b, c] = hu_cells(source);
            assert_eq!(hu(&a, &b, &c), Ok(source));
        }
        assert!(hu("table", "", "0").unwrap_err().contains("hu_slope"));
        assert_eq!(spacing("0.8 0.8 1.5"), Ok(Some([0.8, 0.8, 1.5])));
        assert!(spacing("0.8 0.8").is_err() && spacing("0 1 1").is_err());
    }
}
