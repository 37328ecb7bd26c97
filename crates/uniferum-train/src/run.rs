//! A training run as a file: model, first weights, tasks, input and recipe.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};
use uniferum_ct::transform::Augment;
use uniferum_data::{Dataset, InputSettings, Loader, Manifest, OnError, Split, StreamOptions};
use uniferum_fusion::checkpoint::locate;
use uniferum_fusion::{Prompts, UniferumConfig};
use uniferum_tasks::{Catalogue, Task, TaskKind, trained};

use crate::baseline::{Baseline, BaselineConfig};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::init::{Init, NONE};
use crate::learner::{Fusion, Learner, WEIGHTS};
use crate::trainer::Trainer;

/// What `uniferum train --config` reads. The default is the paper's recipe.
///
/// ```
/// use uniferum_train::{ModelChoice, RunConfig};
/// let run = RunConfig::from_toml("tasks = [\"ct-rate\"]\n[train]\nsteps = 10000")?;
/// assert_eq!((run.train.steps, run.train.scans_per_step), (10_000, 64));
/// assert!(matches!(run.model, ModelChoice::Uniferum(_)));
/// assert!(RunConfig::from_toml("[train]\nstep = 1").is_err());
/// # Ok::<(), uniferum_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Task ids and groups to train on; empty for every task that some training scan has a label or a
    /// mask for.
    pub tasks: Vec<String>,
    /// Memory for scans that were read, MiB.
    pub cache_mib: usize,
    /// What happens to a scan of training or validation that cannot be read: `stop`, which names it, or
    /// `skip-and-report`.
    pub on_error: OnError,
    /// The network.
    pub model: ModelChoice,
    /// Its first weights.
    pub init: Init,
    /// How scans become the model's arrays.
    pub input: InputSettings,
    /// Random changes of training samples.
    pub augment: Augment,
    /// The recipe.
    pub train: TrainConfig,
}

/// The network of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelChoice {
    /// The paper's model.
    Uniferum(UniferumConfig),
    /// The paper's multi-label baseline.
    Baseline(BaselineConfig),
}

impl Default for ModelChoice {
    fn default() -> Self {
        Self::Uniferum(UniferumConfig::default())
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            tasks: Vec::new(),
            cache_mib: 4096,
            on_error: OnError::default(),
            model: ModelChoice::default(),
            init: Init::default(),
            input: InputSettings::default(),
            augment: Augment::default(),
            train: TrainConfig::default(),
        }
    }
}

impl RunConfig {
    /// The paper's baseline: the multi-label network, whose learning rate falls on plateaus.
    pub fn baseline() -> Self {
        Self {
            model: ModelChoice::Baseline(BaselineConfig::default()),
            init: Init {
                text: NONE.into(),
                ..Init::default()
            },
            train: TrainConfig {
                schedule: crate::LearningRate::plateau(),
                // The rate falls at validations: as many as let it fall several times.
                validate_every: 500,
                ..TrainConfig::default()
            },
            ..Self::default()
        }
    }

    /// Reads a TOML or JSON file.
    ///
    /// # Errors
    /// [`Error::File`] with the place of an unknown field or a wrong value.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
        let is_json = path.extension().is_some_and(|e| e == "json");
        let read = if is_json {
            serde_json::from_str(&text).map_err(|e| e.to_string())
        } else {
            toml::from_str(&text).map_err(|e| e.to_string())
        };
        read.map_err(|what| Error::file(path, what.trim_end()))
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// [`Error::File`] with the place of an unknown field or a wrong value.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::file(Path::new("configuration"), e))
    }

    /// All settings as TOML.
    ///
    /// # Errors
    /// [`Error::File`] for a number that TOML has not.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::file(Path::new("configuration"), e))
    }

    /// Checks that the settings can work, before anything is read.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting, or the error of the part that refuses.
    pub fn validate(&self) -> Result<()> {
        self.train.validate()?;
        self.augment.validate()?;
        self.input.standardise.validate()?;
        self.input.transform.validate()?;
        match &self.model {
            ModelChoice::Uniferum(model) => model.validate()?,
            ModelChoice::Baseline(_) if self.init.checkpoint.is_some() => {
                let expected = "nothing: a baseline begins with init.vision";
                return Err(Error::config("init.checkpoint", expected, "a checkpoint"));
            }
            ModelChoice::Baseline(_) if self.train.lora.is_some() => {
                return Err(Error::config(
                    "lora",
                    "nothing: a baseline has no transformer",
                    "lora",
                ));
            }
            ModelChoice::Baseline(_) => {}
        }
        Ok(())
    }

    /// The same with the network of `init.checkpoint`, where there is one, as its own.
    ///
    /// # Errors
    /// [`Error::Model`] where the checkpoint cannot be read, [`Error::Config`] where another network is asked
    /// for.
    pub fn resolved(mut self) -> Result<Self> {
        if let (ModelChoice::Uniferum(model), Some(_)) = (&mut self.model, &self.init.checkpoint) {
            *model = self.init.model(model, &[])?.0;
        }
        Ok(self)
    }

    /// The same for a run that goes on: the network and the words are its checkpoint's, and its first
    /// weights are no longer needed.
    pub fn resumed(mut self, checkpoint: &Path) -> Self {
        let has_words = Prompts::find(checkpoint).is_ok();
        if matches!(self.model, ModelChoice::Uniferum(_)) && has_words {
            self.init = Init {
                checkpoint: Some(checkpoint.join(WEIGHTS)),
                ..Init::none()
            };
        } else if matches!(self.model, ModelChoice::Baseline(_)) {
            self.init = Init::none();
        }
        self
    }

    /// The tasks of a run over these scans.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is neither task nor group, or where nothing remains.
    pub fn select_tasks(&self, catalogue: &Catalogue, manifest: &Manifest) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        if self.tasks.is_empty() {
            tasks.extend(
                catalogue
                    .tasks()
                    .iter()
                    .filter(|t| has_answers(t, manifest)),
            );
        }
        for name in &self.tasks {
            let found = match catalogue.get(name) {
                Some(task) => vec![task],
                None => catalogue.group(name),
            };
            if found.is_empty() {
                return Err(Error::config(
                    "tasks",
                    "ids or groups of the catalogue",
                    name,
                ));
            }
            tasks.extend(found);
        }
        let baseline = matches!(self.model, ModelChoice::Baseline(_));
        tasks.retain(|t| !baseline || t.kind != TaskKind::Segmentation);
        if tasks.is_empty() {
            return Err(Error::config(
                "tasks",
                "at least one with an answer",
                "none",
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        tasks.retain(|t| seen.insert(t.id.clone()));
        Ok(tasks.into_iter().cloned().collect())
    }

    /// The scans and tasks of a run.
    ///
    /// # Errors
    /// [`Error::Data`] for a transform that does not fit the mask head.
    pub fn dataset(&self, manifest: Manifest, tasks: Vec<Task>) -> Result<Dataset> {
        let patch = match &self.model {
            ModelChoice::Uniferum(model) => model.patch,
            ModelChoice::Baseline(_) => UniferumConfig::default().patch,
        };
        let transform = self.input.transform.clone();
        let bytes = self.cache_mib << 20;
        let dataset = Dataset::new(manifest, tasks, transform, patch, bytes)?;
        Ok(dataset.with_spacing(self.input.standardise.spacing_mm))
    }

    /// Ids of a dataset's tasks that no training scan has a label or a mask for.
    pub fn unanswered<'a>(&self, dataset: &'a Dataset) -> Vec<&'a str> {
        let tasks = dataset.tasks.iter();
        let lacking = tasks.filter(|task| !has_answers(task, &dataset.manifest));
        lacking.map(|task| task.id.as_str()).collect()
    }

    /// Ids of a dataset's label tasks that have answers of one class alone among the training scans.
    pub fn one_sided<'a>(&self, dataset: &'a Dataset) -> Vec<&'a str> {
        let training = || {
            let scans = dataset.manifest.scans.iter();
            scans.filter(|s| s.split == Split::Train)
        };
        let has = |task: &Task, label| training().any(|s| s.labels.get(&task.id) == Some(&label));
        let one = |task: &&Task| has(task, true) != has(task, false);
        let tasks = dataset.tasks.iter().filter(one);
        tasks.map(|task| task.id.as_str()).collect()
    }

    /// The loader of a dataset's training scans.
    pub fn loader(&self, dataset: &Arc<Dataset>, device: &Device) -> Loader {
        let a = &self.augment;
        let shares = [
            a.rotate_probability,
            a.zoom_probability,
            a.noise_probability,
            a.offset_probability,
        ];
        Loader {
            dataset: Arc::clone(dataset),
            scans: dataset.manifest.of(Split::Train),
            sampler: self.train.sampler,
            augment: shares.iter().any(|p| *p > 0.0).then(|| a.clone()),
            scans_per_step: self.train.scans_per_step,
            questions_per_scan: self.train.questions_per_scan,
            seed: self.train.seed,
            device: device.clone(),
        }
    }

    /// A trainer with the first weights in place, which validates on the dataset's validation scans.
    ///
    /// `catalogue` lends its sentences to the tokenizer of a model that begins from nothing.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Init`] or [`Error::Model`]: nothing has been trained yet.
    pub fn trainer(
        &self,
        catalogue: &Catalogue,
        dataset: &Arc<Dataset>,
        device: &Device,
    ) -> Result<Trainer<Box<dyn Learner>>> {
        self.validate()?;
        let learner: Box<dyn Learner> = match &self.model {
            ModelChoice::Uniferum(wanted) => {
                Box::new(self.fusion(wanted, catalogue, dataset, device)?)
            }
            ModelChoice::Baseline(config) => {
                let config = config.clone().for_tasks(&dataset.tasks);
                let baseline = Baseline::new(&config, &self.train, device)?;
                if self.init.vision != NONE {
                    baseline.init_encoder(&self.init.vision_file()?)?;
                }
                Box::new(baseline)
            }
        };
        let mut trainer = Trainer::with(learner, self.train.clone(), device)?;
        trainer.set_input(self.input.clone());
        trainer.set_questions(self.questions(&dataset.tasks)?);
        trainer.set_stream(StreamOptions {
            on_error: self.on_error,
            ..StreamOptions::default()
        });
        let scans = dataset.manifest.of(Split::Val);
        if !scans.is_empty() {
            trainer.validate_on(label_tasks(dataset)?, scans)?;
        }
        Ok(trainer)
    }

    /// The questions of a run, behind those that its first weights learnt.
    fn questions(&self, tasks: &[Task]) -> Result<Vec<Task>> {
        let before = self.init.checkpoint.as_deref().map(trained::beside);
        let mut all = before.transpose()?.flatten().unwrap_or_default();
        let own: Vec<Task> = trained::unknown(tasks, &all).into_iter().cloned().collect();
        all.extend(own);
        Ok(all)
    }

    fn fusion(
        &self,
        wanted: &UniferumConfig,
        catalogue: &Catalogue,
        dataset: &Dataset,
        device: &Device,
    ) -> Result<Fusion> {
        let known = catalogue.tasks().iter().chain(&dataset.tasks);
        let sentences: Vec<&str> = known.map(|t| t.prompt.as_str()).collect();
        let (config, prompts): (_, Prompts) = self.init.model(wanted, &sentences)?;
        check_lengths(
            &prompts,
            &config,
            self.input.transform.shape,
            &dataset.tasks,
        )?;
        let fusion = Fusion::new(&config, prompts, &self.train, device)?;
        self.init.fill(fusion.variables(), &config)?;
        Ok(fusion)
    }
}

/// Refuses a question that does not fit behind the image's tokens, rather than in the step that first asks it.
fn check_lengths(
    prompts: &Prompts,
    config: &UniferumConfig,
    array: [usize; 3],
    tasks: &[Task],
) -> Result<()> {
    // Two learned tokens stand about the cells.
    let image = config.encoder.grid(array).iter().product::<usize>() + 2;
    let most = config.bert.max_positions.saturating_sub(image);
    for task in tasks {
        let words = prompts.encode(&[&task.prompt], &Device::Cpu)?.ids.dim(1)?;
        if words > most {
            let expected =
                format!("questions of at most {most} word pieces beside {image} image tokens");
            return Err(Error::config(
                "tasks",
                expected,
                format!("{words} of {}", task.id),
            ));
        }
    }
    Ok(())
}

/// Validation asks the label tasks: the macro AUROC is of labels.
fn label_tasks(dataset: &Arc<Dataset>) -> Result<Arc<Dataset>> {
    let labels = dataset.tasks.iter();
    let labels = labels.filter(|t| t.kind != TaskKind::Segmentation);
    let labels: Vec<Task> = labels.cloned().collect();
    if labels.is_empty() || labels.len() == dataset.tasks.len() {
        return Ok(Arc::clone(dataset));
    }
    Ok(Arc::new(dataset.asking(labels)?))
}

/// Whether some training scan has a label or a mask for the task.
fn has_answers(task: &Task, manifest: &Manifest) -> bool {
    let mut training = manifest.scans.iter().filter(|s| s.split == Split::Train);
    match task.kind {
        TaskKind::Segmentation if task.is_nodule() => training.any(|s| s.nodules.is_some()),
        TaskKind::Segmentation => training.any(|s| s.mask.is_some()),
        _ => training.any(|s| s.labels.contains_key(&task.id)),
    }
}

/// Reads a saved model of either kind with what its use needs: `model.safetensors`, or its folder.
///
/// # Errors
/// [`Error::Model`], also where the tokenizer is missing, or [`Error::File`].
pub fn open_model(path: &Path, device: &Device) -> Result<Box<dyn Learner>> {
    let file = locate(path);
    if Baseline::read_config(&file)?.is_some() {
        return Ok(Box::new(Baseline::load(&file, device)?));
    }
    let config = Init {
        checkpoint: Some(file),
        ..Init::none()
    };
    let (model, prompts) = config.model(&UniferumConfig::default(), &[])?;
    let fusion = Fusion::new(&model, prompts, &TrainConfig::default(), device)?;
    config.fill(fusion.variables(), &model)?;
    Ok(Box::new(fusion))
}
