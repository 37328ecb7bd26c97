//! The loader: the same batches whatever the threads, broken files, slow disks, bounded work.

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use candle_core::Device;
use uniferum_ct::transform::{Augment, ModelTransform};
use uniferum_data::{
    Batch, Cut, Dataset, Error, Loader, Manifest, Notice, OnError, Question, SamplerConfig, Scan,
    Split, StreamOptions,
};
use uniferum_tasks::{Catalogue, Task};

const SCANS: usize = 12;

fn manifest(folder: &Path) -> Manifest {
    let scans = (0..SCANS).map(|i| {
        let path = folder.join(format!("{i}.nii.gz"));
        common::scan(&path, i);
        let mask = folder.join(format!("mask{i}.nii.gz"));
        common::mask(&mask, 10);
        Scan {
            path,
            mask: Some(mask.clone()),
            nodules: (i == 0).then_some(mask),
            patient: format!("p{i}"),
            labels: [("phantom.emphysema".to_owned(), i % 2 == 0)].into(),
            ..Scan::default()
        }
    });
    Manifest {
        scans: scans.collect(),
    }
}

fn tasks() -> Vec<Task> {
    let catalogue = Catalogue::standard();
    [
        "phantom.emphysema",
        "anatomy.lungs",
        "nodule.pulmonary-nodules",
    ]
    .map(|id| catalogue.get(id).unwrap().clone())
    .to_vec()
}

fn loader(manifest: Manifest, cache: usize) -> Loader {
    let transform = ModelTransform {
        crop: [96, 64, 64],
        shape: [64, 32, 32],
    };
    let scans = manifest.of(Split::Train);
    Loader {
        dataset: Arc::new(Dataset::new(manifest, tasks(), transform, 4, cache).unwrap()),
        scans,
        sampler: SamplerConfig {
            nodule_repeats: 2,
            ..SamplerConfig::default()
        },
        augment: Some(Augment::default()),
        scans_per_step: 4,
        questions_per_scan: 2,
        seed: 7,
        device: Device::Cpu,
    }
}

fn quiet() -> StreamOptions {
    StreamOptions {
        notice: Some(Arc::new(|_| {})),
        ..StreamOptions::default()
    }
}

fn content(batch: &Batch) -> (Vec<String>, Vec<f32>, Vec<f32>, Vec<f32>) {
    let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (images, labels, masks) = (flat(&batch.images), flat(&batch.labels), flat(&batch.masks));
    (batch.names.clone(), images, labels, masks)
}

#[test]
fn batches_do_not_depend_on_threads_cache_or_where_one_begins() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let steps = 9;
    let run = |threads, ahead, cache, start| -> Vec<_> {
        let options = StreamOptions {
            threads,
            ahead,
            ..quiet()
        };
        let batches = loader(manifest.clone(), cache).stream_with(start, steps, options);
        batches.unwrap().map(|b| content(&b.unwrap())).collect()
    };
    let one = run(1, 1, 0, 0);
    assert_eq!(one.len(), steps as usize);
    assert_eq!(one, run(4, 3, 0, 0));
    assert_eq!(one, run(3, 8, 1 << 24, 0));
    assert_eq!(one[5..], run(2, 2, 30_000, 5));
    let batches = loader(manifest, 0).stream(0, steps);
    let plain: Vec<_> = batches.map(|b| content(&b.unwrap())).collect();
    assert_eq!(one, plain);
}

#[test]
fn processes_share_a_step_without_losing_a_question() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let names = |rank, world| -> Vec<Vec<String>> {
        let cut = Cut {
            scans_per_pass: 1,
            rank,
            world,
        };
        let passes = loader(manifest.clone(), 0).passes_with(0, 4, cut, quiet());
        let mut steps = vec![Vec::new(); 4];
        for pass in passes.unwrap() {
            let pass = pass.unwrap();
            let names = pass.batch.map_or(Vec::new(), |b| b.names);
            steps[pass.step as usize].extend(names);
        }
        steps
    };
    let whole = names(0, 1);
    for world in [2, 3, 7] {
        let shares: Vec<_> = (0..world).map(|rank| names(rank, world)).collect();
        for step in 0..4 {
            let mut together: Vec<_> = shares.iter().flat_map(|s| s[step].clone()).collect();
            let mut expected = whole[step].clone();
            together.sort();
            expected.sort();
            assert_eq!(together, expected);
        }
    }
}

#[test]
fn repeated_questions_see_a_scan_augmented_anew_whoever_asks() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = manifest(folder.path());
    // The nodules of one scan, in each group of each step.
    manifest.scans.truncate(1);
    manifest.scans[0].labels.clear();
    manifest.scans[0].mask = None;
    let images = |rank, world| -> Vec<Vec<f32>> {
        let mut loader = loader(manifest.clone(), 0);
        loader.sampler.nodule_repeats = 6;
        loader.questions_per_scan = 1;
        loader.augment = Some(Augment {
            rotate_probability: 1.0,
            ..Augment::default()
        });
        let cut = Cut {
            scans_per_pass: 1,
            rank,
            world,
        };
        let passes = loader.passes_with(0, 3, cut, quiet()).unwrap();
        let batches = passes.filter_map(|pass| pass.unwrap().batch);
        batches.map(|batch| content(&batch).1).collect()
    };
    let alone = images(0, 1);
    assert!(alone.len() > 6, "{}", alone.len());
    for (i, image) in alone.iter().enumerate() {
        assert!(!alone[..i].contains(image), "pass {i} repeats another");
    }
    let shared = [images(0, 2), images(1, 2)].concat();
    assert_eq!(shared.len(), alone.len());
    assert!(shared.iter().all(|image| alone.contains(image)));
}

#[test]
fn a_broken_file_stops_the_run_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    std::fs::write(folder.path().join("4.nii.gz"), b"\x1f\x8bnothing").unwrap();
    let mut batches = loader(manifest, 0).stream_with(0, 50, quiet()).unwrap();
    let error = batches
        .find_map(Result::err)
        .expect("every scan is asked")
        .to_string();
    assert!(error.contains("4.nii.gz"), "{error}");
    assert!(batches.next().is_none(), "nothing follows an error");
}

#[test]
fn a_broken_file_can_be_left_out_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    std::fs::write(folder.path().join("4.nii.gz"), b"\x1f\x8bnothing").unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&heard);
    let options = StreamOptions {
        on_error: OnError::SkipAndReport,
        notice: Some(Arc::new(move |n: &Notice| {
            listener.lock().unwrap().push(n.to_string())
        })),
        ..StreamOptions::default()
    };
    let mut batches = loader(manifest, 0).stream_with(0, 12, options).unwrap();
    let names: Vec<String> = batches.by_ref().flat_map(|b| b.unwrap().names).collect();
    assert!(names.iter().all(|n| !n.ends_with("@ 4")));
    let statistics = batches.statistics();
    assert_eq!(statistics.batches, 12);
    assert_eq!(statistics.skipped.len(), 1);
    let skipped = &statistics.skipped[0];
    assert!(
        skipped.scan.ends_with("4.nii.gz") && skipped.times >= 2,
        "{skipped:?}"
    );
    assert!(
        statistics.line().contains("skipped (1 files)"),
        "{}",
        statistics.line()
    );
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 1, "told once: {heard:?}");
    assert_eq!(heard[0].matches("4.nii.gz").count(), 1, "{heard:?}");
}

#[test]
fn a_pass_without_a_usable_scan_is_empty_and_the_step_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    std::fs::remove_file(folder.path().join("4.nii.gz")).unwrap();
    let options = StreamOptions {
        on_error: OnError::SkipAndReport,
        ..quiet()
    };
    let cut = Cut {
        scans_per_pass: 1,
        ..Cut::WHOLE
    };
    let passes = loader(manifest, 0).passes_with(0, 4, cut, options);
    let passes: Vec<_> = passes.unwrap().map(|pass| pass.unwrap()).collect();
    let empty = passes.iter().filter(|p| p.batch.is_none()).count();
    assert!(empty > 0 && empty < passes.len() / 2, "{empty}");
    assert_eq!(passes.iter().filter(|p| p.last).count(), 4);
}

#[test]
fn a_step_without_any_usable_scan_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    for i in 0..SCANS {
        std::fs::remove_file(folder.path().join(format!("{i}.nii.gz"))).unwrap();
    }
    let options = StreamOptions {
        on_error: OnError::SkipAndReport,
        ..quiet()
    };
    let mut batches = loader(manifest, 0).stream_with(3, 12, options).unwrap();
    let error = batches.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::Step { step: 3, .. }), "{error}");
    assert!(batches.next().is_none());
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_does_not_answer_is_heard_of() {
    use std::os::unix::fs::OpenOptionsExt;

    // Opening the other end must not wait for a reader in its turn; the value is Linux's.
    const O_NONBLOCK: i32 = 0o4000;
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = manifest(folder.path());
    // A pipe that nobody writes to: opening it blocks, as a hung network mount does.
    let pipe = folder.path().join("hangs.nii.gz");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    manifest
        .scans
        .iter_mut()
        .for_each(|s| s.path.clone_from(&pipe));
    let (sender, notices) = std::sync::mpsc::channel();
    let options = StreamOptions {
        threads: 1,
        patience: Duration::from_millis(20),
        notice: Some(Arc::new(move |n: &Notice| {
            let _ = sender.send(n.to_string());
        })),
        ..StreamOptions::default()
    };
    let mut batches = loader(manifest, 0).stream_with(0, 2, options).unwrap();
    let waiting = std::thread::spawn(move || batches.next().map(|b| b.map(|_| ())));
    let notice = notices.recv().unwrap();
    assert!(notice.contains("hangs.nii.gz"), "{notice}");
    // The other end opens and closes until all reads have failed, and the run ends with an error.
    let answer = || {
        let mut open = std::fs::OpenOptions::new();
        let opened = open.write(true).custom_flags(O_NONBLOCK).open(&pipe);
        drop(opened);
    };
    while !waiting.is_finished() {
        answer();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(waiting.join().unwrap().unwrap().is_err());
}

#[test]
fn no_more_batches_are_made_than_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let options = StreamOptions {
        threads: 4,
        ahead: 2,
        ..quiet()
    };
    let mut batches = loader(manifest, 0).stream_with(0, 1000, options).unwrap();
    batches.next().unwrap().unwrap();
    // Whatever the threads do now, they may prepare two more batches of at most 6 scans.
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(2));
        assert!(batches.statistics().scans <= 3 * 6);
    }
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let refused = |options, cut| {
        let loader = loader(manifest.clone(), 0);
        loader
            .passes_with(0, 1, cut, options)
            .unwrap_err()
            .to_string()
    };
    let none = StreamOptions {
        ahead: 0,
        ..quiet()
    };
    assert!(refused(none, Cut::WHOLE).contains("ahead"));
    let cut = |rank, world| Cut {
        rank,
        world,
        ..Cut::WHOLE
    };
    assert!(refused(quiet(), cut(2, 2)).contains("rank"));
    let mut empty = manifest.clone();
    empty.scans.iter_mut().for_each(|s| {
        s.labels.clear();
        s.mask = None;
        s.nodules = None;
    });
    // Without settings of its own the stream says so in its only item.
    let mut stream = loader(empty.clone(), 0).stream(0, 1);
    assert!(stream.next().unwrap().is_err() && stream.next().is_none());
    let error = loader(empty, 0)
        .stream_with(0, 1, quiet())
        .unwrap_err()
        .to_string();
    assert!(error.contains("training questions"), "{error}");
}

#[test]
fn a_question_without_an_answer_is_an_error_not_a_negative() {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = manifest(folder.path());
    manifest.scans[3].labels.clear();
    let loader = loader(manifest, 0);
    let ask = |task| {
        let groups = [vec![Question { scan: 3, task }]];
        let batch = loader.dataset.batch(&groups, None, &Device::Cpu);
        batch.unwrap_err().to_string()
    };
    for task in [0, 2] {
        let error = ask(task);
        assert!(
            error.contains("not negative") && error.contains("3.nii.gz"),
            "{error}"
        );
    }
}

#[test]
fn masks_are_read_when_they_are_asked_about_and_nodules_have_any_number() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = manifest(folder.path());
    let broken = folder.path().join("mask1.nii.gz");
    std::fs::write(&broken, "no mask").unwrap();
    let loader = loader(manifest, 1 << 24);
    let data = &loader.dataset;
    let ask = |scan, tasks: &[usize]| {
        let group = tasks.iter().map(|&task| Question { scan, task });
        data.batch(&[group.collect()], None, &Device::Cpu)
    };
    // The label of a scan is not lost with its mask.
    assert_eq!(ask(1, &[0]).unwrap().prompts.len(), 1);
    let error = ask(1, &[0, 1]).unwrap_err().to_string();
    assert!(error.contains("1.nii.gz"), "{error}");
    // What was read before stays, and the mask comes beside it.
    let alone = data.cached_bytes();
    ask(0, &[0]).unwrap();
    assert_eq!(data.cached_bytes(), 2 * alone);
    ask(0, &[0, 1]).unwrap();
    assert_eq!(data.cached_bytes(), 2 * alone + alone / 2);
    // The nodule mask has the number 10, as one of several nodules, and other tasks see other masks.
    let batch = ask(0, &[1, 2]).unwrap();
    let sums = batch.masks.sum((1, 2)).unwrap().to_vec1::<f32>().unwrap();
    assert!(sums[0] > 0.0 && sums[0] == sums[1], "{sums:?}");
    let labels = data.asking(tasks()[..1].to_vec()).unwrap();
    assert!(
        labels.example(0).unwrap().mask.is_some(),
        "one memory for both"
    );
    assert!(labels.example(5).unwrap().mask.is_none());
}
