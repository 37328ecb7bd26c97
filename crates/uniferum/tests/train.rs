//! `uniferum train` as its users call it: a look ahead, a run, going on, and `evaluate --checkpoint`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use uniferum_ct::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;
use uniferum_data::{InputSettings, Manifest, Split};
use uniferum_encoder::{EncoderConfig, Variant};
use uniferum_fusion::{BertConfig, UniferumConfig};
use uniferum_phantom::{PhantomConfig, write_cohort};
use uniferum_tasks::Catalogue;
use uniferum_train::{Init, ModelChoice, RunConfig, TrainConfig};

/// Twelve small phantoms: six for training, three each for validation and test.
fn manifest(folder: &Path) -> PathBuf {
    let phantom = PhantomConfig {
        shape: [48, 40, 32],
        spacing_mm: [8.0; 3],
        scanner_variation: 0.0,
        prevalence: 0.5,
        ..PhantomConfig::default()
    };
    write_cohort(folder, 12, 0, &phantom, &|| ()).unwrap();
    let table = folder.join("labels.csv");
    let mut manifest = Manifest::read(&table, &Catalogue::standard(), "phantom").unwrap();
    for (i, scan) in manifest.scans.iter_mut().enumerate() {
        scan.split = [Split::Train, Split::Train, Split::Val, Split::Test][i % 4];
    }
    let path = folder.join("manifest.csv");
    manifest.write(&path).unwrap();
    path
}

/// A recipe of four steps on a network that is hardly one.
fn recipe() -> RunConfig {
    RunConfig {
        tasks: vec!["phantom".to_owned(), "anatomy.lungs".to_owned()],
        model: ModelChoice::Uniferum(UniferumConfig {
            encoder: EncoderConfig {
                variant: Variant::Custom {
                    width: 0.25,
                    depth: 0.3,
                },
                ..EncoderConfig::default()
            },
            bert: BertConfig {
                hidden: 32,
                heads: 2,
                intermediate: 64,
                layers: 1,
                ..BertConfig::default()
            },
            ..UniferumConfig::default()
        }),
        init: Init::none(),
        input: InputSettings {
            standardise: StandardiseConfig {
                spacing_mm: [8.0; 3],
                ..StandardiseConfig::default()
            },
            transform: ModelTransform {
                crop: [32; 3],
                shape: [32; 3],
            },
        },
        train: TrainConfig {
            steps: 4,
            scans_per_step: 3,
            scans_per_pass: 3,
            questions_per_scan: 4,
            warmup_steps: 1,
            validate_every: 2,
            checkpoint_every: 2,
            ..TrainConfig::default()
        },
        ..RunConfig::default()
    }
}

struct Site {
    folder: tempfile::TempDir,
    manifest: PathBuf,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = manifest(folder.path());
        Self { folder, manifest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn train(&self, recipe: &RunConfig, arguments: &[&str]) -> Output {
        let config = self.path("recipe.toml");
        std::fs::write(&config, recipe.to_toml().unwrap()).unwrap();
        let mut command = uniferum();
        command.args(["train", "--device", "cpu", "--group", "phantom"]);
        command.arg("--config").arg(config);
        command.arg("--manifest").arg(&self.manifest);
        command.env("HF_HOME", self.path("hub"));
        command.env("HF_HUB_OFFLINE", "1");
        command.args(arguments).output().unwrap()
    }
}

fn uniferum() -> Command {
    Command::new(env!("CARGO_BIN_EXE_uniferum"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

fn fails(output: &Output, part: &str) {
    let said = said(output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(part), "{part:?} in {said}");
}

#[test]
fn a_dry_run_tells_what_would_be_learnt_and_writes_nothing() {
    let site = Site::new();
    let mut recipe = recipe();
    recipe.tasks.push("inspect-unique".to_owned());
    recipe.init.text = "nobody/no-such-model".to_owned();
    let out = site.path("run");
    let out_text = out.to_str().unwrap();
    let text = succeeds(&site.train(&recipe, &["--dry-run", "--out", out_text]));
    for part in [
        "6 training and 3 validation scans",
        "phantom.pleural-effusion: ",
        "no training scan answers 8 of ",
        "inspect.pulmonary-embolism",
        "nobody/no-such-model: not in ",
        "HF_HUB_OFFLINE forbids",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!out.exists());
    // Without the dry run the same stops before the first step, and says what to do.
    let real = site.train(&recipe, &["--out", out_text]);
    fails(&real, "hf download nobody/no-such-model");
}

#[test]
fn what_cannot_work_is_refused_before_the_first_step() {
    let site = Site::new();
    let refuses = |change: &dyn Fn(&mut RunConfig), part: &str| {
        let mut recipe = recipe();
        change(&mut recipe);
        fails(&site.train(&recipe, &["--dry-run"]), part);
    };
    refuses(&|r| r.train.steps = 0, "steps: expected more than 0");
    refuses(&|r| r.train.warmup_steps = 9, "warmup_steps");
    refuses(&|r| r.tasks = vec!["no-such".to_owned()], "no-such");
    refuses(
        &|r| r.tasks = vec!["ct-rate".to_owned()],
        "nothing to train on",
    );
    let variant = site.path("variant.toml");
    std::fs::write(
        &variant,
        "[model]\nkind = \"uniferum\"\nencoder = { variant = \"b9\" }",
    )
    .unwrap();
    let mut command = uniferum();
    command.args(["train", "--dry-run", "--manifest"]);
    command.arg(&site.manifest).arg("--config").arg(&variant);
    fails(&command.output().unwrap(), "expected \"b0\"");
    refuses(
        &|r| r.train.precision = uniferum_train::Precision::Bf16,
        "bfloat16 training needs a GPU",
    );
    refuses(&|r| r.input.transform.shape = [33; 3], "33");
}

#[test]
fn a_run_leaves_what_evaluate_reads_and_is_not_begun_twice() {
    let site = Site::new();
    let run = site.path("run");
    let out = ["--out", run.to_str().unwrap()];
    let text = succeeds(&site.train(&recipe(), &out));
    assert!(text.contains("million trained parameters"), "{text}");
    for name in [
        "config.toml",
        "log.jsonl",
        "validation.jsonl",
        "model.safetensors",
        "best/model.safetensors",
        "best/tokenizer.json",
        "step-00000004/optimizer.safetensors",
    ] {
        assert!(run.join(name).is_file(), "{name}");
    }
    fails(&site.train(&recipe(), &out), "go on with --resume");
    let before = std::fs::read(run.join("model.safetensors")).unwrap();
    let mut other = recipe();
    other.input.transform.crop = [28; 3];
    let resumed = site.train(&other, &[&out[..], &["--resume"]].concat());
    fails(
        &resumed,
        "input.transform.crop: expected [32,32,32], got [28,28,28]",
    );
    // Without a configuration the run's own is meant.
    let mut command = uniferum();
    command.args(["train", "--resume", "--device", "cpu", "--group", "phantom"]);
    command.arg("--manifest").arg(&site.manifest).args(out);
    succeeds(&command.output().unwrap());
    assert_eq!(
        std::fs::read(run.join("model.safetensors")).unwrap(),
        before
    );

    let judged = site.path("judged");
    let mut command = uniferum();
    command.args([
        "evaluate", "--device", "cpu", "--group", "phantom", "--format", "json",
    ]);
    command.arg("--checkpoint").arg(run.join("best"));
    command.arg("--manifest").arg(&site.manifest);
    let output = command.arg("--out").arg(&judged).output().unwrap();
    succeeds(&output);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed[0]["scans"], 3);
    let groups = printed[0]["groups"].as_array().unwrap();
    let names: Vec<&str> = groups.iter().filter_map(|g| g["group"].as_str()).collect();
    assert_eq!(names, ["phantom-shared", "phantom-unique"]);
    let numbers = std::fs::read_to_string(judged.join("evaluation.csv")).unwrap();
    for name in names {
        let mean = format!(",{name},mean,");
        assert!(numbers.lines().any(|l| l.contains(&mean)), "{numbers}");
    }
    for name in [
        "evaluation.json",
        "evaluation.csv",
        "evaluation.html",
        "predictions-1.csv",
    ] {
        assert!(judged.join(name).is_file(), "{name}");
    }

    // One broken scan costs its own answers alone.
    let catalogue = Catalogue::standard();
    let all = Manifest::read(&site.manifest, &catalogue, "phantom").unwrap();
    let broken = all.scans[all.of(Split::Test)[0]].path.clone();
    std::fs::write(&broken, "not a scan").unwrap();
    let output = command.output().unwrap();
    fails(&output, broken.file_name().unwrap().to_str().unwrap());
    fails(&output, "1 of 3 scans could not be used");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed[0]["scans"], 2);
    assert_eq!(printed[0]["skipped"].as_array().unwrap().len(), 1);
}
