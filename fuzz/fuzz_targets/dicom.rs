//! One DICOM file of any transfer syntax.

#![no_main]

// Each target knocks at one of its doors.
#[allow(dead_code)]
#[path = "../../crates/uniferum-ct/tests/hostile/entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    entry::read(&[("scan", data)]);
});
