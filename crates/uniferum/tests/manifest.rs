//! The commands about collections, as a user types them.

mod common;

use std::path::Path;
use std::process::Output;

use common::{fails, printed, uniferum, write_classes};
use ndarray::Array3;
use uniferum_ct::{Affine, Augment, ReadOptions, Volume, read_ct, write_nifti};
use uniferum_fusion::Freeze;
use uniferum_train::{ModelChoice, RunConfig};

fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = uniferum();
    command.current_dir(folder).args(args).output().unwrap()
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    printed(&run(folder, args))
}

/// A thorax of 240 x 200 x 190 mm with two lungs.
fn scan(path: &Path, seed: usize) {
    let voxels = Array3::from_shape_fn((24, 20, 16), |(x, y, z)| {
        let at = |c: usize, n: usize| (c as f64 + 0.5) / n as f64 * 2.0 - 1.0;
        let (u, v, w) = (at(x, 24), at(y, 20), at(z, 16));
        let lung = |s: f64| ((u - s) / 0.3).powi(2) + (v / 0.45).powi(2) + (w / 0.9).powi(2) < 1.0;
        let noise = ((x * 31 + y * 17 + z * 13 + seed * 101) % 23) as i16;
        match () {
            () if u * u + v * v > 0.8 => -1000i16,
            () if lung(0.4) || lung(-0.4) => -870 + noise,
            () => 35 + noise,
        }
    });
    let affine = Affine([
        [-10.0, 0.0, 0.0, 120.0],
        [0.0, -10.0, 0.0, 100.0],
        [0.0, 0.0, 9.0, 0.0],
        [0.0, 0.0, 0.0, 1.0],
    ]);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_nifti(path, &Volume::new(voxels, affine)).unwrap();
}

fn table(folder: &Path) {
    let mut text = "file,mrn,effusion\n".to_owned();
    for i in 0..8 {
        scan(&folder.join(format!("ct/{i}.nii.gz")), i);
        text += &format!("ct/{i}.nii.gz,{},{}\n", i / 2, i % 2);
    }
    std::fs::write(folder.join("mine.csv"), text).unwrap();
}

#[test]
fn a_table_becomes_a_manifest_that_the_doctor_likes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    table(at);
    let make = [
        "manifest",
        "table",
        "mine.csv",
        "--group",
        "ct-rate",
        "--collection",
        "site-a",
        "--scan-column",
        "file",
        "--patient-column",
        "mrn",
        "--label",
        "effusion=ct-rate.pleural-effusion",
        "--hu-source",
        "header",
        "--val-share",
        "0.25",
        "--out",
        "out/mine.parquet",
    ];
    let said = succeeds(at, &make);
    assert!(
        said.contains("8 scans (6 train, 2 val, 0 test) of 4 patients, 1 label columns"),
        "{said}"
    );
    let text = succeeds(at, &["doctor", "out/mine.parquet"]);
    assert!(
        text.contains("0 errors") && text.contains("ct-rate.pleural-effusion"),
        "{text}"
    );
    succeeds(
        at,
        &[
            "manifest",
            "merge",
            "out/mine.parquet",
            "--out",
            "mine_again.csv",
        ],
    );
    let csv = std::fs::read_to_string(at.join("mine_again.csv")).unwrap();
    assert!(
        csv.lines()
            .nth(1)
            .unwrap()
            .starts_with("ct/0.nii.gz,site-a:0,site-a,"),
        "{csv}"
    );
    // The same patient in two splits, and a file that is gone.
    std::fs::write(
        at.join("bad.csv"),
        csv.replace(",val,", ",test,")
            .replacen(",test,", ",train,", 1),
    )
    .unwrap();
    std::fs::remove_file(at.join("ct/7.nii.gz")).unwrap();
    let output = run(
        at,
        &[
            "doctor",
            "bad.csv",
            "--format",
            "json",
            "--clean",
            "clean.csv",
            "--needs",
            "ct-rate.emphysema",
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks: Vec<&str> = found["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["severity"] == "error")
        .map(|f| f["check"].as_str().unwrap())
        .collect();
    assert_eq!(checks, ["patient-leak", "missing-file", "unknown-label"]);
    assert_eq!(
        std::fs::read_to_string(at.join("clean.csv"))
            .unwrap()
            .lines()
            .count(),
        1 + 7
    );
}

/// The lungs of a [`scan`] as files of classes, as `TotalSegmentator -o` writes them.
fn lungs(scan: &Path, folder: &Path) {
    let volume = read_ct(scan, &ReadOptions::default()).unwrap().volume;
    let label = |((x, _, _), hu): ((usize, usize, usize), &f32)| match hu {
        // The first axis runs from the patient's right to the left.
        -900.0..-800.0 if x < 12 => 12,
        -900.0..-800.0 => 10,
        _ => 0,
    };
    let mut map = Array3::<u8>::zeros(volume.voxels.dim());
    for (to, from) in map.iter_mut().zip(volume.voxels.indexed_iter()) {
        *to = label(from);
    }
    let classes = [("lung_upper_lobe_left", 10), ("lung_upper_lobe_right", 12)];
    write_classes(folder, &Volume::new(map, volume.affine), &classes);
}

#[test]
fn the_doctor_reads_masks_that_are_folders_of_classes() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    scan(&at.join("ct/0.nii.gz"), 0);
    let classes = at.join("masks/0/segmentations");
    lungs(&at.join("ct/0.nii.gz"), &classes);
    let table = "scan,mask,patient,split\nct/0.nii.gz,masks/0,p,train\n";
    std::fs::write(at.join("m.csv"), table).unwrap();
    let text = succeeds(at, &["doctor", "m.csv"]);
    assert!(text.contains("0 errors"), "{text}");
    std::fs::rename(&classes, at.join("masks/0/elsewhere")).unwrap();
    let output = run(at, &["doctor", "m.csv"]);
    fails(&output, "1 errors");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("error: unreadable") && text.contains("folder of masks"),
        "{text}"
    );
}

#[test]
fn shares_beside_a_split_of_the_collection_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let ct = at.join("ts/s0001/ct.nii.gz");
    scan(&ct, 1);
    lungs(&ct, &at.join("ts/s0001/segmentations"));
    std::fs::write(at.join("ts/meta.csv"), "image_id;split\ns0001;test\n").unwrap();
    let make = [
        "manifest",
        "totalsegmentator",
        "ts",
        "ts",
        "--out",
        "ts.csv",
    ];
    let shares = run(at, &[&make[..], &["--val-share", "0.2"]].concat());
    fails(&shares, "meta.csv: the collection has an official split");
    assert!(!at.join("ts.csv").exists());
    let text = succeeds(at, &make);
    assert!(text.contains("1 scans (0 train, 0 val, 1 test)"), "{text}");
}

#[test]
fn the_hounsfield_source_must_be_said() {
    let folder = tempfile::tempdir().unwrap();
    table(folder.path());
    let output = run(
        folder.path(),
        &[
            "manifest", "table", "mine.csv", "--group", "ct-rate", "--out", "m.csv",
        ],
    );
    assert_eq!(output.status.code(), Some(2));
    fails(&output, "--hu-source");
    let output = run(
        folder.path(),
        &["manifest", "ct-rate", ".", "--out", "m.csv"],
    );
    fails(&output, "--release");
}

#[test]
fn the_releases_training_file_becomes_settings() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "hf_TrainingArguments: {max_steps: 100, learning_rate: 5.e-5, warmup_steps: 5, \
        per_device_train_batch_size: 8, gradient_accumulation_steps: 4}\n\
        llm_args: {bert_encoder_layers: 2}\n\
        predict_transform:\n- {name: Resize, spatial_size: [128, 96, 64]}\n";
    std::fs::write(folder.path().join("release.yaml"), yaml).unwrap();
    succeeds(
        folder.path(),
        &[
            "manifest",
            "release-config",
            "release.yaml",
            "--out",
            "ours.toml",
        ],
    );
    let config = RunConfig::read(&folder.path().join("ours.toml")).unwrap();
    assert_eq!((config.train.steps, config.train.scans_per_step), (100, 32));
    assert_eq!(config.train.freeze, Freeze::Bert);
    let ModelChoice::Uniferum(model) = &config.model else {
        panic!("{:?}", config.model);
    };
    assert_eq!(model.bert.layers, 2);
    assert_eq!(config.input.transform.shape, [128, 96, 64]);
    assert_eq!(config.augment, Augment::none());
}

#[test]
fn report_labels_can_be_tried_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let reports = "id,patient,report\ni1,p1,\"Small pleural effusion.\"\ni2,p2,Normal.\n";
    std::fs::write(folder.path().join("reports.csv"), reports).unwrap();
    let said = succeeds(
        folder.path(),
        &[
            "label-reports",
            "reports.csv",
            "--out",
            "labels",
            "--dry-run",
        ],
    );
    assert!(
        said.starts_with("2 questions") && said.contains("Small pleural effusion."),
        "{said}"
    );
    let output = run(
        folder.path(),
        &["label-reports", "reports.csv", "--out", "labels"],
    );
    assert_eq!(output.status.code(), Some(2), "a server must be named");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let reports = "id,patient,report\ni1,p1,\"Small pleural effusion.\"\n";
    std::fs::write(folder.path().join("reports.csv"), reports).unwrap();
    let commands: [&[&str]; 4] = [
        &[
            "label-reports",
            "reports.csv",
            "--out",
            "labels",
            "--dry-run",
        ],
        &["train", "--print-config"],
        &["tasks"],
        &["info"],
    ];
    for arguments in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = uniferum();
        command.current_dir(folder.path()).args(arguments);
        printed(&command.stdout(writer).output().unwrap());
    }
}
