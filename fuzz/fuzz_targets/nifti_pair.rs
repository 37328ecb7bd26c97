//! The header of a NIfTI pair, beside voxels that are there.

#![no_main]

libfuzzer_sys::fuzz_target!(init: uniferum_fuzz::start(), |data: &[u8]| {
    uniferum_fuzz::read(&[("scan.hdr", data), ("scan.img", &[7; 4096])]);
});
