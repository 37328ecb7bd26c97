//! `uniferum demo` at its smallest: every file that it promises, and a second call that has nothing to do.

mod common;

use std::path::Path;
use std::process::Output;

use common::{said, succeeds, uniferum};

fn demo(out: &Path, steps: &str) -> Output {
    uniferum()
        .args([
            "demo", "--quiet", "--scans", "10", "--steps", steps, "--out",
        ])
        .arg(out)
        .output()
        .unwrap()
}

/// The table of the standardised phantoms and the saved model give the demonstration's numbers again.
fn evaluate_again(out: &Path) -> serde_json::Value {
    let output = uniferum()
        .args(["evaluate", "--quiet", "--format", "json"])
        .args(["--group", "phantom", "--device", "cpu", "--checkpoint"])
        .arg(out.join("model.safetensors"))
        .arg("--manifest")
        .arg(out.join("standardised/labels.csv"))
        .arg("--out")
        .arg(out.join("again"))
        .output()
        .unwrap();
    succeeds(&output);
    for name in [
        "predictions-1.csv",
        "evaluation.csv",
        "evaluation.html",
        "figures/phantom-shared-auroc.svg",
    ] {
        assert!(out.join("again").join(name).is_file(), "{name}");
    }
    let printed = serde_json::from_slice(&output.stdout).unwrap();
    let written = std::fs::read(out.join("again/evaluation.json")).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(printed, written);
    printed
}

/// The predictions are a table for `evaluate`, which judges labels and leaves masks out; what belongs to
/// tables is refused beside a model, and the other way round; another group's columns are recognised.
fn tables_and_models_keep_their_options(out: &Path) {
    let evaluate = |options: &[&str]| {
        let mut command = uniferum();
        command.current_dir(out).arg("evaluate").args(options);
        command.output().unwrap()
    };
    let table = ["-p", "predictions.csv", "-l", "predictions.csv"];
    let tables = evaluate(&[&table[..], &["--format", "json", "--bootstrap", "10"]].concat());
    let text = succeeds(&tables);
    assert!(
        text.contains("masks") && text.contains("anatomy."),
        "{text}"
    );
    let numbers: serde_json::Value = serde_json::from_slice(&tables.stdout).unwrap();
    assert_eq!(numbers["tasks"].as_array().unwrap().len(), 10);

    let model = [
        "--checkpoint",
        "model.safetensors",
        "--manifest",
        "standardised/labels.csv",
    ];
    for wrong in [
        ["--bins", "5"],
        ["--score", "x"],
        ["--threshold-rule", "f1"],
        ["--html", "x"],
    ] {
        let refused = evaluate(&[&model[..], &wrong].concat());
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{wrong:?}: {}",
            said(&refused)
        );
    }
    for of_models in [["--split", "val"], ["--tasks-file", "mine.toml"]] {
        let mixed = evaluate(&[&table[..], &of_models].concat());
        assert_eq!(mixed.status.code(), Some(2), "{}", said(&mixed));
    }
    let group = said(&evaluate(&model));
    assert!(group.contains("--group rad-chest or phantom"), "{group}");
}

#[test]
fn it_leaves_a_model_numbers_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let first = demo(&out, "2");
    succeeds(&first);

    let text = std::fs::read_to_string(out.join("metrics.json")).unwrap();
    let metrics: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in ["value", "ci_low", "ci_high", "n_tasks"] {
        assert!(metrics["macro_auroc"].get(key).is_some(), "{key}");
    }
    let tasks = metrics["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 10);
    for key in [
        "task", "kind", "n_pos", "n_neg", "auroc", "ci_low", "ci_high", "auprc",
    ] {
        assert!(tasks[0].get(key).is_some(), "{key}");
    }
    let predictions = std::fs::read_to_string(out.join("predictions.csv")).unwrap();
    assert_eq!(predictions.lines().count(), 1 + 3 * 17);
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("data:image/png") && !page.contains("http"));
    for name in [
        "model.safetensors",
        "model.json",
        "tokenizer.json",
        "input.json",
        "questions.json",
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }

    let again = evaluate_again(&out);
    let groups = again[0]["groups"].as_array().unwrap();
    let rows = groups.iter().flat_map(|g| g["tasks"].as_array().unwrap());
    let rows: Vec<_> = rows.collect();
    assert!(!rows.is_empty());
    for row in rows {
        let same = tasks.iter().find(|t| t["task"] == row["task"]).unwrap();
        for key in ["n_pos", "n_neg", "auroc", "ci_low", "auprc"] {
            assert_eq!(row[key], same[key], "{key} of {}", row["task"]);
        }
    }

    tables_and_models_keep_their_options(&out);

    // Nothing is trained again, and the numbers are the same.
    let log = std::fs::read(out.join("run/log.jsonl")).unwrap();
    let second = demo(&out, "2");
    succeeds(&second);
    assert_eq!(std::fs::read(out.join("run/log.jsonl")).unwrap(), log);
    assert_eq!(
        std::fs::read_to_string(out.join("metrics.json")).unwrap(),
        text
    );

    let other = demo(&out, "3");
    assert_eq!(other.status.code(), Some(1));
    assert!(
        said(&other).contains("other settings (encoder_steps: expected 2, got 3"),
        "{}",
        said(&other)
    );
}
