//! One DICOM file of any transfer syntax, of one frame or of several.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read(&[("scan", data)]);
});
