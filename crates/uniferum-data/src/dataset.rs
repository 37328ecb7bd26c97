//! Standardised scans on disk to batches, ahead of the training step.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use ndarray::Array3;
use rayon::prelude::*;
use uniferum_ct::transform::{Augment, AugmentDraw, ModelTransform};
use uniferum_ct::{ReadOptions, Volume, read_ct, read_mask};
use uniferum_tasks::{Task, TaskKind};

use crate::collate::{Batch, image_tensor};
use crate::error::{Error, Result};
use crate::manifest::{Manifest, Scan};
use crate::sampler::{Epoch, Question, SamplerConfig};
use crate::targets::{MaskGrid, mask_target};

/// A standardised scan in memory.
#[derive(Debug)]
pub struct Example {
    /// HU, RAS.
    pub volume: Volume<i16>,
    /// TotalSegmentator v2 numbers.
    pub mask: Option<Volume<u8>>,
    /// Nodules.
    pub nodules: Option<Volume<u8>>,
}

/// The standardised scans of a manifest with the tasks to ask.
#[derive(Debug)]
pub struct Dataset {
    /// The scans; their files are standardised volumes.
    pub manifest: Manifest,
    /// The tasks.
    pub tasks: Vec<Task>,
    transform: ModelTransform,
    grid: MaskGrid,
    cache: Mutex<Cache>,
}

/// Examples kept in memory, the oldest given up first.
#[derive(Debug, Default)]
struct Cache {
    examples: std::collections::HashMap<usize, Arc<Example>>,
    order: std::collections::VecDeque<usize>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    fn insert(&mut self, scan: usize, example: &Arc<Example>) {
        let size = example.bytes();
        if size > self.limit || self.examples.contains_key(&scan) {
            return;
        }
        while self.bytes + size > self.limit {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.bytes -= self.examples.remove(&oldest).map_or(0, |e| e.bytes());
        }
        self.examples.insert(scan, Arc::clone(example));
        self.order.push_back(scan);
        self.bytes += size;
    }
}

impl Example {
    fn bytes(&self) -> usize {
        let masks = self
            .mask
            .iter()
            .chain(&self.nodules)
            .map(|m| m.voxels.len())
            .sum::<usize>();
        2 * self.volume.voxels.len() + masks
    }
}

impl Dataset {
    /// A dataset over standardised files; up to `cache_bytes` of them stay in memory.
    ///
    /// # Errors
    /// [`Error::Config`] for a transform that does not fit the mask head.
    pub fn new(
        manifest: Manifest,
        tasks: Vec<Task>,
        transform: ModelTransform,
        patch: usize,
        cache_bytes: usize,
    ) -> Result<Self> {
        let grid = MaskGrid::new(transform.shape, patch)?;
        let cache = Mutex::new(Cache {
            limit: cache_bytes,
            ..Default::default()
        });
        Ok(Self {
            manifest,
            tasks,
            transform,
            grid,
            cache,
        })
    }

    /// How masks are cut into patches.
    pub fn grid(&self) -> MaskGrid {
        self.grid
    }

    /// Reads a scan, from memory where it was read before.
    ///
    /// # Errors
    /// [`Error::Scan`].
    pub fn example(&self, scan: usize) -> Result<Arc<Example>> {
        if let Ok(cache) = self.cache.lock()
            && let Some(example) = cache.examples.get(&scan)
        {
            return Ok(Arc::clone(example));
        }
        let row = &self.manifest.scans[scan];
        let example = Arc::new(read_example(row).map_err(|source| Error::Scan {
            scan: row.path.display().to_string(),
            source,
        })?);
        if let Ok(mut cache) = self.cache.lock() {
            cache.insert(scan, &example);
        }
        Ok(example)
    }

    /// The model's array of a scan, not augmented.
    ///
    /// # Shapes
    /// `[X, Y, Z]` of the model transform.
    ///
    /// # Errors
    /// [`Error::Scan`].
    pub fn array(&self, scan: usize) -> Result<Array3<f32>> {
        let example = self.example(scan)?;
        self.named(scan, self.transform.model_array(&example.volume))
    }

    /// The mask target of a task, not augmented; `None` where the scan has no such mask.
    ///
    /// # Shapes
    /// `[L * P]`, see [`mask_target`].
    ///
    /// # Errors
    /// [`Error::Scan`].
    pub fn target(&self, scan: usize, task: &Task) -> Result<Option<Vec<f32>>> {
        self.mask(scan, task, None)
    }

    fn mask(
        &self,
        scan: usize,
        task: &Task,
        draw: Option<&AugmentDraw>,
    ) -> Result<Option<Vec<f32>>> {
        let example = self.example(scan)?;
        let (volume, labels): (_, &[u16]) = if task.mask_labels.is_empty() {
            (&example.nodules, &[1])
        } else {
            (&example.mask, &task.mask_labels)
        };
        let Some(volume) = volume else {
            return Ok(None);
        };
        let mask = match draw {
            Some(draw) => self.transform.model_mask_augmented(volume, labels, draw),
            None => self.transform.model_mask(volume, labels),
        };
        Ok(Some(mask_target(
            self.named(scan, mask)?.view(),
            &self.grid,
        )))
    }

    /// Puts groups of questions, one scan each, together; `draws` augments each group's scan.
    ///
    /// # Errors
    /// [`Error::Scan`] for the first scan that cannot be read.
    pub fn batch(
        &self,
        groups: &[Vec<Question>],
        draws: Option<&[AugmentDraw]>,
        device: &Device,
    ) -> Result<Batch> {
        let arrays: Result<Vec<Array3<f32>>> = groups
            .par_iter()
            .enumerate()
            .map(|(i, group)| {
                let scan = group.first().map_or(0, |q| q.scan);
                let Some(draws) = draws else {
                    return self.array(scan);
                };
                let example = self.example(scan)?;
                self.named(
                    scan,
                    self.transform
                        .model_array_augmented(&example.volume, &draws[i]),
                )
            })
            .collect();
        let images = image_tensor(&arrays?, device)?;
        let questions: Vec<(usize, Question)> = groups
            .iter()
            .enumerate()
            .flat_map(|(i, g)| g.iter().map(move |q| (i, *q)))
            .collect();
        let targets: Result<Vec<Target>> = questions
            .par_iter()
            .map(|(i, question)| self.question_target(*question, draws.map(|d| &d[*i])))
            .collect();
        self.assemble(images, &questions, targets?, device)
    }

    fn question_target(&self, question: Question, draw: Option<&AugmentDraw>) -> Result<Target> {
        let task = &self.tasks[question.task];
        if task.kind == TaskKind::Segmentation {
            return Ok(Target::Mask(self.mask(question.scan, task, draw)?));
        }
        let label = self.manifest.scans[question.scan].labels.get(&task.id);
        Ok(Target::Label(label.copied().unwrap_or(false)))
    }

    fn assemble(
        &self,
        images: Tensor,
        questions: &[(usize, Question)],
        targets: Vec<Target>,
        device: &Device,
    ) -> Result<Batch> {
        let [length, patch] = self.grid.target_shape();
        let n = questions.len();
        let mut masks = vec![0.0f32; n * length * patch];
        let (mut labels, mut kinds) = (vec![0.0f32; n], vec![0.0f32; n]);
        for (i, target) in targets.into_iter().enumerate() {
            match target {
                Target::Label(label) => labels[i] = f32::from(u8::from(label)),
                Target::Mask(mask) => {
                    kinds[i] = 1.0;
                    if let Some(mask) = mask {
                        masks[i * length * patch..(i + 1) * length * patch].copy_from_slice(&mask);
                    }
                }
            }
        }
        let task = |q: &Question| &self.tasks[q.task];
        let name =
            |q: &Question| format!("{} @ {}", task(q).id, self.manifest.scans[q.scan].name());
        Ok(Batch {
            images,
            image_of: Tensor::from_iter(questions.iter().map(|(i, _)| *i as u32), device)?,
            prompts: questions
                .iter()
                .map(|(_, q)| task(q).prompt.clone())
                .collect(),
            names: questions.iter().map(|(_, q)| name(q)).collect(),
            labels: Tensor::from_vec(labels, n, device)?,
            masks: Tensor::from_vec(masks, (n, length, patch), device)?,
            is_segmentation: Tensor::from_vec(kinds, n, device)?,
        })
    }

    fn named<T>(&self, scan: usize, result: uniferum_ct::Result<T>) -> Result<T> {
        let name = || self.manifest.scans[scan].path.display().to_string();
        result.map_err(|source| Error::Scan {
            scan: name(),
            source,
        })
    }
}

enum Target {
    Label(bool),
    Mask(Option<Vec<f32>>),
}

fn read_example(row: &Scan) -> uniferum_ct::Result<Example> {
    let scan = read_ct(&row.path, &ReadOptions::default())?.volume.to_ras();
    let mask = |path: &Option<std::path::PathBuf>| {
        path.as_ref()
            .map(|p| read_mask(p).map(Volume::to_ras))
            .transpose()
    };
    let (mask, nodules) = (mask(&row.mask)?, mask(&row.nodules)?);
    for (what, other) in [("mask", &mask), ("nodule mask", &nodules)] {
        if let Some(other) = other {
            scan.check_same_grid(other, what)?;
        }
    }
    let volume = Volume::new(
        scan.voxels
            .mapv(|v| v.round().clamp(-32768.0, 32767.0) as i16),
        scan.affine,
    );
    Ok(Example {
        volume,
        mask,
        nodules,
    })
}

/// Batches of a training run by step number, made ahead on a thread of its own.
#[derive(Debug, Clone)]
pub struct Loader {
    /// The scans and tasks.
    pub dataset: Arc<Dataset>,
    /// The scans to draw from.
    pub scans: Vec<usize>,
    /// How epochs are drawn.
    pub sampler: SamplerConfig,
    /// Augmentation, if any.
    pub augment: Option<Augment>,
    /// Scans a step.
    pub scans_per_step: usize,
    /// Questions that share one encoding.
    pub questions_per_scan: usize,
    /// The seed of everything.
    pub seed: u64,
    /// Where tensors go.
    pub device: Device,
}

impl Loader {
    /// The questions of an epoch, packed.
    pub(crate) fn epoch(&self, epoch: u64) -> (Epoch, Vec<Vec<Vec<Question>>>) {
        let d = &self.dataset;
        let drawn = Epoch::draw(
            &d.manifest,
            &self.scans,
            &d.tasks,
            &self.sampler,
            self.seed,
            epoch,
        );
        let packed = drawn.batches(
            self.scans_per_step,
            self.questions_per_scan,
            self.seed,
            epoch,
        );
        (drawn, packed)
    }

    /// What the first epoch asks, a line a task, and how many steps it takes.
    pub fn summary(&self) -> (Vec<String>, usize) {
        let (epoch, packed) = self.epoch(0);
        (epoch.summary, packed.len())
    }

    /// Batches from `start` on, two of them ahead; a pure function of the settings and the step.
    ///
    /// The channel ends after an error, which is its last item, or when the receiver is dropped.
    pub fn stream(&self, start: u64, steps: u64) -> Receiver<Result<Batch>> {
        let (sender, receiver) = sync_channel(2);
        let loader = self.clone();
        std::thread::spawn(move || {
            let mut first_step = 0;
            for epoch in 0.. {
                let (_, batches) = loader.epoch(epoch);
                if batches.is_empty() {
                    let empty = Error::config("training questions", "at least one", "none");
                    let _ = sender.send(Err(empty));
                    return;
                }
                for (index, groups) in batches.iter().enumerate() {
                    let step = first_step + index as u64;
                    if step < start {
                        continue;
                    }
                    if step >= steps {
                        return;
                    }
                    let batch = loader.batch(groups, epoch);
                    let failed = batch.is_err();
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
                first_step += batches.len() as u64;
            }
        });
        receiver
    }

    pub(crate) fn batch(&self, groups: &[Vec<Question>], epoch: u64) -> Result<Batch> {
        let draws: Option<Vec<AugmentDraw>> = self.augment.as_ref().map(|augment| {
            let draw = |g: &Vec<Question>| {
                let sample = g.first().map_or(0, |q| (q.scan * 1009 + q.task) as u64);
                AugmentDraw::from_seed(augment, self.seed, sample, epoch)
            };
            groups.iter().map(draw).collect()
        });
        self.dataset.batch(groups, draws.as_deref(), &self.device)
    }
}
