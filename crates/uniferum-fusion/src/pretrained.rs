//! Starting from published weights instead of from nothing.
//!
//! The paper starts its image encoder from ImageNet and its transformer from the first
//! layers of a published BERT. Both are read here under the names that their publishers
//! gave them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use serde::Deserialize;
use uniferum_encoder::{load_pretrained, read_weights};

use crate::bert::Bert;
use crate::checkpoint::{HEAD_WIDTH, infer_bert};
use crate::config::{BertConfig, NormPlacement, UniferumConfig};
use crate::error::{Error, Result, file};

/// Names under which publishers store weights, the safer first.
const FILE_NAMES: [&str; 2] = ["model.safetensors", "pytorch_model.bin"];
/// The last part of the first name of every BERT.
const WORDS: &str = "embeddings.word_embeddings.weight";

/// Fills the image encoder of a model from timm's ImageNet EfficientNet of the same variant.
///
/// 2-D kernels are inflated to 3-D; the classifier is left out.
///
/// # Errors
/// When the file cannot be read or holds another network.
///
/// # Reference
/// Section 3.1 of the paper.
pub fn init_image_encoder(
    path: impl AsRef<Path>,
    vars: &VarMap,
    cfg: &UniferumConfig,
) -> Result<()> {
    let path = path.as_ref();
    let weights = read_weights(path, &Device::Cpu)?;
    let loaded = load_pretrained(&weights, &cfg.encoder, vars, "vision_model.model");
    loaded.map_err(|error| Error::File {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// A published text encoder: BERT, PubMedBERT, MiniLM, GatorTron and their kin.
///
/// ```no_run
/// use candle_core::{DType, Device};
/// use candle_nn::VarMap;
/// use uniferum_encoder::seeded_var_builder;
/// use uniferum_fusion::{Uniferum, UniferumConfig, pretrained::TextEncoder};
/// # fn main() -> uniferum_fusion::Result<()> {
/// let text = TextEncoder::read("PubMedBERT/", 4)?;
/// let cfg = UniferumConfig { bert: text.config().clone(), ..Default::default() };
/// let vars = VarMap::new();
/// let model = Uniferum::new(&cfg, seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu))?;
/// text.init(&vars, &cfg)?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct TextEncoder {
    config: BertConfig,
    tensors: HashMap<String, Tensor>,
}

impl TextEncoder {
    /// Reads a file of weights, or a folder as Hugging Face lays it out, and keeps the first
    /// `layers` layers.
    ///
    /// A `config.json` beside the weights tells the number of heads; without one they are
    /// taken to be 64 wide.
    ///
    /// # Errors
    /// [`Error::File`] when a file cannot be read or describes another kind of network,
    /// [`Error::Checkpoint`] listing the weights that are missing.
    pub fn read(path: impl AsRef<Path>, layers: usize) -> Result<Self> {
        let path = locate(path.as_ref())?;
        let tensors = read_weights(&path, &Device::Cpu)?;
        let published = Published::beside(&path)?;
        Self::from_published(tensors, published, &path, layers)
    }

    /// As [`read`](Self::read), from tensors that are in memory under their published names,
    /// with heads 64 wide.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_tensors(tensors: HashMap<String, Tensor>, layers: usize) -> Result<Self> {
        Self::from_published(tensors, None, Path::new("tensors"), layers)
    }

    fn from_published(
        tensors: HashMap<String, Tensor>,
        published: Option<Published>,
        path: &Path,
        layers: usize,
    ) -> Result<Self> {
        let prefix = prefix(&tensors, path)?;
        let mut kept = HashMap::new();
        for (name, tensor) in tensors {
            let Some(name) = name.strip_prefix(&prefix).map(modern_name) else {
                continue;
            };
            if belongs(&name, layers) {
                kept.insert(name, tensor.to_dtype(DType::F32)?);
            }
        }
        let mut config = infer_bert(&kept, "")?;
        match published {
            Some(published) => published.apply(&mut config),
            None if !config.hidden.is_multiple_of(HEAD_WIDTH) => {
                let width = config.hidden;
                let reason = format!("a width of {width} needs a config.json with its heads");
                return Err(file(path, reason));
            }
            None => {}
        }
        config.validate()?;
        let encoder = Self {
            config,
            tensors: kept,
        };
        encoder.check(path, layers)?;
        Ok(encoder)
    }

    /// The transformer's sizes.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The encoder by itself, for text.
    ///
    /// # Errors
    /// [`Error::Candle`] when the file had no pooler.
    pub fn build(&self, device: &Device) -> Result<Bert> {
        let vb = VarBuilder::from_tensors(self.tensors.clone(), DType::F32, device);
        Bert::new(&self.config, vb)
    }

    /// Fills the transformer of a model.
    ///
    /// A pooler that the file lacks stays as it is.
    ///
    /// # Errors
    /// [`Error::Config`] when the model's transformer has other sizes.
    pub fn init(&self, vars: &VarMap, cfg: &UniferumConfig) -> Result<()> {
        let same_shapes = BertConfig {
            dropout: cfg.bert.dropout,
            eps: cfg.bert.eps,
            ..self.config.clone()
        };
        if cfg.bert != same_shapes {
            return Err(Error::Config {
                field: "bert",
                expected: format!("the sizes of the published weights, {:?}", self.config),
                got: format!("{:?}", cfg.bert),
            });
        }
        let data = vars.data().lock().unwrap_or_else(|e| e.into_inner());
        for (name, tensor) in &self.tensors {
            if let Some(var) = data.get(&format!("model.{name}")) {
                var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
            }
        }
        Ok(())
    }

    /// Lists the weights that a BERT of this size has and the file has not.
    fn check(&self, path: &Path, layers: usize) -> Result<()> {
        let wanted = UniferumConfig {
            bert: BertConfig {
                layers,
                ..self.config.clone()
            },
            ..UniferumConfig::default()
        };
        let mut missing = Vec::new();
        let mut mismatched = Vec::new();
        for (name, shape) in crate::checkpoint::tensor_shapes(&wanted)? {
            let Some(name) = name.strip_prefix("model.") else {
                continue;
            };
            match self.tensors.get(name) {
                Some(found) if found.dims() != shape => {
                    let found = found.dims();
                    mismatched.push(format!("{name} (expected {shape:?}, got {found:?})"));
                }
                None if !name.starts_with("pooler.") => missing.push(name.to_string()),
                Some(_) | None => {}
            }
        }
        if missing.is_empty() && mismatched.is_empty() {
            return Ok(());
        }
        Err(Error::Checkpoint {
            path: path.to_path_buf(),
            missing,
            unexpected: Vec::new(),
            mismatched,
        })
    }
}

/// What a publisher's `config.json` says beyond the shapes.
#[derive(Debug, Clone, Deserialize)]
struct Published {
    model_type: Option<String>,
    num_attention_heads: Option<usize>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_dropout_prob: Option<f64>,
    position_embedding_type: Option<String>,
}

impl Published {
    fn beside(weights: &Path) -> Result<Option<Self>> {
        let path = weights.with_file_name("config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|e| file(&path, e))?;
        let config: Self = serde_json::from_str(&text)
            .map_err(|e| file(&path, format!("not a BERT configuration: {e}")))?;
        for (field, found, known) in [
            (
                "model_type",
                &config.model_type,
                ["bert", "megatron-bert"].as_slice(),
            ),
            ("hidden_act", &config.hidden_act, &["gelu"]),
            (
                "position_embedding_type",
                &config.position_embedding_type,
                &["absolute"],
            ),
        ] {
            if let Some(found) = found.as_deref().filter(|f| !known.contains(f)) {
                let expected = known.join(" or ");
                let reason = format!("{field}: expected {expected}, got {found}");
                return Err(file(&path, reason));
            }
        }
        Ok(Some(config))
    }

    fn apply(self, config: &mut BertConfig) {
        config.heads = self.num_attention_heads.unwrap_or(config.heads);
        config.eps = self.layer_norm_eps.unwrap_or(config.eps);
        config.dropout = self.hidden_dropout_prob.unwrap_or(config.dropout);
        if self.model_type.as_deref() == Some("megatron-bert") {
            config.norm = NormPlacement::Pre;
        }
    }
}

fn locate(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let mut candidates = FILE_NAMES.iter().map(|name| path.join(name));
    candidates.find(|p| p.is_file()).ok_or_else(|| {
        file(
            path,
            format!("no {} in this folder", FILE_NAMES.join(" or ")),
        )
    })
}

/// Weights converted from TensorFlow call a norm's weight gamma and its bias beta.
fn modern_name(name: &str) -> String {
    if let Some(stem) = name.strip_suffix("LayerNorm.gamma") {
        return format!("{stem}LayerNorm.weight");
    }
    if let Some(stem) = name.strip_suffix("LayerNorm.beta") {
        return format!("{stem}LayerNorm.bias");
    }
    name.to_string()
}

/// Whether a weight is part of an encoder of so many layers, and not of a head above it.
fn belongs(name: &str, layers: usize) -> bool {
    if let Some(rest) = name.strip_prefix("encoder.layer.") {
        let index = rest.split('.').next().and_then(|i| i.parse::<usize>().ok());
        return index.is_some_and(|i| i < layers);
    }
    let kept = ["embeddings.", "encoder.ln.", "pooler.dense."];
    kept.iter().any(|prefix| name.starts_with(prefix)) && !name.ends_with("position_ids")
}

/// What stands before the names of the only BERT among the tensors.
fn prefix(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<String> {
    let mut found: Vec<&str> = tensors
        .keys()
        .filter_map(|name| name.strip_suffix(WORDS))
        .collect();
    found.sort_unstable();
    match found[..] {
        [prefix] => Ok(prefix.to_string()),
        [] => {
            let reason = format!("not a BERT: no tensor is called {WORDS}");
            Err(file(path, reason))
        }
        _ => {
            let names = found.iter().map(|prefix| format!("{prefix}{WORDS}"));
            let names = names.collect::<Vec<_>>().join(", ");
            let reason = format!("expected one BERT, got {}: {names}", found.len());
            Err(file(path, reason))
        }
    }
}
