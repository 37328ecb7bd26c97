//! The scans of a manifest as model arrays, mask targets and batches.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use ndarray::Array3;
use rayon::prelude::*;
use uniferum_ct::transform::{AugmentDraw, ModelTransform};
use uniferum_kernels::Augmenter;
use uniferum_tasks::{Task, TaskKind};

use super::cache::Cache;
use super::device;
use super::example::{Example, Wanted};
use crate::collate::{Batch, image_tensor};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::sampler::Question;
use crate::targets::{MaskGrid, mask_target};

/// The standardised scans of a manifest with the tasks to ask.
#[derive(Debug)]
pub struct Dataset {
    /// The scans; their files are standardised volumes.
    pub manifest: Manifest,
    /// The tasks.
    pub tasks: Vec<Task>,
    transform: ModelTransform,
    grid: MaskGrid,
    spacing_mm: Option<[f64; 3]>,
    cache: Arc<Cache>,
}

impl Dataset {
    /// A dataset over standardised files; up to `cache_bytes` of them stay in memory.
    ///
    /// # Errors
    /// [`Error::Config`] for a transform that does not fit the mask head, and for a segmentation that says of
    /// no voxels that they are its own.
    pub fn new(
        manifest: Manifest,
        tasks: Vec<Task>,
        transform: ModelTransform,
        patch: usize,
        cache_bytes: usize,
    ) -> Result<Self> {
        let grid = MaskGrid::new(transform.shape, patch)?;
        let cache = Arc::new(Cache::new(cache_bytes));
        check_tasks(&tasks)?;
        Ok(Self {
            manifest,
            tasks,
            transform,
            grid,
            spacing_mm: None,
            cache,
        })
    }

    /// The same scans with other tasks; both keep what they read in the same memory.
    ///
    /// # Errors
    /// As [`new`](Self::new) for the tasks.
    pub fn asking(&self, tasks: Vec<Task>) -> Result<Self> {
        check_tasks(&tasks)?;
        Ok(Self {
            manifest: self.manifest.clone(),
            tasks,
            transform: self.transform.clone(),
            cache: Arc::clone(&self.cache),
            ..*self
        })
    }

    /// Refuses scans of another voxel spacing than the standardised one, mm: those that were never
    /// standardised. The release's `.bin` says nothing of its spacing and is taken at its word.
    #[must_use]
    pub fn with_spacing(mut self, spacing_mm: [f64; 3]) -> Self {
        self.spacing_mm = Some(spacing_mm);
        self
    }

    /// How masks are cut into patches.
    pub fn grid(&self) -> MaskGrid {
        self.grid
    }

    /// Bytes of voxels that are kept in memory now.
    pub fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Reads a scan with the masks that its tasks ask about, from memory where they were read before.
    ///
    /// # Errors
    /// [`Error::Scan`].
    pub fn example(&self, scan: usize) -> Result<Arc<Example>> {
        Ok(self.read(scan, Wanted::by(&self.tasks))?.0)
    }

    /// A scan with some of its masks; the flag says whether all was in memory.
    fn read(&self, scan: usize, wanted: Wanted) -> Result<(Arc<Example>, bool)> {
        let scans = &self.manifest.scans;
        let unknown = || Error::config("scan", format!("one of {}", scans.len()), scan);
        let row = scans.get(scan).ok_or_else(unknown)?;
        let read = |known: Option<&Example>| Example::read(row, wanted, known, self.spacing_mm);
        let found = self.cache.get(scan, |e| e.has(row, wanted), read);
        self.named(scan, found)
    }

    /// The model's array of a scan that was read, not augmented.
    ///
    /// # Shapes
    /// `[X, Y, Z]` of the model transform.
    ///
    /// # Errors
    /// [`Error::Scan`] naming the scan.
    pub fn array_of(&self, scan: usize, example: &Example) -> Result<Array3<f32>> {
        self.named(scan, self.transform.model_array(&example.volume))
    }

    /// The mask target of a task about a scan that was read, not augmented; `None` where the scan has no such
    /// mask.
    ///
    /// # Shapes
    /// `[L * P]`, see [`mask_target`].
    ///
    /// # Errors
    /// [`Error::Scan`] naming the scan.
    pub fn target_of(
        &self,
        scan: usize,
        example: &Example,
        task: &Task,
    ) -> Result<Option<Vec<f32>>> {
        self.mask_of(example, scan, task, None)
    }

    fn mask_of(
        &self,
        example: &Example,
        scan: usize,
        task: &Task,
        draw: Option<&AugmentDraw>,
    ) -> Result<Option<Vec<f32>>> {
        let (Some(volume), labels) = example.mask_of(task) else {
            return Ok(None);
        };
        let mask = match draw {
            Some(draw) => self.transform.model_mask_augmented(volume, labels, draw),
            None => self.transform.model_mask(volume, labels),
        };
        mask_target(self.named(scan, mask)?.view(), &self.grid).map(Some)
    }

    /// Puts groups of questions, one scan each, together; `draws` augments each group's scan.
    ///
    /// # Errors
    /// [`Error::Scan`] for the first scan that cannot be read; [`Error::Question`] for a question that its
    /// scan has no label or mask for.
    pub fn batch(
        &self,
        groups: &[Vec<Question>],
        draws: Option<&[AugmentDraw]>,
        device: &Device,
    ) -> Result<Batch> {
        if let Some(draws) = draws.filter(|draws| draws.len() != groups.len()) {
            return Err(Error::config("draws", groups.len(), draws.len()));
        }
        let prepared: Result<Vec<Prepared>> = groups
            .par_iter()
            .enumerate()
            .map(|(i, group)| self.prepare(group, draws.map(|d| &d[i]), None))
            .collect();
        self.assemble(prepared?, device)
    }

    /// One scan's array and the targets of its questions; the scan is read once. With an augmenter
    /// both are made on its device.
    pub(super) fn prepare(
        &self,
        group: &[Question],
        draw: Option<&AugmentDraw>,
        augmenter: Option<&Augmenter>,
    ) -> Result<Prepared> {
        let Some(first) = group.first() else {
            return Err(Error::config("questions of a scan", "at least one", 0));
        };
        self.check_questions(group)?;
        let wanted = Wanted::by(group.iter().map(|q| &self.tasks[q.task]));
        let (example, cached) = self.read(first.scan, wanted)?;
        let (image, targets) = match augmenter {
            Some(augmenter) => self.on_device(&example, group, draw, augmenter)?,
            None => self.on_host(&example, group, draw)?,
        };
        Ok(Prepared {
            image,
            questions: group.to_vec(),
            targets,
            cached,
        })
    }

    /// Refuses questions about several scans, which would all be asked of the first, and places that are none.
    fn check_questions(&self, group: &[Question]) -> Result<()> {
        let (scans, tasks) = (self.manifest.scans.len(), self.tasks.len());
        for question in group {
            if question.scan != group[0].scan {
                let expected = format!("all about scan {}", group[0].scan);
                return Err(Error::config(
                    "questions of a scan",
                    expected,
                    question.scan,
                ));
            }
            if question.scan >= scans || question.task >= tasks {
                let expected = format!("a scan below {scans} and a task below {tasks}");
                let got = format!("{} and {}", question.scan, question.task);
                return Err(Error::config("question", expected, got));
            }
        }
        Ok(())
    }

    fn on_host(
        &self,
        example: &Example,
        group: &[Question],
        draw: Option<&AugmentDraw>,
    ) -> Result<(Image, Vec<Target>)> {
        let array = match draw {
            Some(draw) => self.transform.model_array_augmented(&example.volume, draw),
            None => self.transform.model_array(&example.volume),
        };
        let array = self.named(group[0].scan, array)?;
        let targets = group.iter().map(|question| {
            let task = &self.tasks[question.task];
            if task.kind == TaskKind::Segmentation {
                let mask = self.mask_of(example, question.scan, task, draw)?;
                mask.map(Target::Mask)
                    .ok_or_else(|| self.unanswered(*question))
            } else {
                self.label(*question)
            }
        });
        Ok((Image::Host(array), targets.collect::<Result<_>>()?))
    }

    fn on_device(
        &self,
        example: &Example,
        group: &[Question],
        draw: Option<&AugmentDraw>,
        augmenter: &Augmenter,
    ) -> Result<(Image, Vec<Target>)> {
        let draw = draw.unwrap_or(&AugmentDraw::NONE);
        self.named(group[0].scan, self.transform.validate())?;
        let image = device::image(augmenter, &self.transform, &example.volume, draw)?;
        let asks_mask = |q: &&Question| self.tasks[q.task].kind == TaskKind::Segmentation;
        let asked: Vec<&Task> = group
            .iter()
            .filter(asks_mask)
            .map(|q| &self.tasks[q.task])
            .collect();
        let mut masks = device::masks(
            augmenter,
            &self.transform,
            &self.grid,
            example,
            &asked,
            draw,
        )?
        .into_iter();
        let targets = group.iter().map(|question| {
            if asks_mask(&question) {
                let mask = masks.next().flatten().map(Target::DeviceMask);
                mask.ok_or_else(|| self.unanswered(*question))
            } else {
                self.label(*question)
            }
        });
        Ok((Image::Device(image), targets.collect::<Result<_>>()?))
    }

    fn label(&self, question: Question) -> Result<Target> {
        let scan = &self.manifest.scans[question.scan];
        let label = scan.labels.get(&self.tasks[question.task].id);
        let label = label.copied().map(Target::Label);
        label.ok_or_else(|| self.unanswered(question))
    }

    /// A question without an answer is a mistake of whoever asks: nothing is taken for negative.
    fn unanswered(&self, question: Question) -> Error {
        let scan = &self.manifest.scans[question.scan];
        Error::Question {
            task: self.tasks[question.task].id.clone(),
            scan: scan.path.display().to_string(),
        }
    }

    /// Stacks prepared scans.
    pub(super) fn assemble(&self, prepared: Vec<Prepared>, device: &Device) -> Result<Batch> {
        let (mut arrays, mut images) = (Vec::new(), Vec::new());
        let (mut questions, mut targets) = (Vec::new(), Vec::new());
        for (i, scan) in prepared.into_iter().enumerate() {
            match scan.image {
                Image::Host(array) => arrays.push(array),
                Image::Device(image) => images.push(image),
            }
            questions.extend(scan.questions.into_iter().map(|q| (i, q)));
            targets.extend(scan.targets);
        }
        let on_device = !images.is_empty();
        let images = match on_device {
            true => Tensor::cat(&images, 0)?,
            false => image_tensor(&arrays, device)?,
        };
        drop(arrays);
        let n = questions.len();
        let (mut labels, mut kinds) = (vec![0.0f32; n], vec![0.0f32; n]);
        for (i, target) in targets.iter().enumerate() {
            match target {
                Target::Label(label) => labels[i] = f32::from(u8::from(*label)),
                Target::Mask(_) | Target::DeviceMask(_) => kinds[i] = 1.0,
            }
        }
        let masks = match on_device {
            true => self.masks_on_device(&targets, device)?,
            false => self.masks_on_host(&targets, device)?,
        };
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
            masks,
            is_segmentation: Tensor::from_vec(kinds, n, device)?,
        })
    }

    /// Mask targets `[Q, L, P]`, 0 for label questions.
    fn masks_on_host(&self, targets: &[Target], device: &Device) -> Result<Tensor> {
        let [length, patch] = self.grid.target_shape();
        let mut masks = vec![0.0f32; targets.len() * length * patch];
        for (place, target) in masks.chunks_exact_mut(length * patch).zip(targets) {
            if let Target::Mask(mask) = target {
                place.copy_from_slice(mask);
            }
        }
        let shape = (targets.len(), length, patch);
        Ok(Tensor::from_vec(masks, shape, device)?)
    }

    /// The same of masks that are on the device already.
    fn masks_on_device(&self, targets: &[Target], device: &Device) -> Result<Tensor> {
        let [length, patch] = self.grid.target_shape();
        let none = Tensor::zeros((1, length, patch), DType::F32, device)?;
        let masks = targets.iter().map(|target| match target {
            Target::DeviceMask(mask) => mask,
            _ => &none,
        });
        Ok(Tensor::cat(&masks.collect::<Vec<_>>(), 0)?)
    }

    fn named<T>(&self, scan: usize, result: uniferum_ct::Result<T>) -> Result<T> {
        let name = || self.manifest.scans[scan].path.display().to_string();
        result.map_err(|source| Error::Scan {
            scan: name(),
            source,
        })
    }
}

/// Refuses a segmentation that says of no voxels that they are its own.
fn check_tasks(tasks: &[Task]) -> Result<()> {
    let blind = |t: &&Task| t.kind.is_segmentation() && t.mask_labels.is_empty() && !t.is_nodule();
    let Some(task) = tasks.iter().find(blind) else {
        return Ok(());
    };
    let got = format!("none for {}", task.id);
    Err(Error::config("mask_labels", "the numbers of a mask", got))
}

/// A scan ready for its batch.
#[derive(Debug)]
pub(super) struct Prepared {
    image: Image,
    questions: Vec<Question>,
    targets: Vec<Target>,
    /// Whether the scan was in memory.
    pub(super) cached: bool,
}

/// The model's array of a scan.
#[derive(Debug)]
enum Image {
    Host(Array3<f32>),
    /// `[1, 1, X, Y, Z]`.
    Device(Tensor),
}

#[derive(Debug)]
enum Target {
    Label(bool),
    Mask(Vec<f32>),
    /// `[1, L, P]`.
    DeviceMask(Tensor),
}
