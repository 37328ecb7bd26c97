//! Every example runs to its end, as a reader would run it.

use std::path::PathBuf;
use std::process::Command;

/// Examples are built beside the tests: `target/<profile>/examples`.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let profile = test.parent().and_then(|deps| deps.parent());
    let folder = profile.expect("the profile's folder").join("examples");
    folder
        .join(name)
        .with_extension(std::env::consts::EXE_EXTENSION)
}

#[test]
fn every_example_runs() {
    let sources = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap();
    let mut names: Vec<String> = sources
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let stem = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == "rs").then_some(stem)
        })
        .collect();
    names.sort();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let output = Command::new(built(&name)).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {error}");
        assert!(!output.stdout.is_empty(), "{name} printed nothing");
    }
}
