//! NIfTI-1 and NIfTI-2, plain and gzip.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read(&[("scan", data)]);
});
