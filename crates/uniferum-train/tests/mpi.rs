//! Two processes under `mpirun` do what one does. Run by
//! `cargo test -p uniferum-train --features mpi --test mpi`, which starts `mpirun` itself.
#![cfg(feature = "mpi")]

mod common;

use std::path::Path;
use std::process::Command;

use candle_core::Device;
use common::{ALL, config, setup};
use uniferum_train::distributed::Launch;
use uniferum_train::{TrainConfig, Trainer};

const FOLDER: &str = "UNIFERUM_TEST_MPI";

fn train(folder: &Path, run: &str) {
    let mut s = setup(&folder.join("data"), 16, true, &ALL);
    s.loader.scans_per_step = 12;
    let recipe = TrainConfig {
        scans_per_step: 12,
        scans_per_pass: 4,
        learning_rate: 5e-5,
        ..config(5)
    };
    let mut trainer = Trainer::new(&s.model, s.prompts.clone(), recipe, &Device::Cpu).unwrap();
    trainer
        .join(Launch::from_env().unwrap().join(&Device::Cpu).unwrap())
        .unwrap();
    trainer.resume_in(&folder.join(run)).unwrap();
    trainer.run(&s.loader, |_| ()).unwrap();
}

fn losses(folder: &Path, run: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(folder.join(run).join("log.jsonl")).unwrap();
    let loss = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["loss"].as_f64().unwrap()
    };
    text.lines().map(loss).collect()
}

/// What each process of `mpirun` does; nothing in an ordinary test run.
#[test]
fn member() {
    if let Ok(folder) = std::env::var(FOLDER) {
        train(Path::new(&folder), "two");
    }
}

#[test]
fn two_processes_have_the_losses_of_one() {
    if std::env::var(FOLDER).is_ok() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), "one");
    let status = Command::new("mpirun")
        .args(["-n", "2", "--allow-run-as-root", "--oversubscribe"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "member", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .status()
        .expect("mpirun must be installed");
    assert!(status.success());
    let (one, two) = (losses(folder.path(), "one"), losses(folder.path(), "two"));
    assert_eq!((one.len(), two.len()), (5, 5));
    for (step, (a, b)) in one.iter().zip(&two).enumerate() {
        assert!((a - b).abs() < 1e-5, "step {}: {a} and {b}", step + 1);
    }
}
