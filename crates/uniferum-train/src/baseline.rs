//! The paper's baseline: a 3-D EfficientNet with a logit for each task.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Init, VarBuilder, VarMap};
use serde::{Deserialize, Serialize};
use uniferum_ct::replace_atomically;
use uniferum_data::Batch;
use uniferum_encoder::{
    EfficientNet3d, EncoderConfig, load_pretrained, read_weights, seeded_var_builder,
    trainable_vars,
};
use uniferum_kernels as kernels;
use uniferum_metrics::losses::{LossConfig, MultitaskLoss};
use uniferum_tasks::{Task, TaskKind};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::evaluate::{Answer, values};
use crate::learner::{Examiner, Learner, WEIGHTS};

/// Sizes of the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaselineConfig {
    /// The convolutional network.
    pub encoder: EncoderConfig,
    /// Width between the head's two linear maps.
    pub hidden: usize,
    /// Probability with which both dropouts of the head drop.
    pub dropout: f64,
    /// The sentences that have an output, in the order of the outputs. Tasks of different collections
    /// with one sentence share an output. Empty: the label tasks of the run.
    pub questions: Vec<String>,
}

impl Default for BaselineConfig {
    /// EfficientNet-B0; the head's width and dropout are our choice, the paper does not tell them.
    fn default() -> Self {
        Self {
            encoder: EncoderConfig::default(),
            hidden: 512,
            dropout: 0.3,
            questions: Vec::new(),
        }
    }
}

impl BaselineConfig {
    /// With an output for each sentence among the label tasks.
    pub fn for_tasks(mut self, tasks: &[Task]) -> Self {
        if self.questions.is_empty() {
            for task in tasks.iter().filter(|t| t.kind != TaskKind::Segmentation) {
                if !self.questions.contains(&task.prompt) {
                    self.questions.push(task.prompt.clone());
                }
            }
        }
        self
    }

    fn validate(&self) -> Result<()> {
        self.encoder.validate()?;
        if self.hidden == 0 {
            return Err(Error::config("model.hidden", "1 or more", 0));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let expected = "from 0 to below 1";
            return Err(Error::config("model.dropout", expected, self.dropout));
        }
        if self.questions.is_empty() {
            return Err(Error::config(
                "model.questions",
                "at least one label task",
                "none",
            ));
        }
        Ok(())
    }
}

/// A multi-label network: convolutions, global average pooling, dropout, linear, ReLU, dropout, linear.
///
/// It sees no sentences: each sentence of its configuration has an output of its own.
///
/// # Reference
/// Section 4 of the paper.
pub struct Baseline {
    config: BaselineConfig,
    encoder: EfficientNet3d,
    head: [(Tensor, Tensor); 2],
    vars: VarMap,
    output_of: HashMap<String, u32>,
}

impl Baseline {
    /// A network with fresh weights, drawn from the recipe's seed.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that cannot be.
    pub fn new(config: &BaselineConfig, recipe: &TrainConfig, device: &Device) -> Result<Self> {
        config.validate()?;
        let vars = VarMap::new();
        let vb = seeded_var_builder(&vars, recipe.seed, DType::F32, device);
        let mut encoder = EfficientNet3d::new(&config.encoder, vb.pp("encoder"))?;
        encoder.freeze_statistics(recipe.freeze_statistics);
        let channels = config.encoder.out_channels();
        let outputs = config.questions.len();
        let head = [
            linear(channels, config.hidden, vb.pp("head.1"))?,
            linear(config.hidden, outputs, vb.pp("head.4"))?,
        ];
        let numbered = config.questions.iter().enumerate();
        Ok(Self {
            encoder,
            head,
            output_of: numbered.map(|(i, q)| (q.clone(), i as u32)).collect(),
            config: config.clone(),
            vars,
        })
    }

    /// Reads a network that [`Learner::save`] wrote.
    ///
    /// # Errors
    /// [`Error::File`] for files that are not a baseline's.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let config = Self::read_config(path)?
            .ok_or_else(|| Error::file(path, "no baseline: its JSON file is missing"))?;
        let model = Self::new(&config, &TrainConfig::default(), device)?;
        model.fill(path)?;
        Ok(model)
    }

    /// The configuration beside a file of weights, if it is a baseline's.
    ///
    /// # Errors
    /// [`Error::File`] for a configuration that cannot be read.
    pub fn read_config(path: &Path) -> Result<Option<BaselineConfig>> {
        let json = path.with_extension("json");
        let Ok(text) = std::fs::read_to_string(&json) else {
            return Ok(None);
        };
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|e| Error::file(&json, e))?;
        let Some(own) = value.get("baseline") else {
            return Ok(None);
        };
        let config = serde_json::from_value(own.clone()).map_err(|e| Error::file(&json, e))?;
        Ok(Some(config))
    }

    /// The configuration that the network was built from.
    pub fn config(&self) -> &BaselineConfig {
        &self.config
    }

    /// Logits of a batch of volumes; `seed` for training with dropout, none for evaluation.
    ///
    /// # Shapes
    /// `[B, 1, X, Y, Z]` to `[B, outputs]`.
    ///
    /// # Errors
    /// For a tensor that is not such a batch.
    pub fn forward(&self, images: &Tensor, seed: Option<u64>) -> Result<Tensor> {
        let features = self.encoder.forward_t(images, seed.is_some())?;
        // The head is of f32, whatever the image is of.
        let pooled = kernels::global_avg_pool3d(&features)?.to_dtype(DType::F32)?;
        let mut x = pooled.flatten_from(1)?;
        for (i, (weight, bias)) in self.head.iter().enumerate() {
            if i > 0 {
                x = x.relu()?;
            }
            if let Some(seed) = seed {
                let place = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                x = kernels::dropout(&x, self.config.dropout as f32, seed.wrapping_add(place))?;
            }
            let constant = |t: &Tensor| {
                if seed.is_some() {
                    t.clone()
                } else {
                    t.detach()
                }
            };
            x = x
                .matmul(&constant(weight).t()?)?
                .broadcast_add(&constant(bias))?;
        }
        Ok(x)
    }

    /// Fills the convolutions from a timm EfficientNet of ImageNet, inflated to 3-D.
    ///
    /// # Errors
    /// [`Error::Encoder`] where the file holds another network.
    pub fn init_encoder(&self, path: &Path) -> Result<()> {
        let weights = read_weights(path, &Device::Cpu)?;
        let loaded = load_pretrained(&weights, &self.config.encoder, &self.vars, "encoder");
        loaded.map_err(|e| Error::file(path, e))
    }

    fn fill(&self, path: &Path) -> Result<()> {
        let device = Device::Cpu;
        let found = read_weights(path, &device)?;
        let data = self.vars.data().lock().unwrap_or_else(|e| e.into_inner());
        if let Some(name) = found.keys().find(|name| !data.contains_key(*name)) {
            return Err(Error::file(path, format!("unexpected tensor {name}")));
        }
        for (name, var) in data.iter() {
            let tensor = found
                .get(name)
                .ok_or_else(|| Error::file(path, format!("no tensor {name}")))?;
            var.set(&tensor.to_device(var.device())?)
                .map_err(|e| Error::file(path, format!("{name}: {e}")))?;
        }
        Ok(())
    }
}

fn linear(inputs: usize, outputs: usize, vb: VarBuilder) -> Result<(Tensor, Tensor)> {
    let bound = 1.0 / (inputs as f64).sqrt();
    let uniform = Init::Uniform {
        lo: -bound,
        up: bound,
    };
    Ok((
        vb.get_with_hints((outputs, inputs), "weight", uniform)?,
        vb.get_with_hints(outputs, "bias", uniform)?,
    ))
}

impl std::fmt::Debug for Baseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("Baseline");
        fields.field("config", &self.config).finish_non_exhaustive()
    }
}

impl Learner for Baseline {
    fn variables(&self) -> &VarMap {
        &self.vars
    }

    fn trained(&self) -> Vec<(String, Var)> {
        trainable_vars(&self.vars)
    }

    fn encoder(&self) -> Option<(&EncoderConfig, &'static str)> {
        Some((&self.config.encoder, "encoder."))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!(self.config)
    }

    fn loss(&self, batch: &Batch, _: &LossConfig, seed: u64) -> Result<MultitaskLoss> {
        let outputs: Result<Vec<u32>> = batch
            .prompts
            .iter()
            .map(|prompt| {
                self.output_of.get(prompt).copied().ok_or_else(|| {
                    let expected = "only label tasks that the network has an output for";
                    Error::config("tasks of the baseline", expected, prompt)
                })
            })
            .collect();
        let outputs = outputs?;
        let index = Tensor::from_vec(outputs, (batch.prompts.len(), 1), batch.images.device())?;
        let logits = self.forward(&batch.images, Some(seed))?;
        let asked = logits.index_select(&batch.image_of, 0)?.gather(&index, 1)?;
        let losses = kernels::bce_with_logits(&asked.squeeze(1)?.contiguous()?, &batch.labels)?;
        Ok(MultitaskLoss {
            total: losses.mean_all()?,
            per_sample: losses.detach(),
        })
    }

    fn examiner<'a>(&'a self, tasks: &[Task]) -> Result<Examiner<'a>> {
        let outputs: Vec<Option<u32>> = tasks
            .iter()
            .map(|t| self.output_of.get(&t.prompt).copied())
            .collect();
        Ok(Box::new(move |image| {
            let logits = values(&self.forward(image, None)?)?;
            let answer = |output: &Option<u32>| match output {
                Some(output) => Answer::Label(logits[*output as usize]),
                None => Answer::None,
            };
            Ok(outputs.iter().map(answer).collect())
        }))
    }

    fn save(&self, path: &Path) -> Result<()> {
        let json = path.with_extension("json");
        let config = serde_json::json!({ "baseline": self.config });
        replace_atomically(&json, ".part", |part| {
            std::fs::write(part, format!("{config:#}\n"))
        })
        .map_err(|e| Error::file(&json, e))?;
        let save = |part: &Path| self.vars.save(part).map_err(std::io::Error::other);
        replace_atomically(path, ".safetensors", save).map_err(|e| Error::file(path, e))
    }

    fn save_state(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let path = folder.join(WEIGHTS);
        self.save(&path)?;
        Ok(vec![path.with_extension("json"), path])
    }

    fn load_state(&mut self, folder: &Path) -> Result<()> {
        self.fill(&folder.join(WEIGHTS))
    }
}
