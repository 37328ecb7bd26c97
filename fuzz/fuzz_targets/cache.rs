//! The cache format and the release's `.bin`, as they are and with a right checksum.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read(&[("scan", data)]);
    uniferum_fuzz::read_with_checksum(data);
});
