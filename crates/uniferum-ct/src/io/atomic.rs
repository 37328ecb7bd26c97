//! Writing a file so that a reader sees all of it or none.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// Writes through a temporary file in the same folder, flushed to disk and then renamed.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> crate::Result<()> {
    let done = replace_atomically(path, ".part", |temporary| {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(temporary)?);
        write(&mut out)?;
        out.flush()
    });
    done.map_err(|source| Error::io(path, source))
}

/// Writes a file so that a reader, also one after a crash, sees all of it or what was there before.
///
/// `write` makes a file of the given name in the same folder, which then takes the place of `path`. The
/// name ends in `ending`, for writers that look at it, and has one more dot, in front.
///
/// # Errors
/// Those of `write`, and where the file cannot be moved to its place; nothing is left behind.
pub fn replace_atomically<E: From<io::Error>>(
    path: &Path,
    ending: &str,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = temporary_name(path, ending);
    let outcome = (|| {
        write(&temporary)?;
        // Windows synchronises a file that was opened for writing alone.
        File::options().write(true).open(&temporary)?.sync_all()?;
        Ok(std::fs::rename(&temporary, path)?)
    })();
    if outcome.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    outcome
}

/// A name beside the target that no other process or thread uses: `.KEY-PROCESS-COUNT` and the ending.
///
/// The process goes by a random number: machines and containers that share a folder repeat each other's
/// process ids.
fn temporary_name(path: &Path, ending: &str) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> =
        LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let key = temporary_key(path);
    path.with_file_name(format!(".{key}-{}-{count}{ending}", *PROCESS))
}

/// What the names of all temporary files of a target have in common.
pub(crate) fn temporary_key(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    name.replace('.', "-")
}

/// The key in the name of a temporary file; `None` for any other file.
pub(crate) fn key_of_temporary(name: &str) -> Option<&str> {
    let (stem, _ending) = name.strip_prefix('.')?.split_once('.')?;
    let (rest, count) = stem.rsplit_once('-')?;
    let (key, process) = rest.rsplit_once('-')?;
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (number(count) && number(process)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_files_are_known_by_their_names() {
        let target = Path::new("folder/a.b-1.nii.gz");
        let temporary = temporary_name(target, ".nii.gz");
        let name = temporary.file_name().unwrap().to_str().unwrap();
        assert_eq!(key_of_temporary(name), Some(temporary_key(target).as_str()));
        for other in [
            "a.b-1.nii.gz",
            ".hidden",
            ".a-1.nii",
            ".a-b-1.part",
            ".a-1-.part",
        ] {
            assert_eq!(key_of_temporary(other), None, "{other}");
        }
    }
}
