//! Separated text as spreadsheets and scripts write it.

use std::borrow::Cow;
use std::io::Cursor;
use std::path::Path;

use encoding_rs::{Encoding, UTF_8};

/// A reader of separated text: UTF-8, or UTF-16 with its mark.
///
/// The separator is what a first line `sep=;` says; else the tab where the name ends in `.tsv` or the head has
/// tabs and no comma, the semicolon where it has some and no comma, else the comma.
///
/// # Errors
/// A sentence: the file cannot be read, is of another encoding, or is a spreadsheet's workbook.
pub fn read_separated(path: &Path) -> Result<csv::Reader<Cursor<Vec<u8>>>, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    let text = decode(&bytes)?;
    let (separator, text) = separator(path, &text);
    let mut builder = csv::ReaderBuilder::new();
    let text = Cursor::new(text.as_bytes().to_vec());
    Ok(builder.delimiter(separator).from_reader(text))
}

/// The text of a file: UTF-8, or UTF-16 with its mark; the mark is no part of it.
///
/// # Errors
/// A sentence: the file cannot be read, is of another encoding, or is a spreadsheet's workbook.
pub fn read_text(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| e.to_string())?;
    decode(&bytes).map(Cow::into_owned)
}

/// The text of a file in UTF-8, or in UTF-16 with its mark; a guess at other encodings could change a
/// path or a name.
fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Err("expected a table as text or parquet, got a workbook: save it as CSV".into());
    }
    let (encoding, mark) = Encoding::for_bom(bytes).unwrap_or((UTF_8, 0));
    let text = encoding.decode_without_bom_handling_and_without_replacement(&bytes[mark..]);
    text.ok_or_else(|| {
        let valid = std::str::from_utf8(bytes).map_or_else(|e| e.valid_up_to(), str::len);
        let line = 1 + bytes[..valid].iter().filter(|b| **b == b'\n').count();
        let name = encoding.name();
        format!("line {line}: expected {name}, got other bytes: save the table as UTF-8")
    })
}

/// The separator, and the text behind the line `sep=;` that some spreadsheets write.
fn separator<'a>(path: &Path, text: &'a str) -> (u8, &'a str) {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let first = first.trim_end();
    if let Some(&[separator]) = first.strip_prefix("sep=").map(str::as_bytes) {
        return (separator, rest);
    }
    let tabs = path.extension().is_some_and(|e| e == "tsv" || e == "tab");
    let separator = match first.contains(',') {
        _ if tabs => b'\t',
        false if first.contains('\t') => b'\t',
        false if first.contains(';') => b';',
        _ => b',',
    };
    (separator, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_by_their_marks_and_never_guessed() {
        let utf16: Vec<u8> = "\u{feff}scan;Größe"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(decode(&utf16).unwrap(), "scan;Größe");
        let utf16: Vec<u8> = "\u{feff}scan"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert_eq!(decode(&utf16).unwrap(), "scan");
        assert_eq!(decode("\u{feff}scan".as_bytes()).unwrap(), "scan");
        assert_eq!(decode("Größe".as_bytes()).unwrap(), "Größe");
        let latin = decode(b"scan\nGr\xf6\xdfe").unwrap_err();
        assert!(
            latin.contains("line 2") && latin.contains("UTF-8"),
            "{latin}"
        );
        assert!(decode(b"PK\x03\x04...").unwrap_err().contains("workbook"));
    }

    #[test]
    fn separators_by_name_by_mark_and_by_head() {
        let of = |path: &str, text: &'static str| separator(Path::new(path), text);
        assert_eq!(of("a.csv", "a,b;c\n1,2"), (b',', "a,b;c\n1,2"));
        assert_eq!(of("a.csv", "a;b\r\n1,5;2"), (b';', "a;b\r\n1,5;2"));
        assert_eq!(of("a.txt", "a\tb;c"), (b'\t', "a\tb;c"));
        assert_eq!(of("a.tsv", "a,b"), (b'\t', "a,b"));
        assert_eq!(of("a.csv", "sep=;\r\na;b,c"), (b';', "a;b,c"));
    }
}
