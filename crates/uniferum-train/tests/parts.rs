//! Passes, processes, averages, adapters, validation and the baseline.

mod common;

use std::collections::{BTreeSet, HashMap};

use candle_core::{Device, Tensor};
use common::{ALL, LABELS, Setup, config, setup, thin};
use uniferum_ct::transform::ModelTransform;
use uniferum_data::{Batch, InputSettings, OnError};
use uniferum_fusion::{Freeze, Uniferum};
use uniferum_tasks::Catalogue;
use uniferum_train::distributed::Threads;
use uniferum_train::{
    Answer, Baseline, BaselineConfig, Init, Intervals, Learner, LearningRate, LoraConfig,
    ModelChoice, Progress, RunConfig, TrainConfig, Trainer, ask_scans, evaluate,
};

type Weights = HashMap<String, Vec<f32>>;

fn trainer(s: &Setup, config: &TrainConfig) -> Trainer {
    Trainer::new(&s.model, s.prompts.clone(), config.clone(), &Device::Cpu).unwrap()
}

fn weights(learner: &dyn Learner) -> Weights {
    let data = learner.variables().data().lock().unwrap();
    let flat = |t: &Tensor| {
        t.flatten_all()?
            .to_dtype(candle_core::DType::F32)?
            .to_vec1()
    };
    data.iter()
        .map(|(name, var)| (name.clone(), flat(var.as_tensor()).unwrap()))
        .collect()
}

fn largest_difference(a: &Weights, b: &Weights) -> f32 {
    let pairs = a
        .iter()
        .flat_map(|(name, values)| values.iter().zip(&b[name]));
    let differences = pairs.map(|(x, y)| {
        assert!(x.is_finite() && y.is_finite());
        (x - y).abs()
    });
    differences.fold(0.0, f32::max)
}

/// One process and two make the same passes: the same losses, weights and running statistics.
#[test]
fn two_processes_do_what_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut s = setup(folder.path(), 16, true, &ALL);
    s.loader.scans_per_step = 12;
    // Statistics over fewer scans of a single voxel in the last layers would magnify each rounding.
    let recipe = TrainConfig {
        scans_per_step: 12,
        scans_per_pass: 4,
        learning_rate: 5e-5, // the paper's
        ..config(6)
    };
    let mut alone = trainer(&s, &recipe);
    let mut expected = Vec::new();
    alone.run(&s.loader, |p| expected.push(p.clone())).unwrap();

    let shared: Vec<(Vec<f32>, Weights)> = std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::group(2)
            .into_iter()
            .map(|member| {
                let (s, recipe) = (&s, &recipe);
                scope.spawn(move || {
                    let mut trainer = trainer(s, recipe);
                    trainer.join(Box::new(member)).unwrap();
                    let mut losses = Vec::new();
                    trainer.run(&s.loader, |p| losses.push(p.loss)).unwrap();
                    (losses, weights(trainer.learner()))
                })
            })
            .collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    });
    for (losses, own) in &shared {
        for (loss, expected) in losses.iter().zip(&expected) {
            let error = (loss - expected.loss).abs();
            assert!(error < 1e-5, "step {}: {error}", expected.step);
        }
        assert_eq!(largest_difference(own, &shared[0].1), 0.0);
        let difference = largest_difference(own, &weights(alone.learner()));
        assert!(difference < 1e-3, "{difference}");
    }
    let too_large = TrainConfig {
        scans_per_pass: 8,
        ..recipe
    };
    let mut refused = trainer(&s, &too_large);
    let member = Threads::group(2).pop().unwrap();
    let error = refused.join(Box::new(member)).unwrap_err().to_string();
    assert!(error.contains("scans_per_pass"), "{error}");
}

/// Two threads do the same work, each with its number.
fn in_two<T: Send>(work: impl Fn(usize, Threads) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let members = Threads::group(2).into_iter().enumerate();
        let threads: Vec<_> = members
            .map(|(rank, member)| scope.spawn(move || work(rank, member)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn processes_that_see_different_checkpoints_do_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 8, false, &LABELS);
    let recipe = TrainConfig {
        scans_per_pass: 2,
        ..config(3)
    };
    let runs = ["zero", "one"].map(|name| folder.path().join(name));
    let mut first = trainer(&s, &recipe);
    first.resume_in(&runs[0]).unwrap();
    first.run(&s.loader, |_| ()).unwrap();
    let errors = in_two(|rank, member| {
        let mut trainer = trainer(&s, &recipe);
        trainer.join(Box::new(member)).unwrap();
        trainer.resume_in(&runs[rank]).unwrap_err().to_string()
    });
    for (error, run) in errors.iter().zip(&runs) {
        let expected = format!("[3.0, 0.0]: is {} shared", run.display());
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn processes_that_were_given_different_runs_do_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 8, false, &LABELS);
    let recipe = TrainConfig {
        scans_per_pass: 2,
        ..config(2)
    };
    let both = |change: &(dyn Fn(usize, &mut TrainConfig, &mut uniferum_data::Loader) + Sync)| {
        let errors = in_two(|rank, member| {
            let (mut recipe, mut loader) = (recipe.clone(), s.loader.clone());
            change(rank, &mut recipe, &mut loader);
            let mut trainer = trainer(&s, &recipe);
            trainer.join(Box::new(member)).unwrap();
            trainer.run(&loader, |_| ()).unwrap_err().to_string()
        });
        assert_eq!(errors[0], errors[1]);
        errors[0].clone()
    };
    let error = both(&|rank, _, loader| loader.scans.truncate(8 - rank));
    assert!(error.contains("different scans, labels"), "{error}");
    let error = both(&|rank, recipe, _| recipe.learning_rate *= 1.0 + rank as f64);
    assert!(error.contains("different settings"), "{error}");
}

/// A scan that either process cannot read ends both, with a checkpoint of the first.
#[test]
fn a_scan_that_one_process_cannot_read_costs_no_steps() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 16, false, &LABELS);
    let recipe = TrainConfig {
        scans_per_pass: 2,
        checkpoint_every: 0,
        ..config(4)
    };
    let begin = |run: &str, member: Threads| {
        // With a memory of its own, which has not seen the scan.
        let s = setup(&folder.path().join("data"), 16, false, &LABELS);
        let mut trainer = trainer(&s, &recipe);
        trainer.join(Box::new(member)).unwrap();
        let done = trainer.resume_in(&folder.path().join(run)).unwrap();
        let result = trainer.run(&s.loader, |_| ());
        (
            done,
            result.map_err(|e| e.to_string()),
            weights(trainer.learner()),
        )
    };
    let whole = in_two(|_, member| begin("whole", member)).remove(0).2;
    let names = s.loader.stream(2, 3).next().unwrap().unwrap().names;
    let scans = names.iter().map(|name| name.split_once(" @ ").unwrap().1);
    let scans: BTreeSet<&str> = scans.collect();
    let mut of_second = 0;
    for run in scans {
        let mut all = s.loader.dataset.manifest.scans.iter();
        let broken = all.find(|s| s.name() == run).unwrap().path.clone();
        let file = std::fs::read(&broken).unwrap();
        std::fs::write(&broken, "not a scan").unwrap();
        let ended = in_two(|_, member| begin(run, member));
        let error = |rank: usize| ended[rank].1.as_ref().unwrap_err();
        let names_it = |rank: usize| error(rank).contains(broken.to_str().unwrap());
        let reader = (0..2).find(|&rank| names_it(rank)).unwrap();
        assert!(error(1 - reader).contains("step 3: another process"));
        std::fs::write(&broken, file).unwrap();
        of_second += reader;
        for (done, result, weights) in in_two(|_, member| begin(run, member)) {
            assert_eq!((done, result), (2, Ok(())));
            assert_eq!(largest_difference(&weights, &whole), 0.0);
        }
    }
    assert!(of_second > 0, "the first process writes, whoever reads");
}

/// The last step of an epoch may be a single pass: the process that has none takes over its statistics.
#[test]
fn a_step_of_one_pass_leaves_processes_equal() {
    let folder = tempfile::tempdir().unwrap();
    let mut s = setup(folder.path(), 8, false, &ALL);
    s.loader.scans_per_step = 12;
    let recipe = TrainConfig {
        scans_per_step: 12,
        scans_per_pass: 6,
        ..config(2)
    };
    let both = in_two(|_, member| {
        let mut trainer = trainer(&s, &recipe);
        trainer.join(Box::new(member)).unwrap();
        let mut scans = Vec::new();
        trainer.run(&s.loader, |p| scans.push(p.scans)).unwrap();
        assert!(scans.iter().all(|n| *n <= 9), "several passes: {scans:?}");
        weights(trainer.learner())
    });
    assert_eq!(largest_difference(&both[0], &both[1]), 0.0);
}

/// A step that is given by hand: each process has its own part, and the mean is over the questions of all.
#[test]
fn two_processes_train_on_their_parts_of_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let mut s = setup(folder.path(), 8, false, &ALL);
    // It is drawn anew for each process.
    s.model.bert.dropout = 0.0;
    let recipe = TrainConfig {
        scans_per_pass: 2,
        ..config(2)
    };
    let parts: Vec<Batch> = s.loader.stream(0, 2).map(|b| b.unwrap()).collect();
    let alone = parts.iter().map(|part| {
        let mut trainer = trainer(&s, &recipe);
        trainer.train_on(part).unwrap()
    });
    let alone: Vec<Progress> = alone.collect();
    let shared = |parts: [&Batch; 2]| {
        in_two(|rank, member| {
            let mut trainer = trainer(&s, &recipe);
            trainer.join(Box::new(member)).unwrap();
            let done = trainer.train_on(parts[rank]).unwrap();
            (done, weights(trainer.learner()))
        })
    };
    let both = shared([&parts[0], &parts[1]]);
    let questions: usize = alone.iter().map(|p| p.questions).sum();
    let losses = alone.iter().map(|p| p.loss * p.questions as f32);
    let expected = losses.sum::<f32>() / questions as f32;
    for (done, own) in &both {
        assert_eq!((done.step, done.questions), (1, questions));
        let error = (done.loss - expected).abs();
        assert!(error < 1e-5 * (1.0 + expected), "{error}");
        assert_eq!(largest_difference(own, &both[0].1), 0.0);
    }
    // One part twice has the gradient that it has alone.
    for (done, _) in shared([&parts[0], &parts[0]]) {
        let ratio = done.gradient_norm / alone[0].gradient_norm;
        assert!((ratio - 1.0).abs() < 1e-4, "{ratio}");
    }
}

#[test]
fn a_step_that_is_refused_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false, &ALL);
    let mut trainer = trainer(&s, &config(3));
    let batch = s.loader.stream(0, 1).next().unwrap().unwrap();
    trainer.train_on(&batch).unwrap();
    let before = weights(trainer.learner());
    let labels = Tensor::full(f32::NAN, batch.labels.dims(), &Device::Cpu).unwrap();
    let error = trainer.train_on(&Batch { labels, ..batch });
    assert!(error.unwrap_err().to_string().contains("not finite"));
    // Running statistics are among them, and have seen the images.
    assert_eq!(weights(trainer.learner()), before);
    assert_eq!(trainer.state().step, 1);
}

/// With frozen statistics passes do not touch each other, and accumulation is the whole batch's gradient.
#[test]
fn accumulated_passes_are_one_large_pass() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 12, false, &LABELS);
    let mut model = s.model.clone();
    model.bert.dropout = 0.0;
    let losses = |scans_per_pass| {
        let recipe = TrainConfig {
            scans_per_pass,
            freeze_statistics: true,
            learning_rate: 2e-4,
            ..config(4)
        };
        let mut t = Trainer::new(&model, s.prompts.clone(), recipe, &Device::Cpu).unwrap();
        let mut seen = Vec::new();
        t.run(&s.loader, |p| seen.push((p.loss, p.gradient_norm)))
            .unwrap();
        seen
    };
    for ((a, norm_a), (b, norm_b)) in losses(8).into_iter().zip(losses(1)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
        assert!((norm_a - norm_b).abs() < 1e-3 * norm_a, "{norm_a} {norm_b}");
    }
}

#[test]
fn averages_are_what_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 8, false, &LABELS);
    let recipe = TrainConfig {
        ema_decay: Some(0.5),
        ..config(3)
    };
    let mut averaged = trainer(&s, &recipe);
    // Running statistics too: they are those of the weights they stand with.
    let names = ["lm_head_cls.weight", "vision_model.model.bn1.running_mean"];
    let values = |t: &Trainer| -> Vec<f32> {
        let weights = weights(t.learner());
        names
            .iter()
            .flat_map(|name| weights[*name].clone())
            .collect()
    };
    let mut expected = values(&averaged);
    for (i, batch) in s.loader.stream(0, 3).enumerate() {
        averaged.train_on(&batch.unwrap()).unwrap();
        let step = (i + 1) as f32;
        let decay = ((1.0 + step) / (10.0 + step)).min(0.5);
        for (e, v) in expected.iter_mut().zip(values(&averaged)) {
            *e = decay * *e + (1.0 - decay) * v;
        }
    }
    let path = folder.path().join("model.safetensors");
    let before = weights(averaged.learner());
    averaged.save_model(&path).unwrap();
    assert_eq!(
        largest_difference(&before, &weights(averaged.learner())),
        0.0
    );
    let saved = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let of = |name: &&str| {
        saved[*name]
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap()
    };
    let saved: Vec<f32> = names.iter().flat_map(of).collect();
    for (saved, expected) in saved.iter().zip(&expected) {
        assert!((saved - expected).abs() < 1e-6, "{saved} {expected}");
    }
    assert_ne!(saved, values(&averaged));
}

#[test]
fn adapters_are_trained_merged_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 8, false, &ALL);
    let recipe = TrainConfig {
        freeze: Freeze::Bert,
        lora: Some(LoraConfig {
            rank: 2,
            ..Default::default()
        }),
        ..config(4)
    };
    let mut adapted = trainer(&s, &recipe);
    let before = weights(adapted.learner());
    let run = folder.path().join("run");
    adapted.resume_in(&run).unwrap();
    adapted.run(&s.loader, |_| ()).unwrap();
    let after = weights(adapted.learner());
    for (name, values) in &before {
        let frozen = name.starts_with("model.");
        let buffer = name.ends_with("num_batches_tracked");
        assert!(buffer || (values == &after[name]) == frozen, "{name}");
    }

    // The merged file, read by anybody, answers as the model with its adapters.
    let path = folder.path().join("model.safetensors");
    adapted.save_model(&path).unwrap();
    let merged = Uniferum::load(&path, &Device::Cpu).unwrap();
    let ask = |model: &Uniferum| {
        let (data, prompts) = (&s.loader.dataset, &s.prompts);
        let report = {
            let intervals = Intervals::default();
            evaluate(
                model,
                prompts,
                data,
                &[0, 1],
                &Device::Cpu,
                &intervals,
                || {},
            )
            .unwrap()
        };
        let logits = report.predictions.iter().map(|p| p.logit);
        logits.collect::<Vec<f64>>()
    };
    let config = merged.config().clone();
    assert_eq!(config, s.model);
    for (a, b) in ask(&merged).into_iter().zip(ask(adapted.model())) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
    let saved = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let moved = |matrix: &str| {
        let name = format!("model.encoder.layer.0.attention.self.{matrix}.weight");
        let saved = saved[&name].flatten_all().unwrap();
        saved.to_vec1::<f32>().unwrap() != before[&name]
    };
    assert!(moved("query") && moved("value") && !moved("key"));

    let adapter = folder.path().join("adapter");
    assert!(adapted.export_adapter(&adapter).unwrap());
    let exported = adapter.join("adapter_model.safetensors");
    let exported = candle_core::safetensors::load(exported, &Device::Cpu).unwrap();
    assert_eq!(exported.len(), 2 * 2 * 2);
    let name = "base_model.model.model.encoder.layer.1.attention.self.value.lora_A.weight";
    assert_eq!(exported[name].dims(), [2, 32]);

    let mut again = trainer(&s, &recipe);
    assert_eq!(again.resume_in(&run).unwrap(), 4);
    assert_eq!(ask(again.model()), ask(adapted.model()));
}

#[test]
fn averaged_adapters_are_exported_as_they_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 8, false, &LABELS);
    let lora = LoraConfig {
        rank: 2,
        alpha: 4.0,
        ..Default::default()
    };
    let recipe = TrainConfig {
        freeze: Freeze::Bert,
        lora: Some(lora),
        ema_decay: Some(0.9),
        ..config(3)
    };
    let mut averaged = trainer(&s, &recipe);
    averaged.run(&s.loader, |_| ()).unwrap();
    let load = |path: &std::path::Path| candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let merged = folder.path().join("model.safetensors");
    averaged.save_model(&merged).unwrap();
    averaged.export_adapter(folder.path()).unwrap();
    let exported = load(&folder.path().join("adapter_model.safetensors"));
    let matrix = "model.encoder.layer.0.attention.self.value";
    let part = |name: &str| &exported[&format!("base_model.model.{matrix}.{name}.weight")];
    let added = part("lora_B").matmul(part("lora_A")).unwrap();
    let added = (added * 2.0).unwrap().flatten_all().unwrap();
    let name = format!("{matrix}.weight");
    let merged = load(&merged)[&name].flatten_all().unwrap();
    let base = &weights(averaged.learner())[&name];
    let (added, merged) = (added.to_vec1::<f32>(), merged.to_vec1::<f32>());
    for ((added, merged), base) in added.unwrap().iter().zip(merged.unwrap()).zip(base) {
        assert!(
            (base + added - merged).abs() < 1e-6,
            "{base} {added} {merged}"
        );
    }
}

#[test]
fn the_baseline_learns_stops_early_and_keeps_its_best() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 12, false, &LABELS);
    let data = s.loader.dataset.clone();
    let recipe = TrainConfig {
        schedule: LearningRate::Plateau {
            factor: 0.5,
            patience: 0,
            threshold: 0.0,
            floor: 0.0,
        },
        validate_every: 2,
        early_stop: Some(3),
        ..config(60)
    };
    let network = BaselineConfig {
        encoder: thin(),
        hidden: 16,
        ..Default::default()
    }
    .for_tasks(&data.tasks);
    let baseline = Baseline::new(&network, &recipe, &Device::Cpu).unwrap();
    let mut trainer = Trainer::with(baseline, recipe, &Device::Cpu).unwrap();
    let scans: Vec<usize> = (0..12).collect();
    trainer.validate_on(data.clone(), scans.clone()).unwrap();
    let run = folder.path().join("run");
    trainer.resume_in(&run).unwrap();
    let mut rates = Vec::new();
    trainer
        .run(&s.loader, |p| rates.push(p.learning_rate))
        .unwrap();
    let state = trainer.state().clone();
    assert!(state.stopped && state.step < 60, "{state:?}");
    assert_eq!(state.best.unwrap().step, state.step - 6);
    assert!(state.plateau.share <= 0.25 && rates.last() < rates.first());

    let best = Baseline::load(&run.join("best/model.safetensors"), &Device::Cpu).unwrap();
    let ask = best.examiner(&data.tasks).unwrap();
    let answers = ask_scans(&ask, &data, &scans, &Device::Cpu, OnError::Stop, || {}).unwrap();
    let report = answers.judge(&data.tasks, &Intervals::default()).unwrap();
    assert_eq!(
        report.labels.macro_auroc.value,
        Some(state.best.unwrap().macro_auroc)
    );
    let lines = std::fs::read_to_string(run.join("validation.jsonl")).unwrap();
    assert_eq!(lines.lines().count() as u64, state.step / 2);

    // What has no output is left out, not guessed.
    let other = setup(&folder.path().join("data"), 12, false, &ALL);
    let ask = best.examiner(&other.loader.dataset.tasks).unwrap();
    let answers = ask_scans(
        &ask,
        &other.loader.dataset,
        &[0],
        &Device::Cpu,
        OnError::Stop,
        || {},
    )
    .unwrap();
    assert_eq!(answers.predictions.len(), 2);
}

/// An answer that is no number is of a scan and a task, and costs that scan alone where that is wanted.
#[test]
fn answers_that_are_no_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false, &LABELS);
    let data = &s.loader.dataset;
    let scans: Vec<usize> = (0..data.manifest.scans.len()).collect();
    let asked = std::cell::Cell::new(0);
    let ask = |_: &Tensor| {
        asked.set(asked.get() + 1);
        let logit = if asked.get() == 3 { f32::NAN } else { 0.5 };
        Ok(data.tasks.iter().map(|_| Answer::Label(logit)).collect())
    };
    let stopped = ask_scans(&ask, data, &scans, &Device::Cpu, OnError::Stop, || {});
    let error = stopped.unwrap_err().to_string();
    let scan = data.manifest.scans[scans[2]].name();
    assert!(
        error.starts_with(&format!("{scan}: {}", data.tasks[0].id)),
        "{error}"
    );
    assert_eq!(asked.get(), 3);
    asked.set(0);
    let on_error = OnError::SkipAndReport;
    let answers = ask_scans(&ask, data, &scans, &Device::Cpu, on_error, || {}).unwrap();
    assert_eq!(answers.skipped.len(), 1);
    let left = (scans.len() - 1) * data.tasks.len();
    assert_eq!(answers.predictions.len(), left);
}

/// What does not fit is told before the first step.
#[test]
fn questions_that_are_too_long_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 4, false, &LABELS);
    let mut model = s.model.clone();
    model.bert.max_positions = 8;
    let run = RunConfig {
        model: ModelChoice::Uniferum(model),
        init: Init::none(),
        train: config(2),
        input: InputSettings {
            transform: ModelTransform {
                crop: [32; 3],
                shape: [32; 3],
            },
            ..Default::default()
        },
        ..RunConfig::default()
    };
    let catalogue = Catalogue::standard();
    let error = run.trainer(&catalogue, &s.loader.dataset, &Device::Cpu);
    let error = error.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(
        error.contains("word pieces") && error.contains("phantom."),
        "{error}"
    );
}
