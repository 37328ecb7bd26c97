//! Three files of one folder: the input in three equal parts.

#![no_main]

// Each target knocks at one of its doors.
#[allow(dead_code)]
#[path = "../../crates/uniferum-ct/tests/hostile/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let third = (data.len() / 3).max(1);
    let parts: Vec<&[u8]> = data.chunks(third).take(3).collect();
    if !parts.is_empty() {
        entry::series(&parts);
    }
});
