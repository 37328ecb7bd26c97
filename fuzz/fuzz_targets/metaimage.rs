//! MetaImage headers, beside a data file that is there.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read(&[("scan", data), ("scan.raw", &[7; 4096])]);
});
