//! numpy arrays, alone and in zip archives.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read(&[("scan", data)]);
});
