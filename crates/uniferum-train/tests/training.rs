//! A tiny model on tiny phantoms: it learns, and a run that stopped goes on bit for bit.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Tensor};
use common::{ALL, config, setup};
use uniferum_data::{Loader, OnError, StreamOptions};
use uniferum_train::{
    Baseline, BaselineConfig, Error, Fusion, Intervals, Learner, LearningRate, LoraConfig,
    Precision, TrainConfig, Trainer, copy_encoder, evaluate,
};

#[test]
fn a_baselines_encoder_becomes_the_models() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 2, false, &ALL);
    let recipe = TrainConfig {
        seed: 9,
        ..config(1)
    };
    let baseline = |encoder| {
        let config = BaselineConfig {
            encoder,
            questions: vec!["a question".into()],
            ..Default::default()
        };
        Baseline::new(&config, &recipe, &Device::Cpu).unwrap()
    };
    let fusion = Fusion::new(&s.model, s.prompts.clone(), &config(1), &Device::Cpu).unwrap();
    let theirs = baseline(s.model.encoder.clone());
    copy_encoder(&theirs, &fusion).unwrap();
    let (from, to) = (theirs.variables().data(), fusion.variables().data());
    let (from, to) = (from.lock().unwrap(), to.lock().unwrap());
    let values = |t: &candle_core::Var| {
        let t = t.to_dtype(candle_core::DType::F32).unwrap();
        t.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let mut taken = 0;
    for (name, var) in to.iter() {
        if let Some(name) = name.strip_prefix("vision_model.model.") {
            assert_eq!(
                values(var),
                values(&from[&format!("encoder.{name}")]),
                "{name}"
            );
            taken += 1;
        }
    }
    assert!(taken > 50, "{taken}");
    drop((from, to));
    let other = baseline(uniferum_encoder::EncoderConfig::default());
    let message = copy_encoder(&other, &fusion).unwrap_err().to_string();
    assert!(message.contains("B0"), "{message}");
}

#[test]
fn a_run_that_stopped_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 12, true, &ALL);
    let run = folder.path().join("run");
    let trainer = || Trainer::new(&s.model, s.prompts.clone(), config(7), &Device::Cpu).unwrap();

    let mut whole = trainer();
    whole.resume_in(&run).unwrap();
    whole.checkpoint().unwrap(); // the fresh weights, for the second run to start alike
    let start = folder.path().join("start");
    std::fs::create_dir_all(&start).unwrap();
    std::fs::rename(run.join("step-00000000"), start.join("step-00000000")).unwrap();
    let mut expected = Vec::new();
    whole
        .run(&s.loader, |p| expected.push((p.step, p.loss.to_bits())))
        .unwrap();

    // Stopped in the middle of step 6: the newest checkpoint is that of step 3.
    let mut got = Vec::new();
    let mut first = trainer();
    assert_eq!(first.resume_in(&start).unwrap(), 0);
    for batch in s.loader.stream(0, 5) {
        let p = first.train_on(&batch.unwrap()).unwrap();
        got.push((p.step, p.loss.to_bits()));
        if p.step == 3 {
            first.checkpoint().unwrap();
        }
    }
    got.truncate(3);
    let mut second = trainer();
    assert_eq!(second.resume_in(&start).unwrap(), 3);
    second
        .run(&s.loader, |p| got.push((p.step, p.loss.to_bits())))
        .unwrap();
    assert_eq!(got, expected);

    // What differs is named; what changes no weight may differ.
    let mut model = s.model.clone();
    model.bert.dropout = 0.3;
    let mut other = Trainer::new(&model, s.prompts.clone(), config(9), &Device::Cpu).unwrap();
    let data = s.loader.dataset.clone();
    other.validate_on(data, vec![0, 1]).unwrap();
    let error = other.resume_in(&start).unwrap_err().to_string();
    for part in [
        "another configuration",
        "train.steps: expected 7, got 9",
        "model.bert.dropout: expected 0.1, got 0.3",
        "validation: expected \"none\", got \"2 scans",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let free = TrainConfig {
        keep_checkpoints: 1,
        checkpoint_every: 5,
        read_loss_every: 2,
        ..config(7)
    };
    let mut free = Trainer::new(&s.model, s.prompts.clone(), free, &Device::Cpu).unwrap();
    assert_eq!(free.resume_in(&start).unwrap(), 7);
}

#[test]
fn masks_of_a_small_set_are_learnt() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false, &ALL);
    let mut trainer = Trainer::new(&s.model, s.prompts.clone(), config(60), &Device::Cpu).unwrap();
    let mut losses = Vec::new();
    trainer
        .run(&s.loader, |p| losses.extend(p.mask_loss))
        .unwrap();
    let mean = |l: &[f32]| l.iter().sum::<f32>() / l.len() as f32;
    let (early, late) = (mean(&losses[..10]), mean(&losses[losses.len() - 10..]));
    assert!(late < 0.5 * early, "from {early} to {late}");

    let scans: Vec<usize> = (0..8).collect();
    let report = evaluate(
        trainer.model(),
        trainer.prompts(),
        &s.loader.dataset,
        &scans,
        &Device::Cpu,
        &Intervals::default(),
        || {},
    )
    .unwrap();
    assert_eq!(report.predictions.len(), 8 * 3);
    assert_eq!((report.labels.tasks.len(), report.masks.len()), (2, 1));
    assert!(report.masks[0].auroc.unwrap() > 0.6);
}

#[test]
fn impossible_recipes_are_refused_before_the_first_step() {
    for (config, part) in [
        (
            TrainConfig {
                steps: 0,
                ..config(1)
            },
            "steps",
        ),
        (
            TrainConfig {
                beta1: 1.0,
                ..config(1)
            },
            "beta1",
        ),
        (
            TrainConfig {
                learning_rate: f64::NAN,
                ..config(1)
            },
            "learning_rate",
        ),
        (
            TrainConfig {
                warmup_steps: 9,
                ..config(3)
            },
            "warmup_steps",
        ),
    ] {
        assert!(config.validate().unwrap_err().to_string().contains(part));
    }
}

#[test]
fn what_cannot_work_here_is_refused_before_the_first_step() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false, &ALL);
    let refused = |config: TrainConfig| -> String {
        let trainer = Trainer::new(&s.model, s.prompts.clone(), config, &Device::Cpu);
        let result = trainer.and_then(|mut t| t.run(&s.loader, |_| panic!("a step was made")));
        result.unwrap_err().to_string()
    };
    let cases = [
        (
            TrainConfig {
                precision: Precision::Bf16,
                ..config(5)
            },
            "CPU",
        ),
        (
            TrainConfig {
                lora: Some(LoraConfig::default()),
                ..config(5)
            },
            "freeze",
        ),
        (
            TrainConfig {
                early_stop: Some(3),
                ..config(5)
            },
            "validation",
        ),
        (
            TrainConfig {
                schedule: LearningRate::plateau(),
                ..config(5)
            },
            "validation",
        ),
        (
            TrainConfig {
                scans_per_step: 8,
                ..config(5)
            },
            "scans_per_step",
        ),
        (
            TrainConfig {
                ema_decay: Some(1.0),
                ..config(5)
            },
            "ema_decay",
        ),
    ];
    for (config, part) in cases {
        let error = refused(config);
        assert!(error.contains(part), "{error}");
    }
}

/// Masks alone have no AUROC: nothing is best, nothing is stale, and what needs one is refused.
#[test]
fn a_validation_without_labels_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false, &ALL[2..]);
    let run = |config: TrainConfig| {
        let mut trainer = Trainer::new(&s.model, s.prompts.clone(), config, &Device::Cpu).unwrap();
        let data = s.loader.dataset.clone();
        trainer.validate_on(data, vec![0, 1]).unwrap();
        let done = trainer.run(&s.loader, |_| ());
        (done, trainer.state().clone())
    };
    let (done, state) = run(TrainConfig {
        validate_every: 1,
        ..config(2)
    });
    done.unwrap();
    assert_eq!((state.step, state.stale, state.best), (2, 0, None));
    for (config, field) in [
        (
            TrainConfig {
                early_stop: Some(1),
                ..config(2)
            },
            "early_stop",
        ),
        (
            TrainConfig {
                schedule: LearningRate::plateau(),
                ..config(2)
            },
            "schedule",
        ),
    ] {
        let (done, state) = run(config);
        let error = done.unwrap_err().to_string();
        assert!(error.contains(field) && state.step == 0, "{error}");
    }
}

#[test]
fn a_loss_that_is_not_finite_names_its_questions() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(folder.path(), 8, false, &ALL);
    let mut trainer = Trainer::new(&s.model, s.prompts.clone(), config(5), &Device::Cpu).unwrap();
    let mut batch = s.loader.stream(0, 1).next().unwrap().unwrap();
    let nan = Tensor::full(f32::NAN, batch.labels.dims(), &Device::Cpu).unwrap();
    batch.labels = nan;
    let error = trainer.train_on(&batch).unwrap_err();
    let Error::NotFinite { step, samples } = &error else {
        panic!("{error}");
    };
    assert_eq!(*step, 1);
    assert!(samples.iter().all(|s| batch.names.contains(s)), "{error}");
    assert!(!samples.is_empty() && trainer.state().step == 0);
}

#[test]
fn another_collection_does_not_go_on_with_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let s = setup(&folder.path().join("data"), 8, false, &ALL);
    let run = folder.path().join("run");
    let trainer = || Trainer::new(&s.model, s.prompts.clone(), config(4), &Device::Cpu).unwrap();
    let mut first = trainer();
    first.resume_in(&run).unwrap();
    first.run(&s.loader, |_| ()).unwrap();
    let mut other = s.loader.clone();
    other.scans.pop();
    let mut second = trainer();
    second.resume_in(&run).unwrap();
    let error = second.run(&other, |_| ()).unwrap_err().to_string();
    assert!(error.contains("other scans"), "{error}");
}

#[test]
fn a_scan_that_cannot_be_read_is_named_or_left_out_of_the_mean() {
    let folder = tempfile::tempdir().unwrap();
    let run = |on_error, scans_per_pass| {
        let mut s = setup(folder.path(), 8, false, &ALL);
        s.loader.scans_per_step = 8;
        let recipe = TrainConfig {
            scans_per_step: 8,
            scans_per_pass,
            // A scan alone has too few values for statistics of its own.
            freeze_statistics: scans_per_pass == 1,
            ..config(2)
        };
        let mut trainer = Trainer::new(&s.model, s.prompts, recipe, &Device::Cpu).unwrap();
        trainer.set_stream(StreamOptions {
            on_error,
            notice: Some(Arc::new(|_| ())),
            ..Default::default()
        });
        let mut steps = Vec::new();
        let done = trainer.run(&s.loader, |p| steps.push((p.questions, p.scans, p.loss)));
        (done.map_err(|e| e.to_string()), steps)
    };
    let (done, whole) = run(OnError::Stop, 4);
    done.unwrap();
    let data = setup(folder.path(), 8, false, &ALL).loader.dataset;
    let files: Vec<_> = data.manifest.scans.iter().map(|s| &s.path).collect();
    std::fs::write(files[0], "not a scan").unwrap();
    let (done, _) = run(OnError::Stop, 4);
    let name = files[0].display().to_string();
    assert!(done.unwrap_err().contains(&name));
    // In passes of one scan each, one pass is empty.
    for scans_per_pass in [4, 1] {
        let (done, left) = run(OnError::SkipAndReport, scans_per_pass);
        done.unwrap();
        for (left, whole) in left.iter().zip(&whole) {
            assert!(left.0 < whole.0 && left.1 < whole.1 && left.2.is_finite());
        }
    }
    for file in files {
        std::fs::write(file, "not a scan").unwrap();
    }
    let (done, steps) = run(OnError::SkipAndReport, 4);
    assert!(done.unwrap_err().contains("none of its scans") && steps.is_empty());
}

#[test]
fn a_run_goes_on_with_the_step_whose_scan_could_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    // In passes of two, the scan may fail when half of its step has been computed.
    let recipe = TrainConfig {
        scans_per_pass: 2,
        checkpoint_every: 0,
        ..config(4)
    };
    let begin = |run: &std::path::Path| {
        let s = setup(&folder.path().join("data"), 16, false, &ALL);
        let mut trainer = Trainer::new(&s.model, s.prompts, recipe.clone(), &Device::Cpu).unwrap();
        let done = trainer.resume_in(&folder.path().join(run)).unwrap();
        (trainer, s.loader, done)
    };
    let run = |(mut trainer, loader, _): (Trainer, Loader, u64)| {
        let mut losses = Vec::new();
        let done = trainer.run(&loader, |p| losses.push((p.step, p.loss.to_bits())));
        let weights = trainer.learner().variables().data().lock().unwrap().clone();
        let values = |v: &Tensor| -> Vec<f64> {
            let v = v.to_dtype(DType::F64).unwrap();
            v.flatten_all().unwrap().to_vec1().unwrap()
        };
        let weights: BTreeMap<String, Vec<f64>> = weights
            .into_iter()
            .map(|(name, v)| (name, values(v.as_tensor())))
            .collect();
        (done, losses, weights)
    };
    let (done, expected, whole) = run(begin("whole".as_ref()));
    done.unwrap();

    // The last scan of the third step.
    let (_, loader, _) = begin("unused".as_ref());
    let names = loader.stream(2, 3).next().unwrap().unwrap().names;
    let (_, scan) = names.last().unwrap().split_once(" @ ").unwrap();
    let mut scans = loader.dataset.manifest.scans.iter();
    let broken = scans.find(|s| s.name() == scan).unwrap();
    let file = std::fs::read(&broken.path).unwrap();
    std::fs::write(&broken.path, "not a scan").unwrap();
    let (done, mut losses, _) = run(begin("stopped".as_ref()));
    let error = done.unwrap_err().to_string();
    assert!(error.contains(broken.path.to_str().unwrap()), "{error}");

    std::fs::write(&broken.path, file).unwrap();
    let again = begin("stopped".as_ref());
    assert_eq!(again.2, 2);
    let (done, rest, repaired) = run(again);
    done.unwrap();
    losses.extend(rest);
    assert_eq!(losses, expected);
    assert_eq!(repaired, whole);
}

#[test]
fn a_validation_scan_that_cannot_be_read_costs_no_steps() {
    let folder = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let trainer = |on_error| {
        let s = setup(&folder.path().join("data"), 8, false, &ALL);
        let recipe = TrainConfig {
            validate_every: 2,
            checkpoint_every: 0,
            ..config(4)
        };
        let mut trainer = Trainer::new(&s.model, s.prompts, recipe, &Device::Cpu).unwrap();
        let listener = Arc::clone(&heard);
        trainer.set_stream(StreamOptions {
            on_error,
            notice: Some(Arc::new(move |n| {
                listener.lock().unwrap().push(n.to_string())
            })),
            ..Default::default()
        });
        let mut loader = s.loader;
        let validation = loader.scans.split_off(5);
        trainer
            .validate_on(loader.dataset.clone(), validation)
            .unwrap();
        (trainer, loader)
    };
    let (mut stopped, loader) = trainer(OnError::Stop);
    let broken = loader.dataset.manifest.scans[7].path.clone();
    let whole = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, "not a scan").unwrap();
    let run = folder.path().join("run");
    stopped.resume_in(&run).unwrap();
    let error = stopped.run(&loader, |_| ()).unwrap_err().to_string();
    assert!(error.contains(broken.to_str().unwrap()), "{error}");

    let other = folder.path().join("other");
    let (mut skips, loader) = trainer(OnError::SkipAndReport);
    skips.resume_in(&other).unwrap();
    skips.run(&loader, |_| ()).unwrap();
    let told = heard.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert!(told[0].contains(broken.to_str().unwrap()), "{told:?}");

    // Repaired, the run goes on with the validation that failed.
    std::fs::write(&broken, whole).unwrap();
    let (mut again, loader) = trainer(OnError::Stop);
    assert_eq!(again.resume_in(&run).unwrap(), 2);
    again.run(&loader, |_| ()).unwrap();
    let validations = |folder: &std::path::Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(folder.join("validation.jsonl")).unwrap();
        text.lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let steps = |lines: &[serde_json::Value]| -> Vec<u64> {
        lines.iter().map(|l| l["step"].as_u64().unwrap()).collect()
    };
    let (repaired, skipped) = (validations(&run), validations(&other));
    assert_eq!(
        (steps(&repaired), steps(&skipped)),
        (vec![2, 4], vec![2, 4])
    );
    assert_eq!(skipped[0]["skipped"].as_array().unwrap().len(), 1);
    assert!(repaired[0].get("skipped").is_none());
    // The checkpoint knows that it was validated.
    let state = std::fs::read_to_string(run.join("step-00000002/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["state"]["validation_due"], false);
}
