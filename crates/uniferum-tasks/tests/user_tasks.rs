//! A user's own tasks from files, right and wrong.

use std::fs;

use uniferum_tasks::{Catalogue, Relation, Task, TaskKind};

fn add(name: &str, text: &str) -> Result<Catalogue, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    let mut catalogue = Catalogue::standard();
    catalogue.add_file(&path).map_err(|e| e.to_string())?;
    Ok(catalogue)
}

const TOML: &str = r#"
[[tasks]]
id = "site-a.rib-fracture"
kind = "diagnosis"
name = "rib fracture"
organ = "ribs"
label = "fracture"

[[tasks]]
id = "site-a.effusion"
kind = "diagnosis"
name = "pleural effusion"
relation = "around"
organ = "lungs"
finding = "pleural-effusion"

[[tasks]]
id = "stroke"
kind = "prognosis"
name = "stroke"
months = 3

[[tasks]]
id = "site-a.spleen"
kind = "segmentation"
name = "spleen"
mask_labels = [1]
"#;

#[test]
fn toml_and_json_say_the_same() {
    let from_toml = add("own.toml", TOML).unwrap();
    let value: toml::Value = toml::from_str(TOML).unwrap();
    let from_json = add("own.json", &serde_json::to_string(&value).unwrap()).unwrap();
    assert_eq!(from_toml.tasks(), from_json.tasks());

    let fracture = from_toml.get("site-a.rib-fracture").unwrap();
    assert_eq!(
        fracture.prompt,
        "Diagnose the presence of rib fracture in the ribs"
    );
    assert_eq!(
        (fracture.group.as_str(), fracture.label.as_str()),
        ("site-a", "fracture")
    );
    let effusion = from_toml.get("site-a.effusion").unwrap();
    assert_eq!(effusion.relation, Relation::Around);
    assert!(from_toml.is_shared(effusion));
    assert_eq!(from_toml.get("stroke").unwrap().group, "user");
    assert_eq!(from_toml.group("site-a-unique").len(), 2);
    let spleen = from_toml.get("site-a.spleen").unwrap();
    assert_eq!(spleen.prompt, "Segment the spleen in the image.");
    assert!(from_toml.explain(spleen).contains("spleen (1)"));
}

#[test]
fn own_prompts_replace_the_template() {
    let text = r#"{"tasks": [{"id": "q", "kind": "diagnosis", "name": "q", "prompt": " Why? "}]}"#;
    let catalogue = add("q.json", text).unwrap();
    assert_eq!(catalogue.get("q").unwrap().prompt, "Why?");
}

#[test]
fn mistakes_are_named() {
    let task = |fields: &str| format!(r#"{{"tasks": [{{"id": "t", "name": "t", {fields}}}]}}"#);
    let cases = [
        (task(r#""kind": "diagnosis""#), "needs `organ`"),
        (
            task(r#""kind": "diagnosis", "organ": "heart", "months": 2"#),
            "`months` belongs",
        ),
        (task(r#""kind": "prognosis""#), "needs `months`"),
        (
            task(r#""kind": "prognosis", "months": 0"#),
            "needs `months`",
        ),
        (task(r#""kind": "segmentation""#), "needs `mask_labels`"),
        (
            task(r#""kind": "segmentation", "mask_labels": [0]"#),
            "background",
        ),
        (
            task(r#""kind": "segmentation", "mask_labels": [5], "organ": "x""#),
            "`organ` and",
        ),
        (
            task(r#""kind": "diagnosis", "organ": "x", "mask_labels": [5]"#),
            "`mask_labels` belongs",
        ),
        (task(r#""kind": "guess""#), "unknown variant `guess`"),
        (
            task(r#""kind": "diagnosis", "organs": "x""#),
            "unknown field `organs`",
        ),
        (
            task(r#""kind": "diagnosis", "prompt": "  ""#),
            "`prompt` is empty",
        ),
        ("{}".to_owned(), "missing field `tasks`"),
        ("[".to_owned(), "not a valid task file"),
    ];
    for (text, expected) in cases {
        let error = add("t.json", &text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
    assert!(add("t.yaml", "").unwrap_err().contains(".json or .toml"));
    assert!(add("t.toml", "tasks = 3").unwrap_err().contains("t.toml"));
    let twice = r#"{"tasks": [{"id": "ct-rate.emphysema", "kind": "diagnosis", "name": "x", "organ": "y"}]}"#;
    assert!(add("t.json", twice).unwrap_err().contains("defined twice"));
    let missing = Catalogue::standard()
        .add_file("nowhere.toml")
        .unwrap_err()
        .to_string();
    assert!(missing.contains("nowhere.toml: cannot read"), "{missing}");
}

#[test]
fn a_failed_file_leaves_the_catalogue_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.json");
    let text = r#"{"tasks": [
        {"id": "a.one", "kind": "diagnosis", "name": "x", "organ": "y"},
        {"id": "a.one", "kind": "diagnosis", "name": "x", "organ": "y"}]}"#;
    fs::write(&path, text).unwrap();
    let mut catalogue = Catalogue::standard();
    let before = catalogue.tasks().len();
    assert!(catalogue.add_file(&path).is_err());
    assert_eq!(catalogue.tasks().len(), before);
    assert!(catalogue.get("a.one").is_none());
}

#[test]
fn tasks_survive_serialisation() {
    for task in &Catalogue::standard() {
        let json = serde_json::to_string(task).unwrap();
        assert_eq!(&serde_json::from_str::<Task>(&json).unwrap(), task);
    }
    let free = Task::from_question("Segment the spleen");
    assert_eq!(free.kind, TaskKind::Segmentation);
}
