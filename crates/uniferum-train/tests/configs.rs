//! The paper's experiments as files: they can be read and their settings can work.

use std::path::{Path, PathBuf};

use uniferum_data::{Manifest, Scan, Split};
use uniferum_tasks::Catalogue;
use uniferum_train::{ModelChoice, RunConfig};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let folders = ["table2", "table5"].map(|name| folder.join(name));
    let entries = folders
        .iter()
        .flat_map(|f| std::fs::read_dir(f).into_iter());
    let mut files: Vec<PathBuf> = entries.flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    files
}

#[test]
fn every_row_of_the_paper_can_be_run() {
    let files = files();
    if files.is_empty() {
        eprintln!("skipped: the experiment files are in the repository, not in the package");
        return;
    }
    assert_eq!(files.len(), 10 + 6);
    let catalogue = Catalogue::standard();
    for file in files {
        let name = file.display().to_string();
        let config = RunConfig::read(&file).unwrap();
        config.validate().unwrap();
        let tasks = config
            .select_tasks(&catalogue, &Manifest::default())
            .unwrap();
        let alone = ["inspect.toml", "radchest.toml"].iter().any(|e| {
            let stem = name.rsplit('/').next().unwrap_or("");
            stem == *e || stem == format!("cnn-{e}")
        });
        assert_eq!(
            config.train.steps,
            if alone { 10_000 } else { 25_000 },
            "{name}"
        );
        let masks = tasks.iter().filter(|t| !t.mask_labels.is_empty()).count();
        assert_eq!(masks > 0, name.contains("-seg"), "{name}");
        let baseline = matches!(config.model, ModelChoice::Baseline(_));
        assert_eq!(baseline, name.contains("cnn-"), "{name}");
    }
}

#[test]
fn the_default_is_written_and_read_back() {
    for config in [RunConfig::default(), RunConfig::baseline()] {
        let text = config.to_toml().unwrap();
        assert_eq!(RunConfig::from_toml(&text).unwrap(), config);
        config.validate().unwrap();
    }
    let error = RunConfig::from_toml("[train]\nlearning_rat = 1.0").unwrap_err();
    assert!(error.to_string().contains("learning_rat"), "{error}");
}

#[test]
fn without_a_list_the_tasks_are_those_with_answers() {
    let scan = |label: &str, split| Scan {
        labels: [(label.to_owned(), true)].into(),
        mask: (split == Split::Train).then(|| "mask.nii.gz".into()),
        split,
        ..plain()
    };
    let manifest = Manifest {
        scans: vec![
            scan("phantom.emphysema", Split::Train),
            scan("phantom.cardiomegaly", Split::Test),
        ],
    };
    let catalogue = Catalogue::standard();
    let tasks = RunConfig::default()
        .select_tasks(&catalogue, &manifest)
        .unwrap();
    assert_eq!(tasks.iter().filter(|t| t.group == "phantom").count(), 1);
    assert_eq!(tasks.iter().filter(|t| t.group == "anatomy").count(), 60);
    assert_eq!(tasks.len(), 61);
    let baseline = RunConfig::baseline()
        .select_tasks(&catalogue, &manifest)
        .unwrap();
    assert_eq!(baseline.len(), 1);
}

fn plain() -> Scan {
    Scan {
        path: "scan.nii.gz".into(),
        patient: "p".into(),
        split: Split::Train,
        ..Scan::default()
    }
}
