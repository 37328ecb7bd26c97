//! `uniferum train` as its users call it: a look ahead, a run, going on, and `evaluate --checkpoint`.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{fails, small_phantom, succeeds, uniferum};
use serde_json::Value;
use uniferum_ct::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;
use uniferum_data::{InputSettings, Manifest, Split};
use uniferum_encoder::{EncoderConfig, Variant};
use uniferum_fusion::{BertConfig, UniferumConfig};
use uniferum_phantom::{PhantomConfig, write_cohort};
use uniferum_tasks::Catalogue;
use uniferum_train::{Init, LearningRate, ModelChoice, RunConfig, TrainConfig};

/// Twelve small phantoms: six for training, three each for validation and test.
fn manifest(folder: &Path) -> PathBuf {
    let phantom = PhantomConfig {
        scanner_variation: 0.0,
        prevalence: 0.5,
        ..small_phantom()
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
    refuses(&|r| r.train.loss.mask_weight = -1.0, "mask_weight");
    refuses(&|r| r.train.sampler.organ_share = -1.0, "organ_share");
    let mut baseline = RunConfig::baseline();
    baseline.init.checkpoint = Some("model.safetensors".into());
    refuses(&|r| *r = baseline.clone(), "init.checkpoint");
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
    let settings = std::fs::read(run.join("config.toml")).unwrap();
    let mut augmented = recipe();
    augmented.augment.noise_probability += 0.25;
    let resumed = site.train(&augmented, &[&out[..], &["--resume"]].concat());
    fails(
        &resumed,
        "started with other scans, labels, tasks, sampling and augmentation",
    );
    let kept = std::fs::read(run.join("config.toml")).unwrap();
    assert!(
        settings == kept,
        "a run that is refused keeps its configuration"
    );
    a_look_ahead_compares_the_run_and_changes_nothing(&site, &run);
    let nowhere = site.path("rnu");
    let mut command = uniferum();
    command
        .args(["train", "--resume", "--device", "cpu", "--out"])
        .arg(nowhere);
    command.arg("--manifest").arg(&site.manifest);
    fails(&command.output().unwrap(), "holds no run");
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

    // A model is one to start from, without a network of one's own beside it.
    let mut on_top = recipe();
    on_top.init.checkpoint = Some(run.join("best/model.safetensors"));
    let ModelChoice::Uniferum(model) = &mut on_top.model else {
        unreachable!("the recipe is of the model");
    };
    model.bert.hidden = 64;
    fails(
        &site.train(&on_top, &["--dry-run"]),
        "model.bert.hidden: expected 32, got 64",
    );
    on_top.model = ModelChoice::default();
    succeeds(&site.train(&on_top, &["--dry-run"]));
    // What training goes on with is no model for use.
    let state = run.join("step-00000004");
    for (verb, input) in [("predict", "scan.nii.gz"), ("evaluate", "--manifest=x.csv")] {
        let mut command = uniferum();
        command.args([verb, input, "--checkpoint"]).arg(&state);
        if verb == "predict" {
            command.args(["--task", "anatomy.heart"]);
        }
        fails(&command.output().unwrap(), "a training run goes on from it");
    }

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
    fails(&command.output().unwrap(), "an earlier evaluation");
    let mut nowhere = uniferum();
    nowhere.args(["evaluate", "--device", "cpu", "--overwrite", "--manifest"]);
    nowhere
        .arg(&site.manifest)
        .arg("--checkpoint")
        .arg(site.path("nowhere"));
    assert!(
        !nowhere
            .arg("--out")
            .arg(&judged)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(
        judged.join("predictions-1.csv").is_file(),
        "lost before there is another"
    );
    let output = command.arg("--overwrite").output().unwrap();
    fails(&output, broken.file_name().unwrap().to_str().unwrap());
    fails(&output, "1 of 3 scans could not be used");
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed[0]["scans"], 2);
    assert_eq!(printed[0]["skipped"].as_array().unwrap().len(), 1);
}

/// What `--resume` would refuse, `--dry-run` refuses.
fn a_look_ahead_compares_the_run_and_changes_nothing(site: &Site, run: &Path) {
    let settings = std::fs::read(run.join("config.toml")).unwrap();
    let log = std::fs::read(run.join("log.jsonl")).unwrap();
    let look = |change: &dyn Fn(&mut RunConfig)| {
        let mut recipe = recipe();
        change(&mut recipe);
        let out = run.to_str().unwrap();
        let output = site.train(&recipe, &["--out", out, "--resume", "--dry-run"]);
        assert!(settings == std::fs::read(run.join("config.toml")).unwrap());
        assert!(log == std::fs::read(run.join("log.jsonl")).unwrap());
        output
    };
    let refuses = |change: &dyn Fn(&mut RunConfig), part: &str| fails(&look(change), part);
    refuses(&|r| r.train.steps = 6, "train.steps: expected 4, got 6");
    refuses(
        &|r| r.input.transform.crop = [28; 3],
        "input.transform.crop: expected [32,32,32], got [28,28,28]",
    );
    refuses(
        &|r| r.augment.noise_probability += 0.25,
        "scans, labels, tasks, sampling and augmentation: expected those that the run was started with",
    );
    refuses(
        &|r| r.tasks.truncate(1),
        "scans, labels, tasks, sampling and augmentation: expected those that the run was started with",
    );
    succeeds(&look(&|_| {}));
    succeeds(&look(&|r| r.train.keep_checkpoints += 1));
}

#[test]
fn a_model_is_never_trained_over_and_folders_are_one_process_s_own() {
    let site = Site::new();
    let run = site.path("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("model.safetensors"), "of last year").unwrap();
    let out = ["--out", run.to_str().unwrap()];
    fails(&site.train(&recipe(), &out), "holds a run already");
    std::fs::remove_file(run.join("model.safetensors")).unwrap();
    let lock = std::fs::File::create(run.join(".lock")).unwrap();
    lock.lock().unwrap();
    fails(
        &site.train(&recipe(), &out),
        "another process trains in this folder",
    );
}

/// Another machine, or another folder: the run has its own weights and words.
#[test]
fn a_run_goes_on_without_the_model_it_began_from() {
    let site = Site::new();
    let first = site.path("first");
    succeeds(&site.train(&recipe(), &["--out", first.to_str().unwrap()]));
    let mut next = recipe();
    next.init.checkpoint = Some(first.join("best/model.safetensors"));
    let second = site.path("second");
    let out = ["--out", second.to_str().unwrap()];
    succeeds(&site.train(&next, &out));
    let whole = std::fs::read(second.join("model.safetensors")).unwrap();
    std::fs::remove_dir_all(&first).unwrap();
    std::fs::remove_dir_all(second.join("step-00000004")).unwrap();
    let resumed = site.train(&next, &[&out[..], &["--resume"]].concat());
    assert!(succeeds(&resumed).contains("going on after step 2"));
    assert!(whole == std::fs::read(second.join("model.safetensors")).unwrap());
    // More steps are another run, and how is said.
    let mut longer = next;
    longer.train.steps = 6;
    let refused = site.train(&longer, &[&out[..], &["--resume"]].concat());
    fails(&refused, "whose [init] names this run's model");
}

#[test]
fn a_recipe_that_looks_odd_is_warned_of() {
    let site = Site::new();
    let tasks = site.path("tasks.toml");
    let own = "[[tasks]]\nid = \"site.tumour\"\nkind = \"segmentation\"\nname = \"tumour\"\nmask_labels = [1]\n";
    std::fs::write(&tasks, own).unwrap();
    let mut odd = recipe();
    odd.tasks.clear();
    odd.train.schedule = LearningRate::plateau();
    let look = ["--dry-run", "--tasks-file", tasks.to_str().unwrap()];
    let text = succeeds(&site.train(&odd, &look));
    for part in [
        "the learning rate never falls: it would after 11 validations",
        "as your own by site.tumour",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = succeeds(&site.train(&recipe(), &look));
    assert!(
        !text.contains("never falls") && !text.contains("as your own"),
        "{text}"
    );
}

#[test]
fn tables_that_split_a_patient_are_refused_together() {
    let site = Site::new();
    let table = std::fs::read_to_string(&site.manifest).unwrap();
    let (from, to) = (Split::Train.as_str(), Split::Val.as_str());
    let other = site.path("other.csv");
    std::fs::write(
        &other,
        table.replace(from, "x").replace(to, from).replace('x', to),
    )
    .unwrap();
    let other = other.to_str().unwrap();
    let refused = site.train(&recipe(), &["--dry-run", "--manifest", other]);
    fails(&refused, "disagree about its split");
    // The same table twice is one collection.
    let same = site.manifest.to_str().unwrap().to_owned();
    let text = succeeds(&site.train(&recipe(), &["--dry-run", "--manifest", &same]));
    assert!(text.contains("6 training and 3 validation scans"), "{text}");
}

#[test]
fn scans_that_were_prepared_otherwise_are_refused() {
    let site = Site::new();
    let mut settings = uniferum_ct::batch::PrepareSettings {
        standardise: recipe().input.standardise,
        ..Default::default()
    };
    let file = site.path("prepare.json");
    let mut dry_run = || {
        std::fs::write(&file, serde_json::to_string(&settings).unwrap()).unwrap();
        settings.standardise.size = Some([40; 3]);
        site.train(&recipe(), &["--dry-run"])
    };
    succeeds(&dry_run());
    let refused = dry_run();
    fails(&refused, "prepare.json says");
    fails(&refused, "size");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_with_a_checkpoint() {
    let site = Site::new();
    let mut recipe = recipe();
    recipe.train.steps = 100_000;
    (recipe.train.checkpoint_every, recipe.train.validate_every) = (0, 0);
    let config = site.path("recipe.toml");
    std::fs::write(&config, recipe.to_toml().unwrap()).unwrap();
    let run = site.path("run");
    let mut command = uniferum();
    command.args(["train", "--device", "cpu", "--group", "phantom", "--config"]);
    command
        .arg(config)
        .arg("--manifest")
        .arg(&site.manifest)
        .arg("--out")
        .arg(&run);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let log = run.join("log.jsonl");
    while !log.is_file() {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before its first step"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    fails(&output, "go on with --resume");
    let checkpoint = uniferum_train::latest_checkpoint(&run).expect("a checkpoint");
    assert!(checkpoint.join("state.json").is_file());
}
