//! `uniferum experiment phantom-table2` at its smallest: rows, tables, and a second call that goes on.

mod common;

use std::path::Path;
use std::process::Output;

use common::{fails, printed, uniferum};
use serde_json::Value;

fn experiment(out: &Path, rows: &[&str], seed: &str) -> Output {
    let mut command = uniferum();
    command.args(["experiment", "phantom-table2", "--quiet", "--size", "tiny"]);
    command.args(["--device", "cpu", "--seed", seed]);
    for row in rows {
        command.args(["--row", row]);
    }
    command.arg("--out").arg(out).output().unwrap()
}

fn table(out: &Path) -> Value {
    let text = std::fs::read_to_string(out.join("table.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn rows_are_trained_judged_and_written_down_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("table2");
    let text = printed(&experiment(&out, &["A+C+SEG", "CNN:A+C"], "0"));
    assert!(text.contains("| A+C+SEG | "), "{text}");
    let rows = &table(&out)["rows"];
    let (whole, alone) = (&rows[0]["cells"], &rows[1]["cells"]);
    for column in ["A", "B shared", "B unique", "C shared", "C unique"] {
        let cell = &whole[column];
        // What A and C have no label of is zero-shot.
        assert_eq!(cell["zero_shot"], column == "B unique", "{column}");
        assert!(cell["macro_auroc"].get("ci_low").is_some());
        assert!(cell.get("macro_auprc_ci_low").is_some());
        let task = &cell["tasks"][0];
        for key in [
            "task",
            "n_pos",
            "n_neg",
            "auroc",
            "ci_low",
            "auprc",
            "auprc_ci_high",
        ] {
            assert!(task.get(key).is_some(), "{key}");
        }
    }
    // A network without sentences has nothing to say to what it was not trained on.
    assert!(alone.get("B unique").is_none() && alone.get("C unique").is_some());
    for name in ["table.csv", "table.md", "table.html", "plan.json"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    for name in [
        "predictions-b.csv",
        "model.safetensors",
        "best/model.safetensors",
    ] {
        assert!(out.join("rows/a-c-seg").join(name).is_file(), "{name}");
    }
    // The encoder was trained by itself first, and is where the whole model began.
    let log = std::fs::read(out.join("rows/cnn-a-c/log.jsonl")).unwrap();

    // A row more: the others are read, the encoder is not trained again. Rows stand in the paper's order.
    let before = rows.clone();
    printed(&experiment(&out, &["A+C"], "0"));
    let after = table(&out);
    let names: Vec<&str> = after["rows"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|r| r["row"].as_str())
        .collect();
    assert_eq!(names, ["A+C", "A+C+SEG", "CNN:A+C"]);
    assert_eq!(after["rows"][1], before[0]);
    assert_eq!(
        std::fs::read(out.join("rows/cnn-a-c/log.jsonl")).unwrap(),
        log
    );

    fails(&experiment(&out, &["A+C"], "1"), "other settings");
}
