//! A process that is killed at any moment goes on to the same weights, to the last bit.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::Device;
use common::{ALL, config, setup};
use sha2::{Digest, Sha256};
use uniferum_train::{LearningRate, TrainConfig, Trainer};

const FOLDER: &str = "UNIFERUM_TEST_CHILD";
const STEPS: u64 = 12;

/// Everything that a run has to remember: averages, plateau, best weights, several passes a step.
fn train(folder: &Path) {
    let s = setup(&folder.join("data"), 8, true, &ALL);
    let recipe = TrainConfig {
        scans_per_pass: 2,
        ema_decay: Some(0.9),
        schedule: LearningRate::plateau(),
        validate_every: 3,
        early_stop: Some(50),
        checkpoint_every: 2,
        ..config(STEPS)
    };
    let mut trainer = Trainer::new(&s.model, s.prompts.clone(), recipe, &Device::Cpu).unwrap();
    let data = s.loader.dataset.clone();
    trainer.validate_on(data, vec![0, 1, 2, 3]).unwrap();
    trainer.resume_in(&folder.join("run")).unwrap();
    trainer.run(&s.loader, |_| ()).unwrap();
}

/// What the child process does; nothing in an ordinary test run.
#[test]
fn child() {
    if let Ok(folder) = std::env::var(FOLDER) {
        train(Path::new(&folder));
    }
}

fn start(folder: &Path) -> std::process::Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program)
        .args(["--exact", "child", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn digests(folder: &Path) -> Vec<(String, String)> {
    let run = folder.join("run");
    let last = run.join(format!("step-{STEPS:08}"));
    let files: Vec<PathBuf> = [
        "model.safetensors",
        "optimizer.safetensors",
        "averages.safetensors",
        "state.json",
    ]
    .iter()
    .map(|name| last.join(name))
    .chain([run.join("best/model.safetensors")])
    .collect();
    let digest = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        format!("{:?}", Sha256::digest(bytes))
    };
    files
        .iter()
        .map(|path| (path.display().to_string(), digest(path)))
        .map(|(path, hash)| (path.rsplit('/').next().unwrap().to_owned(), hash))
        .collect()
}

#[test]
fn killed_at_any_moment_and_resumed_the_weights_are_the_same() {
    if std::env::var(FOLDER).is_ok() {
        return;
    }
    let whole = tempfile::tempdir().unwrap();
    let clock = Instant::now();
    train(whole.path());
    let duration = clock.elapsed();

    let cut = tempfile::tempdir().unwrap();
    let mut kills = 0;
    // Moments spread over a run by the golden ratio; each run begins where the last was killed.
    for i in 1..=40u32 {
        let mut child = start(cut.path());
        let moment = duration.mul_f64(0.15 + 0.5 * (f64::from(i) * 0.618_034).fract());
        let deadline = Instant::now() + moment;
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if Instant::now() > deadline {
                break false;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if ended {
            break;
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        kills += 1;
    }
    let status = start(cut.path()).wait().unwrap();
    assert!(status.success() && kills > 0);
    assert_eq!(digests(cut.path()), digests(whole.path()));
    let log = std::fs::read_to_string(cut.path().join("run/log.jsonl")).unwrap();
    assert_eq!(log.lines().count() as u64, STEPS);
}
