//! `uniferum demo` at its smallest: every file that it promises, and a second call that has nothing to do.

use std::path::Path;
use std::process::{Command, Output};

fn demo(out: &Path, steps: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uniferum"))
        .args([
            "demo", "--quiet", "--scans", "10", "--steps", steps, "--out",
        ])
        .arg(out)
        .output()
        .unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_leaves_a_model_numbers_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo");
    let first = demo(&out, "2");
    assert!(first.status.success(), "{}", error(&first));

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
    ] {
        assert!(out.join(name).is_file(), "{name}");
    }

    // Nothing is trained again, and the numbers are the same.
    let log = std::fs::read(out.join("run/log.jsonl")).unwrap();
    let second = demo(&out, "2");
    assert!(second.status.success(), "{}", error(&second));
    assert_eq!(std::fs::read(out.join("run/log.jsonl")).unwrap(), log);
    assert_eq!(
        std::fs::read_to_string(out.join("metrics.json")).unwrap(),
        text
    );

    let other = demo(&out, "3");
    assert_eq!(other.status.code(), Some(1));
    assert!(
        error(&other).contains("other settings"),
        "{}",
        error(&other)
    );
}
