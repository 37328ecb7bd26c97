//! What the trainer needs of a model, and Uniferum as such a model.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use uniferum_data::Batch;
use uniferum_encoder::{EncoderConfig, seeded_var_builder};
use uniferum_fusion::{Freeze, Prompts, Uniferum, UniferumConfig, checkpoint, trainable_vars};
use uniferum_metrics::losses::{LossConfig, MultitaskLoss, Targets, multitask_loss};
use uniferum_tasks::{Task, TaskKind};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::evaluate::{Answer, values};
use crate::lora::Adapter;

/// Asks a list of tasks of one image tensor `[1, 1, X, Y, Z]`; an answer a task.
pub type Examiner<'a> = Box<dyn Fn(&Tensor) -> Result<Vec<Answer>> + 'a>;

/// A model that the trainer can train.
pub trait Learner {
    /// All variables, running statistics among them.
    fn variables(&self) -> &VarMap;

    /// The variables to train, sorted by name.
    fn trained(&self) -> Vec<(String, Var)>;

    /// The image encoder, and what the names of its variables begin with.
    fn encoder(&self) -> Option<(&EncoderConfig, &'static str)> {
        None
    }

    /// The network's settings, which must be the same when a run goes on; null where nothing is compared.
    fn settings(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// The loss of a pass, with dropout drawn from the seed.
    ///
    /// # Errors
    /// For a batch that the model cannot answer.
    fn loss(&self, batch: &Batch, config: &LossConfig, seed: u64) -> Result<MultitaskLoss>;

    /// Asks tasks in evaluation, with the weights as they are now.
    ///
    /// # Errors
    /// For sentences that cannot be read.
    fn examiner<'a>(&'a self, tasks: &[Task]) -> Result<Examiner<'a>>;

    /// Writes the model for use, with everything besides the weights that its use needs.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) or the model's own.
    fn save(&self, path: &Path) -> Result<()>;

    /// Writes the weights for going on, into the folder of a checkpoint; returns the files.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    fn save_state(&self, folder: &Path) -> Result<Vec<PathBuf>>;

    /// Reads what [`save_state`](Self::save_state) wrote.
    ///
    /// # Errors
    /// Where the folder holds another model.
    fn load_state(&mut self, folder: &Path) -> Result<()>;

    /// Takes note that the weights have changed from outside or by training.
    ///
    /// # Errors
    /// When the model cannot be built.
    fn refresh(&mut self) -> Result<()> {
        Ok(())
    }

    /// Writes adapters alone, with their values as they are now, in the layout of Hugging Face's PEFT; false
    /// where there are none.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File).
    fn export_adapter(&self, _folder: &Path) -> Result<bool> {
        Ok(false)
    }
}

impl Learner for Box<dyn Learner> {
    fn variables(&self) -> &VarMap {
        (**self).variables()
    }

    fn trained(&self) -> Vec<(String, Var)> {
        (**self).trained()
    }

    fn encoder(&self) -> Option<(&EncoderConfig, &'static str)> {
        (**self).encoder()
    }

    fn settings(&self) -> serde_json::Value {
        (**self).settings()
    }

    fn loss(&self, batch: &Batch, config: &LossConfig, seed: u64) -> Result<MultitaskLoss> {
        (**self).loss(batch, config, seed)
    }

    fn examiner<'a>(&'a self, tasks: &[Task]) -> Result<Examiner<'a>> {
        (**self).examiner(tasks)
    }

    fn save(&self, path: &Path) -> Result<()> {
        (**self).save(path)
    }

    fn save_state(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        (**self).save_state(folder)
    }

    fn load_state(&mut self, folder: &Path) -> Result<()> {
        (**self).load_state(folder)
    }

    fn refresh(&mut self) -> Result<()> {
        (**self).refresh()
    }

    fn export_adapter(&self, folder: &Path) -> Result<bool> {
        (**self).export_adapter(folder)
    }
}

/// Copies the image encoder of one model into another, running statistics included.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) where the encoders differ, or a model has none.
pub fn copy_encoder(from: &dyn Learner, to: &dyn Learner) -> Result<()> {
    let (Some((theirs, prefix)), Some((own, own_prefix))) = (from.encoder(), to.encoder()) else {
        return Err(Error::config(
            "encoder to copy",
            "one in both models",
            "none",
        ));
    };
    if own != theirs {
        let (expected, got) = (format!("{own:?}"), format!("{theirs:?}"));
        return Err(Error::config("encoder to copy", expected, got));
    }
    let lock = |vars: &VarMap| {
        let data = vars.data().lock().unwrap_or_else(|e| e.into_inner());
        data.clone()
    };
    let (theirs, own) = (lock(from.variables()), lock(to.variables()));
    for (name, var) in &own {
        let Some(name) = name.strip_prefix(own_prefix) else {
            continue;
        };
        let name = format!("{prefix}{name}");
        let found = theirs.get(&name);
        let found = found.ok_or_else(|| Error::config("encoder to copy", &name, "nothing"))?;
        var.set(&found.as_tensor().to_device(var.device())?)?;
    }
    Ok(())
}

pub(crate) const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
const ADAPTER: &str = "lora.safetensors";

/// Uniferum with its tokenizer.
pub struct Fusion {
    pub(crate) model: Uniferum,
    pub(crate) config: UniferumConfig,
    pub(crate) prompts: Prompts,
    vars: VarMap,
    adapter: Option<Adapter>,
    freeze: Freeze,
    freeze_statistics: bool,
    device: Device,
}

impl Fusion {
    /// A model with fresh weights, drawn from the recipe's seed.
    ///
    /// # Errors
    /// For a model that cannot be, or a tokenizer of another model.
    pub fn new(
        config: &UniferumConfig,
        prompts: Prompts,
        recipe: &TrainConfig,
        device: &Device,
    ) -> Result<Self> {
        prompts.check(&config.bert)?;
        let vars = VarMap::new();
        let vb = seeded_var_builder(&vars, recipe.seed, DType::F32, device);
        let model = Uniferum::new(config, vb)?;
        let adapter = match &recipe.lora {
            Some(lora) => Some(Adapter::new(lora, &vars, recipe.seed, device)?),
            None => None,
        };
        let mut fusion = Self {
            model,
            config: config.clone(),
            prompts,
            vars,
            adapter,
            freeze: recipe.freeze,
            freeze_statistics: recipe.freeze_statistics,
            device: device.clone(),
        };
        fusion.prepare();
        Ok(fusion)
    }

    fn prepare(&mut self) {
        // With adapters the builder hands out constants; what remains in the graph is to be trained.
        let freeze = match self.adapter {
            Some(_) => Freeze::None,
            None => self.freeze,
        };
        self.model.set_freeze(freeze);
        self.model.freeze_statistics(self.freeze_statistics);
    }

    /// The model with its adapters as they are now, in the graph.
    fn adapted(&self, adapter: &Adapter) -> Result<Uniferum> {
        let vb = adapter.builder(&self.vars, &self.device);
        let mut model = Uniferum::new(&self.config, vb)?;
        model.set_freeze(Freeze::None);
        model.freeze_statistics(self.freeze_statistics);
        Ok(model)
    }
}

impl std::fmt::Debug for Fusion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("Fusion");
        fields.field("config", &self.config).finish_non_exhaustive()
    }
}

impl Learner for Fusion {
    fn variables(&self) -> &VarMap {
        &self.vars
    }

    fn trained(&self) -> Vec<(String, Var)> {
        let mut named = trainable_vars(&self.vars, self.freeze);
        if let Some(adapter) = &self.adapter {
            named.extend(adapter.named_variables());
            named.sort_by(|a, b| a.0.cmp(&b.0));
        }
        named
    }

    fn encoder(&self) -> Option<(&EncoderConfig, &'static str)> {
        Some((&self.config.encoder, "vision_model.model."))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!(self.config)
    }

    fn loss(&self, batch: &Batch, config: &LossConfig, seed: u64) -> Result<MultitaskLoss> {
        let adapted;
        let model = match &self.adapter {
            Some(adapter) => {
                adapted = self.adapted(adapter)?;
                &adapted
            }
            None => &self.model,
        };
        // A resumed run drops what it would have dropped.
        model.set_dropout_seed(seed);
        let text = self.prompts.encode(&batch.prompts, batch.images.device())?;
        let tokens = model
            .vision()
            .forward_t(&batch.images, true)
            .map_err(uniferum_fusion::Error::from)?;
        // One encoding answers all questions about its scan.
        let tokens = tokens.index_select(&batch.image_of, 0)?;
        let output = model.ask_t(&tokens, &text.ids, &text.mask)?;
        let targets = Targets {
            labels: &batch.labels,
            masks: &batch.masks,
            is_segmentation: &batch.is_segmentation,
        };
        Ok(multitask_loss(&output.cls, &output.seg, &targets, config)?)
    }

    fn examiner<'a>(&'a self, tasks: &[Task]) -> Result<Examiner<'a>> {
        let model = match &self.adapter {
            Some(adapter) => self.adapted(adapter)?,
            None => self.model.clone(),
        };
        examiner(model, &self.prompts, tasks, &self.device)
    }

    fn save(&self, path: &Path) -> Result<()> {
        match &self.adapter {
            Some(adapter) => {
                let mut merged = adapter.merged(&self.vars)?;
                checkpoint::save_tensors(path, &mut merged, &self.config)?;
            }
            None => checkpoint::save(path, &self.vars, &self.config)?,
        }
        Ok(self.prompts.save(path.with_file_name(TOKENIZER))?)
    }

    fn save_state(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let weights = folder.join(WEIGHTS);
        checkpoint::save(&weights, &self.vars, &self.config)?;
        let words = folder.join(TOKENIZER);
        self.prompts.save(&words)?;
        let mut files = vec![weights, words];
        if let Some(adapter) = &self.adapter {
            files.push(folder.join(ADAPTER));
            adapter.save(&folder.join(ADAPTER))?;
        }
        Ok(files)
    }

    fn load_state(&mut self, folder: &Path) -> Result<()> {
        checkpoint::load_into(folder.join(WEIGHTS), &self.vars, &self.config)?;
        if let Some(adapter) = &self.adapter {
            adapter.load(&folder.join(ADAPTER))?;
        }
        self.refresh()
    }

    fn refresh(&mut self) -> Result<()> {
        if let Some(adapter) = &self.adapter {
            self.model = self.adapted(adapter)?;
        }
        Ok(())
    }

    fn export_adapter(&self, folder: &Path) -> Result<bool> {
        let Some(adapter) = &self.adapter else {
            return Ok(false);
        };
        adapter.export(folder)?;
        Ok(true)
    }
}

/// Asks tasks of a model: each scan is encoded once.
pub(crate) fn examiner<'a>(
    model: Uniferum,
    prompts: &Prompts,
    tasks: &[Task],
    device: &Device,
) -> Result<Examiner<'a>> {
    // Each question is asked of the head that answers it.
    let is_mask = |t: &&Task| t.kind == TaskKind::Segmentation;
    let text = |wanted: bool| -> Result<Option<uniferum_fusion::PromptBatch>> {
        let asked = tasks.iter().filter(|t| is_mask(t) == wanted);
        let sentences: Vec<&str> = asked.map(|t| t.prompt.as_str()).collect();
        match sentences.is_empty() {
            true => Ok(None),
            false => Ok(Some(prompts.encode(&sentences, device)?)),
        }
    };
    let (labels, cells) = (text(false)?, text(true)?);
    let masks: Vec<bool> = tasks.iter().map(|t| is_mask(&t)).collect();
    Ok(Box::new(move |image| {
        let tokens = model.encode(image)?;
        let logits = match &labels {
            Some(text) => values(&model.classify(&tokens, &text.ids, &text.mask)?)?,
            None => Vec::new(),
        };
        let cells = match &cells {
            Some(text) => {
                let cells = model.segment(&tokens, &text.ids, &text.mask)?;
                cells.flatten_from(1)?.to_vec2::<f32>()?
            }
            None => Vec::new(),
        };
        let (mut logits, mut cells) = (logits.into_iter(), cells.into_iter());
        Ok(masks
            .iter()
            .filter_map(|is_mask| match is_mask {
                true => cells.next().map(Answer::Mask),
                false => logits.next().map(Answer::Label),
            })
            .collect())
    }))
}
