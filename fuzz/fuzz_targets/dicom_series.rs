//! Three files of one folder: the input in three equal parts.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read_series(data);
});
