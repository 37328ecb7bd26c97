//! Paths as keys.

use std::path::{Component, Path, PathBuf};

/// A path without `.` and, as far as it can be told without asking the disk, `..`: two spellings of one file
/// are one key.
pub(crate) fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        let above = matches!(out.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::CurDir => {}
            Component::ParentDir if above => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_spellings_of_one_file_are_one_key() {
        let plain = |path: &str| plain(Path::new(path)).display().to_string();
        assert_eq!(plain("./scans/../scans/./x.uct"), "scans/x.uct");
        assert_eq!(plain("/a/../b"), "/b");
        assert_eq!(plain("../../b/c"), "../../b/c");
    }
}
