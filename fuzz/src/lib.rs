//! What the fuzz targets have in common: the doors of the readers, and which panics count.

#[path = "../../crates/uniferum-ct/tests/hostile/entry.rs"]
mod entry;

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::sync::Mutex;

use uniferum_ct::io::cache::Hash;

/// What the last panic said.
static LAST: Mutex<String> = Mutex::new(String::new());

/// Lets panics unwind: the readers catch those of other crates' decoders, which libFuzzer's own hook would
/// count as crashes. One that nobody catches ends the process below.
pub fn start() {
    set_hook(Box::new(|info| {
        if let Ok(mut last) = LAST.lock() {
            *last = info.to_string();
        }
    }));
}

/// Reads the first of these files by every door there is.
pub fn read(files: &[(&str, &[u8])]) {
    watch(|| entry::read(files));
}

/// Reads the input as a DICOM series of three files, its equal parts.
pub fn read_series(data: &[u8]) {
    let third = (data.len() / 3).max(1);
    let parts: Vec<&[u8]> = data.chunks(third).take(3).collect();
    if !parts.is_empty() {
        watch(|| entry::series(&parts));
    }
}

/// Reads the input as a cache file whose checksum, its last 32 bytes, is made right; no fuzzer finds it.
pub fn read_with_checksum(data: &[u8]) {
    let body = &data[..data.len().saturating_sub(32)];
    read(&[("scan", &[body, &Hash::of(body).0].concat())]);
}

fn watch(work: impl FnOnce() -> bool) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        let last = LAST.lock().map(|last| last.clone());
        eprintln!("{}", last.unwrap_or_default());
        std::process::abort();
    }
}
