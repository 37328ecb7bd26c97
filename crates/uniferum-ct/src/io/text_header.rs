//! What the text headers of MetaImage and NRRD have in common.

use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// Longest text header that is read, bytes.
pub(crate) const MAX_HEADER: usize = 1 << 16;

/// Numbers between blanks, commas or brackets; `None` if one does not parse.
pub(crate) fn numbers(text: &str) -> Option<Vec<f64>> {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')'))
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().ok())
        .collect()
}

/// Exactly `N` numbers.
pub(crate) fn exactly<const N: usize>(
    path: &Path,
    field: &'static str,
    text: &str,
) -> Result<[f64; N]> {
    numbers(text)
        .and_then(|list| list.try_into().ok())
        .ok_or_else(|| Error::field(path, field, format!("{N} numbers"), text))
}

/// Three positive sizes.
pub(crate) fn sizes(path: &Path, field: &'static str, text: &str) -> Result<[usize; 3]> {
    let sizes: Option<Vec<usize>> = text
        .split_whitespace()
        .map(|word| {
            word.parse()
                .ok()
                .filter(|&n| n > 0 && n <= i32::MAX as usize)
        })
        .collect();
    sizes
        .and_then(|list| list.try_into().ok())
        .ok_or_else(|| Error::field(path, field, "three positive sizes", text))
}

/// A data file named in a header: beside it or in a folder below, never elsewhere.
pub(crate) fn data_file(path: &Path, field: &'static str, name: &str) -> Result<PathBuf> {
    let relative = Path::new(name);
    let inside = !name.is_empty()
        && relative
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        let expected = "a file in the header's folder";
        return Err(Error::field(path, field, expected, format!("{name:?}")));
    }
    Ok(path.with_file_name("").join(relative))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_files_stay_in_the_headers_folder() {
        let header = Path::new("/data/a.mhd");
        assert_eq!(
            data_file(header, "f", "a.raw").unwrap(),
            Path::new("/data/a.raw")
        );
        for name in ["/etc/passwd", "../a.raw", "sub/../../a.raw", ""] {
            assert!(data_file(header, "f", name).is_err(), "{name}");
        }
    }

    #[test]
    fn numbers_come_in_any_bracket() {
        assert_eq!(
            numbers("(1,0,-2.5) (3,4,5)").unwrap(),
            [1.0, 0.0, -2.5, 3.0, 4.0, 5.0]
        );
        assert!(numbers("1 x").is_none());
    }
}
