//! `uniferum prepare` as a user runs it: the real program, killed, started again, in shards.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use common::{said, small_phantom, uniferum, write_classes};
use uniferum_ct::batch::{LedgerRow, read_ledgers};
use uniferum_ct::io::cache::{Hash, peek_cache};
use uniferum_ct::{Format, ReadOptions, read_ct, read_mask, read_prepared};
use uniferum_phantom::write_cohort;

/// `n` phantoms of a doll's size with masks, nodules and `labels.csv`.
fn cohort(folder: &Path, n: usize) {
    write_cohort(folder, n, 3, &small_phantom(), &|| {}).unwrap();
}

fn command(out: &Path, arguments: &[&str]) -> Command {
    let mut command = uniferum();
    command.arg("prepare").args(arguments).arg("--out").arg(out);
    command
}

fn run(out: &Path, arguments: &[&str]) -> Output {
    command(out, arguments).output().unwrap()
}

fn succeeds(out: &Path, arguments: &[&str]) -> String {
    common::succeeds(&run(out, arguments))
}

fn fails(out: &Path, arguments: &[&str]) -> String {
    let output = run(out, arguments);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    said(&output)
}

fn rows(out: &Path) -> BTreeMap<String, LedgerRow> {
    read_ledgers(out).unwrap()
}

/// Every row without an error names files that are there and have its hash.
fn check_files(out: &Path) {
    for row in rows(out).values().filter(|row| !row.failed()) {
        for (file, hash) in [
            (&row.output, &row.hash),
            (&row.mask_output, &row.mask_hash),
            (&row.nodules_output, &row.nodules_hash),
        ] {
            if !file.is_empty() {
                assert_eq!(Hash::of_file(&out.join(file)).unwrap().to_string(), *hash);
            }
        }
    }
}

fn changed(out: &Path, row: &LedgerRow) -> SystemTime {
    let meta = std::fs::metadata(out.join(&row.output)).unwrap();
    meta.modified().unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    cohort(&input, 6);
    let table = input.join("labels.csv");
    let arguments = [table.to_str().unwrap(), "--threads", "1", "--jobs", "1"];
    let mut child = command(&out, &arguments)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let prepared = |out: &Path| {
        let rows = read_ledgers(out).unwrap_or_default();
        rows.values().filter(|row| !row.failed()).count()
    };
    while prepared(&out) < 2 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap(); // SIGKILL: nothing is tidied up
    child.wait().unwrap();
    check_files(&out);
    let before = rows(&out);
    assert!(before.len() >= 2);
    let times: BTreeMap<&String, SystemTime> = before
        .iter()
        .map(|(k, row)| (k, changed(&out, row)))
        .collect();

    // What a crash of the machine could leave: half a row, half a file, a temporary file.
    let ledger = out.join("ledger.csv");
    let torn = [std::fs::read(&ledger).unwrap(), b"/in/half,a row".to_vec()].concat();
    std::fs::write(&ledger, torn).unwrap();
    let (victim, row) = before.iter().next().unwrap();
    let path = out.join(&row.output);
    let whole = std::fs::read(&path).unwrap();
    let mut spoilt = whole.clone();
    spoilt[whole.len() / 2] ^= 1;
    std::fs::write(&path, spoilt).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let half = format!("scans/.{}-77-0.part", name.replace('.', "-"));
    std::fs::write(out.join(half), b"half").unwrap();

    let text = succeeds(&out, &arguments);
    let done = format!("{} are there", before.len() - 1);
    assert!(text.contains(&done), "{done:?} in {text}");
    check_files(&out);
    let after = rows(&out);
    assert_eq!(after.len(), 6);
    assert_eq!(
        std::fs::read(&path).unwrap(),
        whole,
        "the same voxels again"
    );
    for (output, time) in times.iter().filter(|(output, _)| **output != victim) {
        assert_eq!(
            changed(&out, &after[*output]),
            *time,
            "{output} was made twice"
        );
    }
    assert_eq!(files(&out.join("scans")).len(), 6, "temporary files stay");
    assert!(succeeds(&out, &arguments).contains("6 are there"));
    assert_eq!(
        files(&out),
        [
            "labels.csv",
            "ledger.csv",
            "masks",
            "nodules",
            "prepare.json",
            "scans"
        ]
    );
}

#[test]
fn failures_are_rows_and_are_tried_again_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    cohort(&input, 2);
    let scans = input.join("scans");
    std::fs::write(scans.join("bad.nii.gz"), b"no scan at all").unwrap();
    let scans_text = scans.to_str().unwrap().to_owned();
    let fails = |arguments: &[&str], part: &str| {
        let arguments = [&[scans_text.as_str()], arguments].concat();
        let text = fails(&out, &arguments);
        assert!(text.contains(part), "{part:?} in {text}");
    };
    fails(&[], "1 of 3 scans could not be prepared");
    let first = rows(&out)["scans/bad.uct"].clone();
    assert!(first.error.starts_with(&first.input) && first.hash.is_empty());
    assert_eq!(first.error.matches("bad.nii.gz").count(), 1);
    assert_eq!(rows(&out).len(), 3);
    fails(&[], "--retry-failed tries them again");
    assert_eq!(rows(&out)["scans/bad.uct"].finished, first.finished);
    fails(&["--retry-failed"], "0 prepared");
    assert!(rows(&out)["scans/bad.uct"].finished > first.finished);
    // A file that was mended is tried again without being asked.
    std::fs::copy(scans.join("phantom-0000.nii.gz"), scans.join("bad.nii.gz")).unwrap();
    succeeds(&out, &[&scans_text]);
    assert!(!rows(&out)["scans/bad.uct"].failed());
    // A scan without its mask is refused, or taken with a warning.
    let masks = input.join("masks");
    let with = ["--masks", masks.to_str().unwrap()];
    fails(&with, "no mask named as the scan");
    let text = succeeds(
        &out,
        &[&[scans_text.as_str(), "--allow-missing-masks"], &with[..]].concat(),
    );
    assert!(text.contains("2 are there"), "{text}");
    assert!(rows(&out)["scans/bad.uct"].warnings.contains("no mask"));
    check_files(&out);
}

#[test]
fn shards_at_the_same_time_make_one_collection() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    cohort(&input, 5);
    let table = input.join("labels.csv");
    let table = table.to_str().unwrap();
    let shards: Vec<_> = ["1/2", "2/2"]
        .iter()
        .map(|shard| {
            command(&out, &[table, "--shard", shard, "--quiet"])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut shard in shards {
        assert!(shard.wait().unwrap().success());
    }
    assert_eq!(rows(&out).len(), 5);
    check_files(&out);
    // Another division of the work finds all of it done.
    assert!(succeeds(&out, &[table]).contains("5 are there"));
    let lines = std::fs::read_to_string(out.join("labels.csv")).unwrap();
    assert_eq!(lines.lines().count(), 6);
    assert!(
        lines.contains("scans/phantom-0004.uct,masks/phantom-0004.uct,nodules/phantom-0004.uct"),
        "{lines}"
    );
    // Other settings make everything anew, which must be asked for.
    let other = ["--size", "64x56x48", "--interpolation", "linear"];
    let text = fails(&out, &[&[table], &other[..]].concat());
    assert!(text.contains("prepare.json: has other settings"), "{text}");
    let differ = r#"standardise.interpolation: expected "cubic", got "linear""#;
    assert!(text.contains(differ), "{text}");
    let listed = || {
        let table = std::fs::read_to_string(out.join("labels.csv")).unwrap();
        table.lines().count() - 1
    };
    let half = [table, "--overwrite", "--shard", "1/2"];
    succeeds(&out, &[&half[..], &other].concat());
    assert!(
        (1..5).contains(&listed()),
        "scans of the old settings are left out"
    );
    succeeds(&out, &[&[table], &other[..]].concat());
    assert_eq!(listed(), 5);
    assert_eq!(
        peek_cache(out.join("scans/phantom-0000.uct"))
            .unwrap()
            .shape,
        [64, 56, 48]
    );
}

#[test]
fn every_format_comes_in_by_the_same_door() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    cohort(&input, 1);
    let table = input.join("labels.csv");
    let prepare = |format: &str| {
        let out = dir.path().join(format);
        let arguments = [
            table.to_str().unwrap(),
            "--format",
            format,
            "--size",
            "96x80x64",
        ];
        succeeds(&out, &arguments);
        check_files(&out);
        out
    };
    let (cache, nifti, bin) = (prepare("cache"), prepare("nifti"), prepare("bin"));
    let scan = |path: PathBuf| read_ct(path, &ReadOptions::default()).unwrap();
    let a = scan(cache.join("scans/phantom-0000.uct"));
    let b = scan(nifti.join("scans/phantom-0000.nii.gz"));
    let c = scan(bin.join("bin/phantom-0000.bin"));
    assert_eq!(
        (a.format, b.format, c.format),
        (Format::Cache, Format::Nifti1, Format::ReleaseBin)
    );
    assert_eq!(a.volume.shape(), [96, 80, 64]);
    assert_eq!(a.volume.voxels, b.volume.voxels);
    assert_eq!(a.volume.voxels, c.volume.voxels);
    a.volume.check_same_grid(&b.volume, "nifti").unwrap();
    assert!(
        c.warnings.iter().any(|w| w.contains("affine")),
        "{:?}",
        c.warnings
    );
    let mask = read_mask(cache.join("masks/phantom-0000.uct")).unwrap();
    assert!(mask.voxels.iter().any(|&label| label == 51));
    for other in [nifti.join("masks"), bin.join("seg")] {
        assert_eq!(
            mask.voxels,
            read_mask(other.join("phantom-0000.nii.gz")).unwrap().voxels
        );
    }
    let nodules = read_mask(cache.join("nodules/phantom-0000.uct")).unwrap();
    a.volume.check_same_grid(&nodules, "nodules").unwrap();
    // Prepared volumes are whole HU: nothing is lost on the way to training.
    let whole = read_prepared(nifti.join("scans/phantom-0000.nii.gz")).unwrap();
    assert_eq!(
        whole.voxels,
        read_prepared(cache.join("scans/phantom-0000.uct"))
            .unwrap()
            .voxels
    );
    assert_eq!(whole.voxels.mapv(f32::from), a.volume.voxels);
    let release = dir.path().join("release");
    succeeds(
        &release,
        &[
            table.to_str().unwrap(),
            "--compat",
            "release",
            "--format",
            "bin",
        ],
    );
    assert!(
        rows(&release)["bin/phantom-0000.bin"]
            .report
            .contains("\"release\"")
    );
}

#[test]
fn wrong_arguments_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    cohort(&input, 1);
    let scans = input.join("scans");
    let scans = scans.to_str().unwrap();
    let fails = |arguments: &[&str], code: i32, part: &str| {
        let output = run(&out, arguments);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        common::fails(&output, part);
    };
    fails(&[scans, "--shard", "3/2"], 2, "i/n");
    fails(&[scans, "--size", "12"], 2, "three whole numbers");
    fails(
        &[scans, "--compat", "release", "--lungs", "estimate"],
        1,
        "no lung estimate",
    );
    fails(&[scans, "--size", "0x1x1"], 1, "size");
    let tables = ["a/table.csv", "b/Table.csv", "a/ledger-2024.csv"].map(|name| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(input.join("labels.csv"), &path).unwrap();
        path.to_str().unwrap().to_owned()
    });
    fails(&[&tables[0], &tables[1]], 1, "tables of different names");
    fails(&[&tables[2]], 1, "are this command's own");
    fails(
        &[dir.path().to_str().unwrap(), scans, "--masks", "nowhere"],
        1,
        "nowhere",
    );
    let elsewhere = run(&dir.path().join("elsewhere"), &["missing.nii"]);
    assert_eq!(
        elsewhere.status.code(),
        Some(1),
        "a scan that is not there is a failed scan"
    );
    for hu in ["header", "already-hu", "already"] {
        succeeds(&out, &[scans, "--hu", hu, "--dry-run"]);
    }
    let output = run(&out, &[scans, "--dry-run"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("phantom-0000.nii.gz -> ") && !out.exists(),
        "{text}"
    );
}

/// Until all scans are prepared anew there is no table: it would list volumes of both settings.
#[test]
fn other_settings_take_the_old_table_away_but_not_under_a_run() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    cohort(&input, 1);
    let table = input.join("labels.csv");
    let table = table.to_str().unwrap();
    succeeds(&out, &[table, "--size", "64x56x48"]);
    let settings = || std::fs::read(out.join("prepare.json")).unwrap();
    let (before, listed) = (settings(), out.join("labels.csv"));
    let other = [table, "--size", "72x56x48", "--overwrite"];

    let ledger = out.join("ledger.csv");
    let writer = std::fs::File::options().append(true).open(ledger).unwrap();
    writer.lock().unwrap();
    let text = fails(&out, &other);
    assert!(text.contains("another run is preparing scans"), "{text}");
    assert!(settings() == before && listed.is_file());
    drop(writer);

    // This part ends before its first scan.
    let foreign = out.join("ledger-0001-of-0002.csv");
    std::fs::write(&foreign, "mine\n1\n").unwrap();
    let text = fails(&out, &[&other[..], &["--shard", "1/2"]].concat());
    assert!(text.contains("head of the ledger"), "{text}");
    assert!(settings() != before && !listed.exists());
    std::fs::remove_file(foreign).unwrap();
    succeeds(&out, &other);
    assert!(listed.is_file());
}

/// Masks as `TotalSegmentator -o` writes them: a folder a case, a file a class.
#[test]
fn folders_with_a_file_a_class_are_masks() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    cohort(&input, 1);
    let scan = input.join("scans/phantom-0000.nii.gz");
    let whole = read_mask(input.join("masks/phantom-0000.nii.gz")).unwrap();
    let classes = [
        ("lung_upper_lobe_left", 10),
        ("lung_lower_lobe_right", 14),
        ("heart", 51),
        ("heart_atrium_left", 61),
    ];
    let folder = dir.path().join("classes/phantom-0000/segmentations");
    write_classes(&folder, &whole, &classes);
    let out = dir.path().join("out");
    let masks = dir.path().join("classes");
    let arguments = [
        scan.to_str().unwrap(),
        "--masks",
        masks.to_str().unwrap(),
        "--size",
        "96x80x64",
    ];
    succeeds(&out, &arguments);
    check_files(&out);
    let row = &rows(&out)["scans/phantom-0000.uct"];
    assert!(row.mask.ends_with("segmentations"), "{}", row.mask);
    assert!(row.report.contains("\"mask\""), "{}", row.report);
    assert!(
        row.warnings.contains("left out: heart_atrium_left"),
        "{}",
        row.warnings
    );
    let mask = read_mask(out.join("masks/phantom-0000.uct")).unwrap();
    for label in [10, 14, 51] {
        assert!(mask.voxels.iter().any(|&v| v == label), "{label}");
    }
    assert!(mask.voxels.iter().all(|v| [0, 10, 14, 51].contains(v)));
}

/// Nothing that is read is ever replaced by what is made of it.
#[test]
fn results_do_not_take_the_place_of_their_sources() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("cohort");
    cohort(&input, 1);
    let table = input.join("labels.csv");
    let table = table.to_str().unwrap();
    let before = std::fs::read(input.join("scans/phantom-0000.nii.gz")).unwrap();
    let scans = input.join("scans");
    let text = fails(&input, &[scans.to_str().unwrap(), "--format", "nifti"]);
    assert!(text.contains("results in another folder"), "{text}");
    assert!(!input.join("prepare.json").exists());
    let text = fails(&input, &[table]);
    assert!(text.contains("would replace it"), "{text}");
    assert_eq!(
        std::fs::read(input.join("scans/phantom-0000.nii.gz")).unwrap(),
        before
    );
    let scalings = dir.path().join("hu.csv");
    let rows = "VolumeName,RescaleSlope,RescaleIntercept\nphantom-0000.nii.gz,1,0\n";
    std::fs::write(&scalings, rows).unwrap();
    let hu = ["--hu-table", scalings.to_str().unwrap()];
    let text = fails(
        &dir.path().join("out"),
        &[&[scans.to_str().unwrap()], &hu[..]].concat(),
    );
    assert!(text.contains("expected --hu table beside it"), "{text}");
}
