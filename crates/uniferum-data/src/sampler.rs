//! Which questions an epoch asks of which scans.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use uniferum_tasks::{Task, TaskKind};

use crate::error::{Error, Result};
use crate::manifest::Manifest;

/// A task asked of a scan: indices into the manifest and into the list of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// Index of the scan.
    pub scan: usize,
    /// Index of the task.
    pub task: usize,
}

/// How an epoch is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplerConfig {
    /// Negatives drawn for each positive of a diagnostic or prognostic task.
    pub negatives_per_positive: f64,
    /// Organ questions, as a share of the label questions.
    pub organ_share: f64,
    /// How often each scan with a nodule mask is asked for it.
    pub nodule_repeats: usize,
}

impl Default for SamplerConfig {
    /// The paper's (section 3.3): as many negatives as positives, 10 % organs, nodules tenfold.
    fn default() -> Self {
        Self {
            negatives_per_positive: 1.0,
            organ_share: 0.1,
            nodule_repeats: 10,
        }
    }
}

impl SamplerConfig {
    /// Checks that the settings can work.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn validate(&self) -> Result<()> {
        for (field, value) in [
            ("negatives_per_positive", self.negatives_per_positive),
            ("organ_share", self.organ_share),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(field, "0 or more", value));
            }
        }
        Ok(())
    }
}

/// The questions of an epoch in the order in which they are asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Epoch {
    /// The questions, shuffled.
    pub questions: Vec<Question>,
    /// A line a task: positives, negatives or masks drawn.
    pub summary: Vec<String>,
}

impl Epoch {
    /// Draws an epoch: a pure function of the arguments.
    ///
    /// # Reference
    /// Paper, section 3.3.
    pub fn draw(
        manifest: &Manifest,
        scans: &[usize],
        tasks: &[Task],
        config: &SamplerConfig,
        seed: u64,
        epoch: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        let mut out = Epoch {
            questions: Vec::new(),
            summary: Vec::new(),
        };
        for (task, entry) in tasks.iter().enumerate() {
            if entry.kind != TaskKind::Segmentation {
                out.add_labels(manifest, scans, task, entry, config, &mut rng);
            }
        }
        out.add_organs(manifest, scans, tasks, config, &mut rng);
        out.add_nodules(manifest, scans, tasks, config);
        out.questions.shuffle(&mut rng);
        out
    }

    fn add_labels(
        &mut self,
        manifest: &Manifest,
        scans: &[usize],
        task: usize,
        entry: &Task,
        config: &SamplerConfig,
        rng: &mut ChaCha8Rng,
    ) {
        let with = |label: bool| -> Vec<usize> {
            let has = |&&i: &&usize| manifest.scans[i].labels.get(&entry.id) == Some(&label);
            scans.iter().filter(has).copied().collect()
        };
        let (positives, mut negatives) = (with(true), with(false));
        negatives.shuffle(rng);
        let wanted = (config.negatives_per_positive * positives.len() as f64).round() as usize;
        negatives.truncate(wanted);
        let (p, n) = (positives.len(), negatives.len());
        self.summary
            .push(format!("{}: {p} positives, {n} negatives", entry.id));
        self.questions.extend(
            positives
                .into_iter()
                .chain(negatives)
                .map(|scan| Question { scan, task }),
        );
    }

    fn add_organs(
        &mut self,
        manifest: &Manifest,
        scans: &[usize],
        tasks: &[Task],
        config: &SamplerConfig,
        rng: &mut ChaCha8Rng,
    ) {
        let organs: Vec<usize> = (0..tasks.len())
            .filter(|&t| tasks[t].kind == TaskKind::Segmentation && !tasks[t].is_nodule())
            .collect();
        let masked: Vec<usize> = scans
            .iter()
            .copied()
            .filter(|&i| manifest.scans[i].mask.is_some())
            .collect();
        if organs.is_empty() || masked.is_empty() {
            return;
        }
        let labels = if self.questions.is_empty() {
            masked.len()
        } else {
            self.questions.len()
        };
        let count = (config.organ_share * labels as f64).round() as usize;
        for _ in 0..count {
            let scan = masked[rng.random_range(0..masked.len())];
            let task = organs[rng.random_range(0..organs.len())];
            self.questions.push(Question { scan, task });
        }
        self.summary.push(format!(
            "organ masks: {count} questions about {} organs",
            organs.len()
        ));
    }

    fn add_nodules(
        &mut self,
        manifest: &Manifest,
        scans: &[usize],
        tasks: &[Task],
        config: &SamplerConfig,
    ) {
        let nodule = Task::is_nodule;
        for task in (0..tasks.len()).filter(|&t| nodule(&tasks[t])) {
            let masked: Vec<usize> = scans
                .iter()
                .copied()
                .filter(|&i| manifest.scans[i].nodules.is_some())
                .collect();
            let count = masked.len() * config.nodule_repeats;
            for _ in 0..config.nodule_repeats {
                self.questions
                    .extend(masked.iter().map(|&scan| Question { scan, task }));
            }
            self.summary
                .push(format!("{}: {count} masks", tasks[task].id));
        }
    }

    /// Packs questions so that one encoding answers several: groups of up to `questions_per_scan`
    /// questions of one scan, `scans_per_batch` groups a batch, in an order drawn from the seed.
    ///
    /// With 1 question a scan the batches are those of the paper. A last batch of at most half the
    /// size joins the one before it, so that nothing is lost and no batch is tiny.
    pub fn batches(
        &self,
        scans_per_batch: usize,
        questions_per_scan: usize,
        seed: u64,
        epoch: u64,
    ) -> Vec<Vec<Vec<Question>>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x62617463_68657321);
        rng.set_stream(epoch);
        let mut of_scan: std::collections::BTreeMap<usize, Vec<Question>> = Default::default();
        for question in &self.questions {
            of_scan.entry(question.scan).or_default().push(*question);
        }
        let size = questions_per_scan.max(1);
        let mut groups: Vec<Vec<Question>> = of_scan
            .into_values()
            .flat_map(|questions| packed(questions, size))
            .collect();
        groups.shuffle(&mut rng);
        let per_batch = scans_per_batch.max(1);
        let mut batches: Vec<Vec<_>> = groups.chunks(per_batch).map(<[_]>::to_vec).collect();
        // A short last batch has noisy batch statistics, and one of a single scan may have none:
        // it joins the batch before it.
        if batches.len() > 1 && batches.last().is_some_and(|b| 2 * b.len() <= per_batch) {
            let tail = batches.pop().unwrap_or_default();
            if let Some(last) = batches.last_mut() {
                last.extend(tail);
            }
        }
        batches
    }
}

/// Questions of one scan in groups of up to `size`, none with one task twice: asked of the same view, a
/// question that is repeated would say nothing new.
fn packed(questions: Vec<Question>, size: usize) -> Vec<Vec<Question>> {
    let mut groups: Vec<Vec<Question>> = Vec::new();
    for question in questions {
        let has_room = |group: &&mut Vec<Question>| {
            group.len() < size && group.iter().all(|other| other.task != question.task)
        };
        match groups.iter_mut().find(has_room) {
            Some(group) => group.push(question),
            None => groups.push(vec![question]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use uniferum_tasks::Catalogue;

    use super::*;
    use crate::manifest::{Scan, Split};

    #[test]
    fn a_question_that_is_repeated_meets_other_views() {
        let of = |tasks: &[usize]| {
            tasks
                .iter()
                .map(|&task| Question { scan: 7, task })
                .collect()
        };
        let tasks = |groups: Vec<Vec<Question>>| -> Vec<Vec<usize>> {
            let group = |g: Vec<Question>| g.iter().map(|q| q.task).collect();
            groups.into_iter().map(group).collect()
        };
        let groups = tasks(packed(of(&[0, 0, 1, 0, 2, 3, 4]), 3));
        assert_eq!(groups, [vec![0, 1, 2], vec![0, 3, 4], vec![0]]);
        assert_eq!(tasks(packed(of(&[0, 1, 2, 3]), 2)), [[0, 1], [2, 3]]);
        assert_eq!(tasks(packed(of(&[5, 5, 6]), 1)), [[5], [5], [6]]);
    }

    fn cohort() -> (Manifest, Vec<Task>) {
        let catalogue = Catalogue::standard();
        let mut tasks: Vec<Task> = catalogue.group("phantom").into_iter().cloned().collect();
        tasks.extend(
            ["anatomy.lungs", "anatomy.liver"]
                .iter()
                .filter_map(|t| catalogue.get(t))
                .cloned(),
        );
        tasks.extend(catalogue.group("nodule").into_iter().cloned());
        let scans = (0..40usize)
            .map(|i| Scan {
                path: PathBuf::from(format!("{i}.nii.gz")),
                mask: Some("m".into()),
                nodules: (i < 3).then(|| "n".into()),
                patient: i.to_string(),
                split: Split::Train,
                labels: [("phantom.emphysema".to_owned(), i % 4 == 0)].into(),
                ..Scan::default()
            })
            .collect();
        (Manifest { scans }, tasks)
    }

    #[test]
    fn an_epoch_is_balanced_and_a_function_of_seed_and_number() {
        let (manifest, tasks) = cohort();
        let scans = manifest.of(Split::Train);
        let draw = |seed, epoch| {
            Epoch::draw(
                &manifest,
                &scans,
                &tasks,
                &SamplerConfig::default(),
                seed,
                epoch,
            )
        };
        let epoch = draw(1, 0);
        assert_eq!(epoch, draw(1, 0));
        assert_ne!(epoch, draw(1, 1));
        assert_ne!(epoch, draw(2, 0));
        let of = |id: &str| {
            let task = tasks.iter().position(|t| t.id == id).unwrap();
            epoch
                .questions
                .iter()
                .filter(move |q| q.task == task)
                .copied()
                .collect::<Vec<_>>()
        };
        let labels = of("phantom.emphysema");
        assert_eq!(labels.len(), 20);
        assert_eq!(labels.iter().filter(|q| q.scan % 4 == 0).count(), 10);
        let organs = of("anatomy.lungs").len() + of("anatomy.liver").len();
        assert_eq!(organs, 2);
        let nodule = tasks
            .iter()
            .find(|t| t.group == "nodule")
            .unwrap()
            .id
            .clone();
        assert_eq!(of(&nodule).len(), 30);
    }

    #[test]
    fn packing_loses_nothing() {
        let (manifest, tasks) = cohort();
        let scans = manifest.of(Split::Train);
        let epoch = Epoch::draw(&manifest, &scans, &tasks, &SamplerConfig::default(), 3, 0);
        let sorted = |mut q: Vec<Question>| {
            q.sort_by_key(|q| (q.scan, q.task));
            q
        };
        let packed = epoch.batches(4, 3, 3, 0);
        assert!(
            packed
                .iter()
                .flatten()
                .all(|g| g.len() <= 3 && g.iter().all(|q| q.scan == g[0].scan))
        );
        assert!(packed.iter().all(|b| b.len() > 2 && b.len() <= 6));
        let flat = packed.into_iter().flatten().flatten().collect();
        assert_eq!(sorted(flat), sorted(epoch.questions.clone()));
    }
}
