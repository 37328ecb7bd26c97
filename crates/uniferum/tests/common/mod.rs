//! What the tests of the command share.
#![allow(dead_code)] // each test file uses a part

use std::path::Path;
use std::process::{Command, Output};

use uniferum_ct::{Volume, write_nifti};
use uniferum_phantom::PhantomConfig;

/// The command under test.
pub(crate) fn uniferum() -> Command {
    Command::new(env!("CARGO_BIN_EXE_uniferum"))
}

/// What a run said on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a run said that must have succeeded.
pub(crate) fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

/// What a run printed that must have succeeded.
pub(crate) fn printed(output: &Output) -> String {
    succeeds(output);
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a run said that must have failed with an error, not with a panic.
pub(crate) fn refused(output: &Output) -> String {
    let said = said(output);
    assert!(matches!(output.status.code(), Some(1 | 2)), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A run must have failed with an error that says `part`.
pub(crate) fn fails(output: &Output, part: &str) {
    let said = refused(output);
    assert!(said.contains(part), "{part:?} in {said}");
}

/// Phantoms of a doll's size.
pub(crate) fn small_phantom() -> PhantomConfig {
    PhantomConfig {
        shape: [48, 40, 32],
        spacing_mm: [8.0; 3],
        ..PhantomConfig::default()
    }
}

/// Writes a binary file for each of some labels of a map, as `TotalSegmentator -o` does.
pub(crate) fn write_classes(folder: &Path, map: &Volume<u8>, classes: &[(&str, u8)]) {
    std::fs::create_dir_all(folder).unwrap();
    for &(name, label) in classes {
        let class = map.voxels.mapv(|v| u8::from(v == label));
        let class = Volume::new(class, map.affine);
        write_nifti(folder.join(format!("{name}.nii.gz")), &class).unwrap();
    }
}
