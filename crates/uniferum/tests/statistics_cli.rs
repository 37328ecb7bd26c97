//! `uniferum evaluate` and `uniferum compare` as a user runs them.

mod common;

use std::path::PathBuf;
use std::process::Output;

use common::{printed, succeeds};
use serde_json::Value;

/// Numbers of scikit-learn for the tables in `tests/data/statistics`.
const NODULE_AUROC: f64 = 0.9180952380952381;
const NODULE_AUPRC: f64 = 0.8791246157429365;
const EFFUSION_AUROC: f64 = 0.9316770186335404;
const SECOND_NODULE_AUROC: f64 = 0.7069841269841269;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/statistics")
        .join(name)
}

fn uniferum(arguments: &[&str]) -> Output {
    common::uniferum().args(arguments).output().unwrap()
}

fn path(name: &str) -> String {
    data(name).display().to_string()
}

/// Runs and parses what must be JSON.
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(&uniferum(arguments))).unwrap()
}

/// Runs and returns the one line that must be an error.
fn error(arguments: &[&str]) -> String {
    let output = uniferum(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    let last = text.lines().last().unwrap_or("").to_owned();
    assert!(last.starts_with("error: "), "{text}");
    last
}

fn evaluate(predictions: &str, more: &[&str]) -> Value {
    let (p, l) = (path(predictions), path("labels.csv"));
    let mut arguments = vec![
        "evaluate",
        "--predictions",
        &p,
        "--labels",
        &l,
        "--format",
        "json",
        "--bootstrap",
        "50",
    ];
    arguments.extend(more);
    json(&arguments)
}

fn close(value: &Value, expected: f64) {
    let got = value.as_f64().unwrap();
    assert!((got - expected).abs() < 1e-9, "{got} {expected}");
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Scratch(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

#[test]
fn json_has_the_promised_keys_and_the_right_numbers() {
    let result = evaluate("predictions.csv", &[]);
    let tasks = result["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 3);
    let nodule = &tasks[0];
    for key in [
        "task",
        "n",
        "n_missing",
        "n_pos",
        "n_neg",
        "prevalence",
        "auroc",
        "std_err",
        "ci_low",
        "ci_high",
        "auprc",
        "brier",
        "ece",
    ] {
        assert!(!nodule[key].is_null(), "{key}");
    }
    assert_eq!(
        (nodule["n"].as_u64(), nodule["n_missing"].as_u64()),
        (Some(117), Some(3))
    );
    close(&nodule["auroc"], NODULE_AUROC);
    close(&nodule["auprc"], NODULE_AUPRC);
    close(&tasks[1]["auroc"], EFFUSION_AUROC);
    // A constant label is null, not 0 and not an error.
    let cyst = &tasks[2];
    assert_eq!(cyst["task"], "cyst");
    for key in ["auroc", "std_err", "ci_low", "ci_high", "auprc"] {
        assert!(cyst[key].is_null() && cyst.get(key).is_some(), "{key}");
    }
    let all = &result["macro"];
    close(&all["value"], 0.5 * (NODULE_AUROC + EFFUSION_AUROC));
    assert_eq!(
        (all["n_tasks"].as_u64(), all["n_tasks_total"].as_u64()),
        (Some(2), Some(3))
    );
    assert_eq!(all["undefined"][0], "cyst");
    assert_eq!(result["settings"]["clustered_by"], "patient");
}

#[test]
fn every_shape_and_format_gives_the_same_numbers() {
    let wide = evaluate("predictions.csv", &[]);
    for long in ["predictions_long.parquet", "predictions_long.json"] {
        let long = evaluate(long, &[]);
        for task in wide["tasks"].as_array().unwrap() {
            let name = &task["task"];
            let same = long["tasks"].as_array().unwrap().iter();
            let same = same.clone().find(|t| t["task"] == *name).unwrap();
            for key in ["n", "n_pos", "auroc", "std_err", "auprc"] {
                match task[key].as_f64() {
                    Some(value) => close(&same[key], value),
                    None => assert!(same[key].is_null()),
                }
            }
        }
    }
}

#[test]
fn columns_of_arrays_and_lines_of_objects_are_tables_too() {
    let scratch = Scratch::new();
    let labels = scratch.write("l.csv", "case,t\na,1\nb,0\nc,1\nd,0\n");
    let arrays = r#"{"case": ["a", "b", "c", "d"], "t": [0.9, 0.8, 0.7, 0.1]}"#;
    let lines = "{\"case\":\"d\",\"t\":0.1}\n{\"case\":\"c\",\"t\":0.7}\n\
                 {\"case\":\"b\",\"t\":0.8}\n{\"case\":\"a\",\"t\":0.9}\n";
    for (name, text) in [("p.json", arrays), ("p.jsonl", lines)] {
        let p = scratch.write(name, text);
        let result = json(&["evaluate", "-p", &p, "-l", &labels, "--format", "json"]);
        close(&result["tasks"][0]["auroc"], 0.75);
    }
}

#[test]
fn patients_widen_intervals_and_studies_can_be_judged() {
    let plain = evaluate("predictions.csv", &["--unclustered"]);
    assert!(plain["settings"]["clustered_by"].is_null());
    let named = evaluate("predictions.csv", &["--patient", "patient"]);
    assert_ne!(plain["tasks"][0]["std_err"], named["tasks"][0]["std_err"]);
    let study = evaluate(
        "predictions.csv",
        &[
            "--patient",
            "patient",
            "--study-aggregate",
            "max",
            "--task",
            "nodule",
        ],
    );
    assert_eq!(study["settings"]["study_aggregate"], "max");
    assert_eq!(study["settings"]["study"], "patient");
    // Of the 60 patients one has no label at all.
    let task = &study["tasks"][0];
    assert_eq!(
        (task["n"].as_u64(), task["n_missing"].as_u64()),
        (Some(59), Some(1))
    );
    let (p, l) = (path("predictions.csv"), path("labels.csv"));
    let text = [
        "evaluate",
        "-p",
        &p,
        "-l",
        &l,
        "--study-aggregate",
        "max",
        "--bootstrap",
        "0",
    ];
    let text = printed(&uniferum(&text));
    assert!(
        text.contains("studies (column 'patient'), each by the largest score"),
        "{text}"
    );
}

#[test]
fn bootstrap_intervals_come_on_request_and_need_replicates() {
    let ask = ["--interval", "bootstrap", "--seed", "3"];
    let (one, again) = (
        evaluate("predictions.csv", &ask),
        evaluate("predictions.csv", &ask),
    );
    assert_eq!(one, again);
    let task = &one["tasks"][0];
    assert_eq!(task["ci_method"], "bootstrap");
    let number = |key: &str| task[key].as_f64().unwrap();
    assert!(number("ci_low") < number("auroc") && number("auroc") < number("ci_high"));
    let scratch = Scratch::new();
    let table = scratch.write("t.csv", "case,t\na,1\nb,0\n");
    let args = ["evaluate", "-p", &table, "-l", &table];
    let none = ["--interval", "bootstrap", "--bootstrap", "0"];
    let message = error(&[&args[..], &none[..]].concat());
    assert!(message.contains("--bootstrap 1 or more"), "{message}");
}

#[test]
fn aggregation_takes_mean_or_maximum_of_labelled_volumes() {
    let scratch = Scratch::new();
    let p = scratch.write(
        "p.csv",
        "v,t\na1,0.9\na2,0.1\nb1,0.6\nb2,0.6\nc1,0.2\nd1,0.3\n",
    );
    let l = scratch.write(
        "l.csv",
        "v,study,t\na1,a,0\na2,a,0\nb1,b,1\nb2,b,1\nc1,c,0\nd1,d,1\n",
    );
    let auroc = |how: &str| {
        let result = json(&[
            "evaluate",
            "-p",
            &p,
            "-l",
            &l,
            "--study-aggregate",
            how,
            "--format",
            "json",
        ]);
        assert_eq!(result["tasks"][0]["n"], 4);
        result["tasks"][0]["auroc"].as_f64().unwrap()
    };
    // Means: a .5, b .6, c .2, d .3; maxima: a .9.
    assert_eq!((auroc("mean"), auroc("max")), (0.75, 0.5));
}

#[test]
fn thresholds_and_calibration_come_from_the_validation_set() {
    let (p, l) = (path("second.csv"), path("labels.csv"));
    let result = evaluate(
        "predictions.csv",
        &[
            "--validation-predictions",
            &p,
            "--validation-labels",
            &l,
            "--calibrate",
            "temperature",
            "--task",
            "nodule",
        ],
    );
    let task = &result["tasks"][0];
    assert_eq!(task["threshold_from"], "validation");
    assert!(task["operating_point"]["sensitivity"]["ci_low"].is_f64());
    assert!(task["scale"]["temperature"]["fit"]["temperature"].is_f64());
    let without = evaluate("predictions.csv", &["--task", "nodule"]);
    assert!(without["tasks"][0]["operating_point"].is_null());
    assert_eq!(without["tasks"][0]["auroc"], task["auroc"]);
}

#[test]
fn validation_fits_know_weights_and_single_classes() {
    let scratch = Scratch::new();
    let scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
    let table = |name: &str, head: &str, rows: &[String]| {
        scratch.write(name, &format!("{head}\n{}\n", rows.join("\n")))
    };
    let predictions: Vec<String> = (0..8).map(|i| format!("c{i},{0},{0}", scores[i])).collect();
    let p = table("p.csv", "case,t,u", &predictions);
    // The last two would move every fit; their weight is 0. `u` has no positive.
    let labels = [0, 0, 1, 0, 1, 1, 0, 0];
    let row = |i: usize| format!("c{i},{},0,{}", labels[i], u8::from(i < 6));
    let rows: Vec<String> = (0..8).map(row).collect();
    let l = table("l.csv", "case,t,u,w", &rows);
    let (p6, l6) = (
        table("p6.csv", "case,t,u", &predictions[..6]),
        table("l6.csv", "case,t,u,w", &rows[..6]),
    );
    let ask = |p_val: &str, l_val: &str| {
        let output = uniferum(&[
            "evaluate",
            "-p",
            &p,
            "-l",
            &l,
            "--weight",
            "w",
            "--calibrate",
            "platt",
            "--validation-predictions",
            p_val,
            "--validation-labels",
            l_val,
            "--format",
            "json",
        ]);
        let errors = succeeds(&output);
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        (result, errors)
    };
    let ((weighted, errors), (short, _)) = (ask(&p, &l), ask(&p6, &l6));
    let number = |r: &Value, path: &str| r.pointer(path).unwrap().as_f64().unwrap();
    for path in [
        "/tasks/0/scale/platt/slope",
        "/tasks/0/operating_point/threshold",
    ] {
        let (a, b) = (number(&weighted, path), number(&short, path));
        assert!((a - b).abs() < 1e-9, "{path}: {a} {b}");
    }
    assert!(
        errors
            .contains("'u' has a single class in the validation set: no threshold, not calibrated"),
        "{errors}"
    );
    assert_eq!(weighted["tasks"][1]["scale"], "as_given");
}

#[test]
fn text_and_page_show_the_same_numbers() {
    let scratch = Scratch::new();
    let html = scratch.0.path().join("report.html").display().to_string();
    let (p, l) = (path("predictions.csv"), path("labels.csv"));
    let output = uniferum(&[
        "evaluate",
        "-p",
        &p,
        "-l",
        &l,
        "--threshold",
        "0.5",
        "--html",
        &html,
        "--bootstrap",
        "50",
    ]);
    let text = printed(&output);
    let auroc = format!("{NODULE_AUROC:.3} (");
    assert!(
        text.contains(&auroc) && text.contains("macro, 2 of 3 tasks"),
        "{text}"
    );
    assert!(text.contains("clustered by patient") && text.contains("sensitivity"));
    assert!(text.contains("in the large") && text.contains("if calibrated"));
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains(&auroc) && page.matches("<svg").count() >= 5);
    assert!(page.contains("Decision curves") && page.contains("treat all"));
    assert!(!page.contains("http") && !page.contains("<script"));
}

#[test]
fn compare_tests_pairs_and_corrects() {
    let (a, b, l) = (
        path("predictions.csv"),
        path("second.csv"),
        path("labels.csv"),
    );
    let arguments = ["compare", &a, &b, "--labels", &l, "--format", "json"];
    let result = json(&arguments);
    let pair = &result["comparisons"][0];
    assert_eq!(
        (pair["a"].as_str(), pair["b"].as_str()),
        (Some("predictions"), Some("second"))
    );
    let tasks = pair["tasks"].as_array().unwrap();
    let nodule = &tasks[0];
    close(&nodule["auroc_b"], SECOND_NODULE_AUROC);
    close(&nodule["difference"], NODULE_AUROC - SECOND_NODULE_AUROC);
    let p = |t: &Value, key: &str| t[key].as_f64().unwrap();
    for task in &tasks[..2] {
        assert_eq!(task["state"], "tested");
        assert!(p(task, "p_holm") >= p(task, "p_bh") && p(task, "p_bh") >= p(task, "p_value"));
    }
    assert_eq!(tasks[2]["state"], "undefined");
    assert!(tasks[2]["p_value"].is_null());
    assert_eq!(pair["macro"]["n_tasks"], 2);
    assert!(pair["macro"]["p_value"].is_f64());
    assert_eq!(result["models"][1]["macro"]["n_tasks"], 2);

    let same = json(&[
        "compare", &a, &a, "--names", "x,y", "-l", &l, "--format", "json",
    ]);
    assert_eq!(same["comparisons"][0]["tasks"][0]["state"], "identical");
    let three = [
        "compare",
        &a,
        &b,
        &a,
        "-l",
        &l,
        "--all-pairs",
        "--format",
        "json",
    ];
    let three = json(&three);
    assert_eq!(three["comparisons"].as_array().unwrap().len(), 3);
    assert_eq!(three["equality"][0]["df"], 1);

    let scratch = Scratch::new();
    let html = scratch.0.path().join("c.html").display().to_string();
    let output = uniferum(&["compare", &a, &b, "-l", &l, "--html", &html]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("A = predictions, B = second") && text.contains("p Holm"));
    assert!(
        std::fs::read_to_string(html)
            .unwrap()
            .contains("Difference of AUROC")
    );
}

#[test]
fn tables_of_spreadsheets_are_read() {
    let scratch = Scratch::new();
    let labels = scratch.write("l.csv", "sep=;\r\ncase;t\r\na;1\r\nb;0\r\nc;n/a\r\n;\r\n");
    let predictions = scratch.write("p.txt", "case\tt\na\t0.9\nb\t0.2\nc\t0.4\n");
    let found = json(&[
        "evaluate",
        "-p",
        &predictions,
        "-l",
        &labels,
        "--format",
        "json",
    ]);
    assert_eq!(found["tasks"][0]["auroc"], 1.0, "{found}");
}

#[test]
fn errors_name_file_row_and_column() {
    let scratch = Scratch::new();
    let labels = scratch.write("l.csv", "case,t\na,1\nb,0\nc,1\n");
    let fails = |predictions: &str| {
        let p = scratch.write("p.csv", predictions);
        error(&["evaluate", "-p", &p, "-l", &labels])
    };
    let nan = fails("case,t\na,0.1\nb,NaN\nc,0.3\n");
    assert!(
        nan.contains("p.csv, row 3, column 't': expected a finite score, got 'NaN'"),
        "{nan}"
    );
    let lacking = fails("case,t\na,0.1\nb,0.2\n");
    assert!(lacking.contains("lacks 1 of the 3 cases") && lacking.contains("l.csv: c"));
    let strange = fails("case,t\na,0.1\nb,0.2\nc,0.3\nx,0.3\n");
    assert!(strange.contains("l.csv lacks 1 of the 4 cases") && strange.contains(": x"));
    let twice = fails("case,t\na,0.1\nb,0.2\nb,0.3\nc,0.1\n");
    assert!(
        twice.contains("row 4, column 'case': case 'b' again"),
        "{twice}"
    );
    let empty = fails("case,t\na,0.1\nb,\nc,0.1\n");
    assert!(
        empty.contains("case 'b' has a label for task 't' but no score"),
        "{empty}"
    );
    let tasks = fails("case,u\na,0.1\nb,0.2\nc,0.1\n");
    assert!(
        tasks.contains("no task in common: the first has u, the second t"),
        "{tasks}"
    );
    let long = fails("case,task,score\na,t,0.1\na,t,0.2\n");
    assert!(long.contains("case 'a' has task 't' twice"), "{long}");
    let ragged = fails("case,t\na,0.1\nb\n");
    assert!(
        ragged.contains("p.csv") && ragged.contains("line: 3"),
        "{ragged}"
    );

    let p = scratch.write("q.csv", "case,t\na,0.1\nb,0.2\nc,0.3\n");
    let odd = scratch.write("odd.csv", "case,t\na,1\nb,0\nc,2\n");
    let label = error(&["evaluate", "-p", &p, "-l", &odd]);
    assert!(
        label.contains("odd.csv, row 4, column 't': expected 0, 1 or nothing"),
        "{label}"
    );
    let column = error(&["evaluate", "-p", &p, "-l", &labels, "--patient", "who"]);
    assert!(
        column.contains("no column 'who'") && column.contains("case, t"),
        "{column}"
    );
    let study = error(&[
        "evaluate",
        "-p",
        &p,
        "-l",
        &labels,
        "--study-aggregate",
        "mean",
    ]);
    assert!(study.contains("give --study COL"), "{study}");
    let missing = error(&["evaluate", "-p", "nowhere.csv", "-l", &labels]);
    assert!(missing.contains("nowhere.csv"), "{missing}");
    let workbook = scratch.write("scores.xlsx", "PK\u{3}\u{4}\u{14}");
    let kind = error(&["evaluate", "-p", &workbook, "-l", &labels]);
    assert!(kind.contains("got a workbook: save it as CSV"), "{kind}");
}

#[test]
fn common_cases_leaves_out_and_counts() {
    let scratch = Scratch::new();
    let l = scratch.write("l.csv", "case,t\na,1\nb,0\nc,1\nd,0\n");
    let p = scratch.write("p.csv", "case,t\na,0.9\nb,0.2\nd,\nx,0.5\n");
    let result = json(&[
        "evaluate",
        "-p",
        &p,
        "-l",
        &l,
        "--common-cases",
        "--format",
        "json",
    ]);
    let task = &result["tasks"][0];
    assert_eq!(
        (task["n"].as_u64(), task["n_missing"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(result["settings"]["n_left_out"], 2);
}

#[test]
fn parts_of_a_table_are_one_table() {
    let scratch = Scratch::new();
    let labels = scratch.write("l.csv", "scan,task,label\na,t,1\nb,t,0\nc,t,1\nd,t,0\n");
    let head = "scan,task,probability\n";
    let whole = scratch.write(
        "p.csv",
        &format!("{head}a,t,0.9\nb,t,0.2\nc,t,0.3\nd,t,0.4\n"),
    );
    let first = scratch.write("p-1-of-2.csv", &format!("{head}a,t,0.9\nc,t,0.3\n"));
    let second = scratch.write("p-2-of-2.csv", &format!("{head}b,t,0.2\nd,t,0.4\n"));
    let judge = |tables: &[&str]| {
        let mut arguments = vec!["evaluate", "--format", "json", "--labels", &labels];
        arguments.push("--predictions");
        arguments.extend(tables);
        json(&arguments)
    };
    let (one, parts) = (judge(&[&whole]), judge(&[&first, &second]));
    assert_eq!(one["tasks"], parts["tasks"]);
    assert_eq!(one["tasks"][0]["auroc"], 0.75);
    // A part may have had no scan, or nothing but scans that failed.
    let nothing = scratch.write("p-3-of-4.csv", head);
    let failed = scratch.write(
        "p-4-of-4.json",
        r#"[{"scan": "e", "error": "no such file"}]"#,
    );
    for order in [
        [&nothing, &failed, &first, &second],
        [&first, &second, &failed, &nothing],
    ] {
        let all = judge(&order.map(String::as_str));
        assert_eq!(one["tasks"], all["tasks"]);
    }
    let broken = scratch.write("p-3.csv", &format!("{head}b,t,high\n"));
    let arguments = ["evaluate", "-l", &labels, "-p", &first, &broken];
    let said = error(&arguments);
    assert!(
        said.contains("p-3.csv, row 2") && said.contains("'high'"),
        "{said}"
    );
    let other = scratch.write("q.csv", "scan,task,logit\nb,t,1\n");
    let said = error(&["evaluate", "-l", &labels, "-p", &first, &other]);
    assert!(said.contains("q.csv: expected the columns of"), "{said}");
}

#[test]
fn what_predict_says_of_scans_that_failed_is_no_prediction() {
    let scratch = Scratch::new();
    let labels = scratch.write("l.csv", "scan,t\na,1\nb,0\nc,1\n");
    let answers = r#"[{"scan": "a", "task": "t", "probability": 0.9},
        {"scan": "b", "task": "t", "probability": 0.2},
        {"scan": "c", "error": "c: no such file"}]"#;
    let answers = scratch.write("p.json", answers);
    let arguments = ["evaluate", "-l", &labels, "-p", &answers];
    let said = error(&arguments);
    assert!(
        said.contains("lacks 1 of the 3 cases") && said.contains("--common-cases"),
        "{said}"
    );
    let found = json(&[&arguments[..], &["--common-cases", "--format", "json"]].concat());
    assert_eq!(found["tasks"][0]["auroc"], 1.0);
}

#[test]
fn a_threshold_of_probabilities_is_one() {
    let (p, l) = (path("predictions.csv"), path("labels.csv"));
    let said = error(&["evaluate", "-p", &p, "-l", &l, "--threshold", "50"]);
    assert!(
        said.contains("--threshold") && said.contains("got 50"),
        "{said}"
    );
}
