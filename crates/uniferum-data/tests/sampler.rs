//! The sampling of the paper's section 3.3, for any cohort, seed, epoch and number of processes.

use std::collections::HashMap;

use proptest::prelude::*;
use uniferum_data::{Epoch, Manifest, Question, SamplerConfig, Scan};
use uniferum_tasks::{Catalogue, Task, TaskKind};

const LABELS: [&str; 3] = [
    "ct-rate.emphysema",
    "rad-chest.cabg",
    "inspect.mortality-6m",
];

fn tasks() -> Vec<Task> {
    let catalogue = Catalogue::standard();
    let bypass = catalogue.by_label("rad-chest", "cabg").unwrap().id.clone();
    let ids = LABELS.map(|id| {
        if id == "rad-chest.cabg" {
            bypass.as_str()
        } else {
            id
        }
    });
    let labels = ids.iter().map(|id| catalogue.get(id).unwrap());
    let masks = catalogue
        .group("anatomy")
        .into_iter()
        .chain(catalogue.group("nodule"));
    labels.chain(masks).cloned().collect()
}

/// A cohort in which each scan has each label with probability 2/3, censored or missing otherwise.
fn cohort() -> impl Strategy<Value = Manifest> {
    let scan = (
        prop::collection::vec(0u8..6, LABELS.len()),
        any::<bool>(),
        0u8..8,
    );
    prop::collection::vec(scan, 1..60).prop_map(|rows| {
        let tasks = tasks();
        let scans = rows
            .into_iter()
            .enumerate()
            .map(|(i, (labels, mask, nodule))| {
                let known = labels.iter().enumerate().filter(|(_, v)| **v < 4);
                Scan {
                    path: format!("{i}.nii").into(),
                    patient: format!("p{i}"),
                    mask: mask.then(|| "m.nii".into()),
                    nodules: (nodule == 0).then(|| "n.nii".into()),
                    labels: known.map(|(t, v)| (tasks[t].id.clone(), *v == 0)).collect(),
                    ..Scan::default()
                }
            });
        Manifest {
            scans: scans.collect(),
        }
    })
}

fn draw(manifest: &Manifest, config: &SamplerConfig, seed: u64, epoch: u64) -> Epoch {
    let scans: Vec<usize> = (0..manifest.scans.len()).collect();
    Epoch::draw(manifest, &scans, &tasks(), config, seed, epoch)
}

fn counted(questions: &[Question]) -> HashMap<Question, usize> {
    let mut counts = HashMap::new();
    for question in questions {
        *counts.entry(*question).or_insert(0) += 1;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn negatives_match_positives_and_nothing_is_asked_without_an_answer(
        manifest in cohort(), seed in any::<u64>(), epoch in 0u64..100,
    ) {
        let tasks = tasks();
        let drawn = draw(&manifest, &SamplerConfig::default(), seed, epoch);
        let mut labels = 0;
        for (index, task) in tasks.iter().enumerate().filter(|(_, t)| t.kind != TaskKind::Segmentation) {
            let asked: Vec<_> = drawn.questions.iter().filter(|q| q.task == index).collect();
            let answers: Vec<bool> = asked.iter().map(|q| manifest.scans[q.scan].labels[&task.id]).collect();
            let of = |wanted: bool| manifest.scans.iter().filter(|s| s.labels.get(&task.id) == Some(&wanted)).count();
            let positive = answers.iter().filter(|a| **a).count();
            prop_assert_eq!(positive, of(true));
            prop_assert_eq!(answers.len() - positive, of(true).min(of(false)));
            prop_assert!(counted(&drawn.questions).iter().all(|(q, n)| q.task != index || *n == 1));
            labels += answers.len();
        }
        let organ = |q: &&Question| tasks[q.task].kind == TaskKind::Segmentation && !tasks[q.task].mask_labels.is_empty();
        let organs: Vec<_> = drawn.questions.iter().filter(organ).collect();
        prop_assert!(organs.iter().all(|q| manifest.scans[q.scan].mask.is_some()));
        let masked = manifest.scans.iter().filter(|s| s.mask.is_some()).count();
        let base = if labels > 0 { labels } else { masked };
        let expected = if masked > 0 { (0.1 * base as f64).round() as usize } else { 0 };
        prop_assert_eq!(organs.len(), expected);
        let nodules: Vec<_> = drawn.questions.iter().filter(|q| tasks[q.task].group == "nodule").copied().collect();
        let with = manifest.scans.iter().filter(|s| s.nodules.is_some()).count();
        prop_assert_eq!(nodules.len(), 10 * with);
        prop_assert!(counted(&nodules).values().all(|n| *n == 10));
    }

    #[test]
    fn an_epoch_is_a_pure_function_and_is_packed_without_remainder(
        manifest in cohort(), seed in any::<u64>(), epoch in 0u64..100,
        per_batch in 1usize..12, per_scan in 1usize..5,
    ) {
        let config = SamplerConfig::default();
        let drawn = draw(&manifest, &config, seed, epoch);
        prop_assert_eq!(&drawn, &draw(&manifest, &config, seed, epoch));
        let batches = drawn.batches(per_batch, per_scan, seed, epoch);
        prop_assert_eq!(&batches, &drawn.batches(per_batch, per_scan, seed, epoch));
        let flat: Vec<Question> = batches.iter().flatten().flatten().copied().collect();
        prop_assert_eq!(counted(&flat), counted(&drawn.questions));
        for group in batches.iter().flatten() {
            prop_assert!(group.len() <= per_scan && group.iter().all(|q| q.scan == group[0].scan));
        }
    }

    #[test]
    fn epochs_ask_different_negatives(seed in any::<u64>()) {
        let scans = (0..200).map(|i| Scan {
            path: format!("{i}.nii").into(),
            labels: [("ct-rate.emphysema".to_owned(), i < 20)].into(),
            ..Scan::default()
        });
        let manifest = Manifest { scans: scans.collect() };
        let negatives = |epoch| {
            let drawn = draw(&manifest, &SamplerConfig::default(), seed, epoch);
            let mut scans: Vec<usize> = drawn.questions.iter().map(|q| q.scan).filter(|s| *s >= 20).collect();
            scans.sort_unstable();
            scans
        };
        prop_assert_eq!(negatives(0).len(), 20);
        prop_assert_ne!(negatives(0), negatives(1));
    }
}

#[test]
fn the_summary_says_what_is_asked_and_settings_are_checked() {
    let scans = (0..20).map(|i| Scan {
        path: format!("{i}.nii").into(),
        mask: Some("m.nii".into()),
        nodules: (i < 2).then(|| "n.nii".into()),
        labels: [("ct-rate.emphysema".to_owned(), i < 5)].into(),
        ..Scan::default()
    });
    let manifest = Manifest {
        scans: scans.collect(),
    };
    let summary = draw(&manifest, &SamplerConfig::default(), 0, 0)
        .summary
        .join("\n");
    for part in [
        "ct-rate.emphysema: 5 positives, 5 negatives",
        "organ masks: 1 questions about 60 organs",
        "nodule.pulmonary-nodules: 20 masks",
    ] {
        assert!(summary.contains(part), "{summary}");
    }
    let wrong = SamplerConfig {
        organ_share: f64::NAN,
        ..SamplerConfig::default()
    };
    assert!(
        wrong
            .validate()
            .unwrap_err()
            .to_string()
            .contains("organ_share")
    );
}
