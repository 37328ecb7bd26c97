//! `uniferum predict` as a user meets it: answers on standard output, one line for a mistake.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use candle_core::{DType, Device};
use candle_nn::VarMap;
use common::{printed, refused, succeeds, uniferum, write_classes};
use uniferum::fusion::{
    BertConfig, Prompts, Uniferum, UniferumConfig, checkpoint, seeded_var_builder,
};
use uniferum_ct::batch::{OutputFormat, PrepareSettings};
use uniferum_ct::prep::StandardiseConfig;
use uniferum_ct::transform::ModelTransform;
use uniferum_data::InputSettings;
use uniferum_phantom::{PhantomConfig, write_cohort};

/// A tiny model with random weights, its tokenizer and preparation, and two phantoms.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let prompts = Prompts::from_sentences(&["Segment the heart in the image."]).unwrap();
        let bert = BertConfig {
            hidden: 48,
            heads: 4,
            intermediate: 96,
            layers: 2,
            ..prompts.bert_config()
        };
        let config = UniferumConfig {
            bert,
            ..UniferumConfig::default()
        };
        let vars = VarMap::new();
        let builder = seeded_var_builder(&vars, 3, DType::F32, &Device::Cpu);
        Uniferum::new(&config, builder).unwrap();
        checkpoint::save(path.join("model.safetensors"), &vars, &config).unwrap();
        prompts.save(path.join("tokenizer.json")).unwrap();
        let settings = InputSettings {
            standardise: StandardiseConfig {
                spacing_mm: [12.0, 10.0, 8.0],
                size: Some([34, 34, 32]),
                ..StandardiseConfig::default()
            },
            transform: ModelTransform {
                crop: [32; 3],
                shape: [32; 3],
            },
        };
        settings.save(path).unwrap();
        let phantoms = PhantomConfig {
            shape: [32; 3],
            spacing_mm: [12.0, 10.0, 8.0],
            ..PhantomConfig::default()
        };
        write_cohort(&path.join("cohort"), 10, 2, &phantoms, &|| {}).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn scan(&self, number: usize) -> PathBuf {
        self.path(&format!("cohort/scans/phantom-{number:04}.nii.gz"))
    }

    fn predict(&self, scan: &Path, more: &[&str]) -> Output {
        let checkpoint = self.path("model.safetensors");
        run(scan, &checkpoint, more)
    }
}

fn run(scan: &Path, checkpoint: &Path, more: &[&str]) -> Output {
    uniferum()
        .args(["predict", "--quiet", "--checkpoint"])
        .arg(checkpoint)
        .arg(scan)
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn answers_are_an_array_of_rows_and_masks_lie_on_the_scan() {
    let setup = Setup::new();
    let out = setup.path("out");
    let output = setup.predict(
        &setup.scan(0),
        &[
            "--task",
            "Diagnose the presence of emphysema in the lungs",
            "--task",
            "anatomy.heart",
            "--format",
            "json",
            "--save-masks",
            "--out",
            out.to_str().unwrap(),
        ],
    );
    succeeds(&output);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap();
        let sigmoid = 1.0 / (1.0 + (-number("logit")).exp());
        assert!((number("probability") - sigmoid).abs() < 1e-5);
        assert!(
            row["scan"]
                .as_str()
                .unwrap()
                .ends_with("phantom-0000.nii.gz")
        );
    }
    assert_eq!(
        (&rows[0]["kind"], &rows[1]["kind"]),
        (&"diagnosis".into(), &"segmentation".into())
    );
    let mask = uniferum_ct::read_mask(rows[1]["mask_file"].as_str().unwrap()).unwrap();
    let scan = uniferum_ct::read_ct(setup.scan(0), &Default::default()).unwrap();
    scan.volume.check_same_grid(&mask, "mask").unwrap();
    assert!(out.join("predictions.json").is_file());
}

#[test]
fn answers_of_an_earlier_run_are_kept() {
    let setup = Setup::new();
    let out = setup.path("out");
    let table = out.join("predictions.csv");
    let ask = |scan: &Path, more: &[&str]| {
        let to = ["--task", "anatomy.heart", "--out", out.to_str().unwrap()];
        setup.predict(scan, &[&to, more].concat())
    };
    // A run without answers leaves nothing worth keeping.
    refused(&ask(&setup.path("missing.nii.gz"), &[]));
    assert!(ask(&setup.scan(0), &[]).status.success());
    let first = std::fs::read_to_string(&table).unwrap();
    assert!(first.contains("phantom-0000"), "{first}");
    for scan in [setup.scan(1), setup.path("missing.nii.gz")] {
        let message = refused(&ask(&scan, &[]));
        assert!(
            message.contains("predictions.csv: has the answers"),
            "{message}"
        );
    }
    assert_eq!(std::fs::read_to_string(&table).unwrap(), first);
    assert!(ask(&setup.scan(1), &["--overwrite"]).status.success());
    let second = std::fs::read_to_string(&table).unwrap();
    assert!(
        second.contains("phantom-0001") && !second.contains("phantom-0000"),
        "{second}"
    );
}

#[test]
fn a_folder_of_scans_is_answered_and_what_fails_is_kept_with_its_reason() {
    let setup = Setup::new();
    let folder = setup.path("inbox");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..2 {
        let scan = setup.scan(number);
        std::fs::copy(&scan, folder.join(scan.file_name().unwrap())).unwrap();
    }
    std::fs::write(folder.join("broken.nii.gz"), "no scan").unwrap();
    let out = setup.path("out");
    let to = [
        "--task",
        "anatomy.heart",
        "--save-masks",
        "--out",
        out.to_str().unwrap(),
    ];
    let output = setup.predict(&folder, &[&to[..], &["--format", "json"]].concat());
    assert!(refused(&output).contains("1 of 3 scans could not be used"));
    let lines: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(lines.len(), 3);
    let failed = &lines[2];
    assert!(failed["scan"].as_str().unwrap().ends_with("broken.nii.gz"));
    assert!(failed["error"].as_str().unwrap().contains("broken.nii.gz"));
    let table = std::fs::read_to_string(out.join("failed.csv")).unwrap();
    assert!(
        table.starts_with("scan,error\n") && table.contains("broken.nii.gz"),
        "{table}"
    );
    // The folder may be moved: what is written there names masks from there.
    let moved = setup.path("moved");
    std::fs::rename(&out, &moved).unwrap();
    let text = std::fs::read(moved.join("predictions.json")).unwrap();
    let saved: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    assert!(
        moved
            .join(saved[0]["mask_file"].as_str().unwrap())
            .is_file()
    );
    // A list of scans; the reasons of the last run go with its answers.
    let list = setup.path("list.txt");
    std::fs::write(&list, "inbox/phantom-0001.nii.gz\n").unwrap();
    let to = [
        "--task",
        "anatomy.heart",
        "--overwrite",
        "--out",
        moved.to_str().unwrap(),
    ];
    let output = setup.predict(&list, &to);
    succeeds(&output);
    assert!(!moved.join("failed.csv").exists());
}

#[test]
fn a_run_that_was_stopped_asks_what_it_left() {
    let setup = Setup::new();
    let out = setup.path("out");
    let task = ["--task", "anatomy.heart", "--save-masks"];
    let to = ["--out", out.to_str().unwrap()];
    let first = setup.predict(&setup.scan(0), &[&task[..], &to].concat());
    assert!(first.status.success());
    let table = out.join("predictions.csv");
    let first = std::fs::read_to_string(&table).unwrap();
    // It ended while it wrote a row.
    std::fs::write(&table, format!("{first}{},anat", setup.scan(1).display())).unwrap();
    let folder = setup.path("cohort/scans");
    let resume = [&task[..], &to, &["--resume"]].concat();
    let output = setup.predict(&folder, &resume);
    succeeds(&output);
    let second = std::fs::read_to_string(&table).unwrap();
    assert!(second.starts_with(&first), "{second}");
    let scans = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(second.lines().count(), 1 + scans);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout)
            .matches("logit")
            .count(),
        scans
    );
    // Of a table that names scans from one folder none are named from another.
    let from_here = |folder: &Path, out: &str, more: &[&str]| {
        uniferum()
            .current_dir(folder)
            .args(["predict", "--device", "cpu", "--task", "anatomy.heart"])
            .arg("--checkpoint")
            .arg(setup.path("model.safetensors"))
            .args(["--out", out])
            .args(more)
            .output()
            .unwrap()
    };
    let scan = setup.scan(0);
    let name = scan.file_name().unwrap().to_str().unwrap();
    let relative = setup.path("relative");
    let relative = relative.to_str().unwrap();
    assert!(from_here(&folder, relative, &[name]).status.success());
    let moved = format!("scans/{name}");
    let output = from_here(folder.parent().unwrap(), relative, &[&moved, "--resume"]);
    let text = refused(&output);
    assert!(text.contains("go on there"), "{text}");
    assert!(
        from_here(&folder, relative, &[name, "--resume"])
            .status
            .success()
    );
    // One process answers, and one division into parts.
    let lock = std::fs::File::create(out.join(".predict.lock")).unwrap();
    lock.lock().unwrap();
    let text = refused(&setup.predict(&folder, &resume));
    assert!(
        text.contains("another process answers the same part"),
        "{text}"
    );
    drop(lock);
    let parts = [&resume[..], &["--shard", "1/2"]].concat();
    let text = refused(&setup.predict(&folder, &parts));
    assert!(text.contains("divided into 1 parts"), "{text}");
    // A mask that was not there before would change answers.
    let masked = [resume.clone(), ["--mask", "m.nii.gz"].repeat(scans)].concat();
    let text = refused(&setup.predict(&folder, &masked));
    assert!(
        text.contains("predict.json: the run was begun with other"),
        "{text}"
    );
    // Nothing is left; another question is another run.
    assert!(setup.predict(&folder, &resume).status.success());
    assert_eq!(std::fs::read_to_string(&table).unwrap(), second);
    let other = ["--task", "anatomy.lungs", "--save-masks"];
    let refused = refused(&setup.predict(&folder, &[&other[..], &to, &["--resume"]].concat()));
    assert!(
        refused.contains("predict.json: the run was begun with other"),
        "{refused}"
    );
}

#[test]
fn questions_that_were_never_learnt_are_told() {
    let setup = Setup::new();
    let catalogue = uniferum_tasks::Catalogue::standard();
    let heart = catalogue.get("anatomy.heart").unwrap().clone();
    uniferum_tasks::trained::save(setup.folder.path(), &[heart]).unwrap();
    let ask = |task: &str| {
        let output = setup.predict(&setup.scan(0), &["--task", task]);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!ask("anatomy.heart").contains("not trained"));
    let told = ask("ct-rate.emphysema");
    assert!(
        told.contains("ct-rate.emphysema: the model was not trained on it"),
        "{told}"
    );
    let list = |checkpoint: &Path| {
        let tasks = ["tasks", "--quiet", "--format", "json", "--checkpoint"];
        let mut command = uniferum();
        command.args(tasks).arg(checkpoint).output().unwrap()
    };
    let known: Vec<serde_json::Value> =
        serde_json::from_slice(&list(&setup.path("model.safetensors")).stdout).unwrap();
    assert_eq!((known.len(), &known[0]["id"]), (1, &"anatomy.heart".into()));
    assert!(refused(&list(&setup.path("cohort"))).contains("questions.json"));
}

#[test]
fn a_scan_that_shows_no_body_or_was_never_standardised_is_refused() {
    let setup = Setup::new();
    let scan = setup.path("scan.nii.gz");
    let write_spaced = |side: usize, spacing: [f64; 3], hu: fn(usize) -> f32| {
        let voxels = ndarray::Array3::from_shape_fn((side, 32, 32), |(x, _, _)| hu(x));
        let affine = uniferum_ct::Affine::from_spacing(spacing, [1.0; 3], [5.0; 3]);
        uniferum_ct::write_nifti(&scan, &uniferum_ct::Volume::new(voxels, affine)).unwrap();
    };
    let write = |hu| write_spaced(32, [3.0; 3], hu);
    let ask = |stage: &str| {
        let output = setup.predict(&scan, &["--task", "anatomy.heart", "--input-stage", stage]);
        refused(&output)
    };
    write(|x| x as f32 / 32.0);
    let message = ask("raw");
    assert!(message.contains("no air"), "{message}");
    write(|_| -1000.0);
    let message = ask("array");
    assert!(message.contains("no soft tissue"), "{message}");
    // The body lies beside the middle, which the model would see.
    write_spaced(
        96,
        [12.0, 10.0, 8.0],
        |x| if x < 10 { 40.0 } else { -1000.0 },
    );
    let message = ask("standardised");
    assert!(message.contains("-1000 HU in every voxel"), "{message}");
    write(|x| x as f32 * 40.0 - 900.0);
    let message = ask("standardised");
    assert!(
        message.contains("expected 12.000 x 10.000 x 8.000 mm"),
        "{message}"
    );
    let missing = run(
        &scan,
        &setup.path("nope/model.safetensors"),
        &["--task", "anatomy.heart"],
    );
    let message = refused(&missing);
    assert!(
        message.contains("nope/model.safetensors: no such file"),
        "{message}"
    );
}

#[test]
fn an_array_needs_no_preparation() {
    let setup = Setup::new();
    let array = setup.path("array.nii.gz");
    let voxels =
        ndarray::Array3::from_shape_fn((32, 64, 32), |(x, y, z)| (x + y + z) as f32 * 9.0 - 900.0);
    let volume = uniferum_ct::Volume::new(voxels, uniferum_ct::Affine::IDENTITY);
    uniferum_ct::write_nifti(&array, &volume).unwrap();
    let stage = [
        "--input-stage",
        "array",
        "--tasks",
        "nodule",
        "--format",
        "csv",
    ];
    let output = setup.predict(&array, &stage);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    succeeds(&output);
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn a_prepared_scan_is_answered_as_the_scan_it_was_made_from() {
    let setup = Setup::new();
    let input = InputSettings::beside(&setup.path("model.safetensors")).unwrap();
    let settings = PrepareSettings {
        standardise: input.standardise,
        format: OutputFormat::Nifti,
    };
    let file = setup.path("prepare.json");
    std::fs::write(&file, serde_json::to_string(&settings).unwrap()).unwrap();
    let mut prepare = uniferum();
    prepare.args(["prepare", "--quiet"]).arg(setup.scan(0));
    prepare.arg("--masks").arg(setup.path("cohort/masks"));
    prepare.arg("--settings").arg(&file);
    prepare.arg("--out").arg(setup.path("ready"));
    succeeds(&prepare.output().unwrap());
    let logit = |scan: &Path, more: &[&str]| {
        let ask = ["--task", "anatomy.heart", "--format", "json"];
        let text = printed(&setup.predict(scan, &[&ask[..], more].concat()));
        let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
        rows[0]["logit"].as_f64().unwrap()
    };
    let mask = setup.path("cohort/masks/phantom-0000.nii.gz");
    let raw = logit(&setup.scan(0), &["--mask", mask.to_str().unwrap()]);
    let ready = setup.path("ready/scans/phantom-0000.nii.gz");
    assert_eq!(logit(&ready, &["--input-stage", "standardised"]), raw);
}

#[test]
fn mistakes_are_told_in_a_line() {
    let setup = Setup::new();
    let scan = setup.scan(1);
    let task = ["--task", "anatomy.heart"];
    let expect = |output: Output, part: &str| {
        let text = refused(&output);
        assert!(text.contains(part), "{part:?} is not in {text}");
    };
    expect(
        setup.predict(&setup.path("none.nii.gz"), &task),
        "none.nii.gz",
    );
    expect(setup.predict(&scan, &["--task", "  "]), "--task");
    expect(setup.predict(&scan, &[]), "no question");
    let mask = setup.path("cohort/masks/phantom-0001.nii.gz");
    let mask = ["--mask", mask.to_str().unwrap()];
    for help in [&mask[..], &["--estimate-lungs"]] {
        for stage in ["standardised", "array"] {
            let more = [&task[..], &["--input-stage", stage], help].concat();
            expect(setup.predict(&scan, &more), "expected --input-stage raw");
        }
    }
    expect(
        setup.predict(&scan, &["--task", "anatomy.hart"]),
        "anatomy.hart",
    );

    let cut = setup.path("cut.nii.gz");
    let bytes = std::fs::read(&scan).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    expect(setup.predict(&cut, &task), "cut.nii.gz");

    // A header that says two volumes, with the voxels of two.
    let series = setup.path("series.nii");
    uniferum_ct::write_nifti(
        &series,
        &uniferum_ct::read_ct(&scan, &Default::default())
            .unwrap()
            .volume,
    )
    .unwrap();
    let mut bytes = std::fs::read(&series).unwrap();
    bytes[40..42].copy_from_slice(&4i16.to_le_bytes());
    bytes[48..50].copy_from_slice(&2i16.to_le_bytes());
    bytes.extend(bytes[352..].to_vec());
    std::fs::write(&series, bytes).unwrap();
    expect(setup.predict(&series, &task), "series.nii");

    let other = setup.path("other.json");
    let words: Vec<String> = (0..400).map(|i| format!("word{i}x")).collect();
    Prompts::from_sentences(&words)
        .unwrap()
        .save(&other)
        .unwrap();
    let wrong = [
        "--task",
        "anatomy.heart",
        "--tokenizer",
        other.to_str().unwrap(),
    ];
    expect(setup.predict(&scan, &wrong), "tokenizer");

    let mut tensors =
        candle_core::safetensors::load(setup.path("model.safetensors"), &Device::Cpu).unwrap();
    tensors.remove("lm_head_cls.weight").unwrap();
    let part = setup.path("part");
    std::fs::create_dir(&part).unwrap();
    for name in ["model.json", "tokenizer.json", "input.json"] {
        std::fs::copy(setup.path(name), part.join(name)).unwrap();
    }
    let broken = part.join("model.safetensors");
    candle_core::safetensors::save(&tensors, &broken).unwrap();
    expect(run(&scan, &broken, &task), "lm_head_cls.weight");
}

/// The mask of a scan as a folder with a file a class, beside the same as a label map.
#[test]
fn a_mask_may_be_a_folder_of_classes() {
    let setup = Setup::new();
    let map = setup.path("cohort/masks/phantom-0000.nii.gz");
    let whole = uniferum_ct::read_mask(&map).unwrap();
    let mut classes = vec![("lungs_of_my_own", 10)];
    for label in 10..15u8 {
        let name = uniferum_tasks::totalsegmentator::name(label.into()).unwrap();
        classes.push((name, label));
    }
    write_classes(&setup.path("classes/segmentations"), &whole, &classes);
    let answer = |mask: &Path| {
        let more = [
            "--task",
            "Diagnose the presence of emphysema in the lungs",
            "--mask",
        ];
        let mut command = uniferum();
        command.args(["predict", "--checkpoint"]);
        command.arg(setup.path("model.safetensors"));
        command.arg(setup.scan(0)).args(more).arg(mask);
        let output = command.output().unwrap();
        let text = succeeds(&output);
        (output.stdout, text)
    };
    let (of_map, _) = answer(&map);
    for folder in ["classes", "classes/segmentations"] {
        let (of_folder, text) = answer(&setup.path(folder));
        assert_eq!(of_folder, of_map, "{folder}");
        assert!(text.contains("left out: lungs_of_my_own"), "{text}");
    }
    let empty = setup.path("cohort");
    let output = setup.predict(
        &setup.scan(0),
        &["--task", "anatomy.heart", "--mask", empty.to_str().unwrap()],
    );
    let text = refused(&output);
    assert!(
        text.contains("folder of masks") && text.contains("cohort"),
        "{text}"
    );
}

#[test]
fn parts_have_files_of_their_own_and_a_folder_that_cannot_be_is_told_first() {
    let setup = Setup::new();
    let out = setup.path("out");
    let second = setup.scan(1);
    let part = |shard: &str, out: &Path| {
        let more = [
            second.to_str().unwrap(),
            "--task",
            "anatomy.heart",
            "--shard",
            shard,
            "--out",
            out.to_str().unwrap(),
        ];
        setup.predict(&setup.scan(0), &more)
    };
    for (number, scan) in [(1, "phantom-0000"), (2, "phantom-0001")] {
        assert!(part(&format!("{number}/2"), &out).status.success());
        let path = out.join(format!("predictions-{number}-of-2.csv"));
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[1].contains(scan), "{text}");
    }
    let other = [
        "--task",
        "anatomy.lungs",
        "--shard",
        "3/3",
        "--out",
        out.to_str().unwrap(),
    ];
    let text = refused(&setup.predict(&setup.scan(0), &other));
    assert!(
        text.contains("of-2.json: the run was begun with other"),
        "{text}"
    );
    let file = setup.path("file");
    std::fs::write(&file, "").unwrap();
    let output = part("1/1", &file);
    let text = refused(&output);
    assert!(text.contains(file.to_str().unwrap()), "{text}");
    assert!(output.stdout.is_empty());
}
