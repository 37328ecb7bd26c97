//! Low-rank adapters of a frozen transformer.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Shape, Tensor, Var};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};
use serde::{Deserialize, Serialize};
use uniferum_encoder::seeded_var_builder;

use crate::error::{Error, Result};

/// Adapters of the transformer's matrices: `W + alpha / rank * B A`, of which `A` and `B` are trained.
///
/// # Reference
/// Hu et al., *LoRA*, ICLR 2022.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of `A` and columns of `B`.
    pub rank: usize,
    /// The product's weight is `alpha / rank`.
    pub alpha: f64,
    /// The matrices that get an adapter, in every layer.
    pub targets: Vec<LoraTarget>,
}

/// A matrix of a transformer layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoraTarget {
    /// Attention's queries.
    Query,
    /// Attention's keys.
    Key,
    /// Attention's values.
    Value,
    /// Attention's output.
    AttentionOutput,
    /// The first matrix of the feed-forward part.
    Intermediate,
    /// The second matrix of the feed-forward part.
    Output,
}

impl LoraTarget {
    /// The module's name inside a layer.
    fn module(self) -> &'static str {
        match self {
            Self::Query => "attention.self.query",
            Self::Key => "attention.self.key",
            Self::Value => "attention.self.value",
            Self::AttentionOutput => "attention.output.dense",
            Self::Intermediate => "intermediate.dense",
            Self::Output => "output.dense",
        }
    }
}

impl Default for LoraConfig {
    /// Rank 8 on queries and values.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            targets: vec![LoraTarget::Query, LoraTarget::Value],
        }
    }
}

impl LoraConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::config("lora.rank", "1 or more", 0));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::config("lora.alpha", "more than 0", self.alpha));
        }
        if self.targets.is_empty() {
            return Err(Error::config("lora.targets", "at least one", "none"));
        }
        Ok(())
    }
}

/// The adapters of one model.
#[derive(Clone)]
pub(crate) struct Adapter {
    config: LoraConfig,
    vars: VarMap,
    pairs: BTreeMap<String, (Var, Var)>,
}

impl Adapter {
    /// Adapters that change nothing yet: `B` is zero.
    pub(crate) fn new(
        config: &LoraConfig,
        base: &VarMap,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let vars = VarMap::new();
        let vb = seeded_var_builder(&vars, seed, DType::F32, device);
        let mut pairs = BTreeMap::new();
        for (name, outputs, inputs) in targets(config, base) {
            let bound = 1.0 / (inputs as f64).sqrt();
            let uniform = Init::Uniform {
                lo: -bound,
                up: bound,
            };
            let a_name = format!("{name}.lora_A");
            let b_name = format!("{name}.lora_B");
            let (a_shape, b_shape) = ((config.rank, inputs), (outputs, config.rank));
            vb.pp(&a_name).get_with_hints(a_shape, "weight", uniform)?;
            let zero = Init::Const(0.0);
            vb.pp(&b_name).get_with_hints(b_shape, "weight", zero)?;
            let var = |stem: &str| {
                vars.data()
                    .lock()
                    .ok()?
                    .get(&format!("{stem}.weight"))
                    .cloned()
            };
            if let (Some(a), Some(b)) = (var(&a_name), var(&b_name)) {
                pairs.insert(format!("{name}.weight"), (a, b));
            }
        }
        Ok(Self {
            config: config.clone(),
            vars,
            pairs,
        })
    }

    /// The trained variables.
    pub(crate) fn named_variables(&self) -> Vec<(String, Var)> {
        uniferum_encoder::trainable_vars(&self.vars)
    }

    /// A builder of the model with adapters over constant transformer weights.
    pub(crate) fn builder(&self, base: &VarMap, device: &Device) -> VarBuilder<'static> {
        let backend = Adapted {
            base: base.clone(),
            adapter: self.clone(),
        };
        VarBuilder::from_backend(Box::new(backend), DType::F32, device.clone())
    }

    /// The base's tensors with the adapters added to their matrices.
    pub(crate) fn merged(&self, base: &VarMap) -> Result<HashMap<String, Tensor>> {
        let data = base.data().lock().unwrap_or_else(|e| e.into_inner());
        let merge = |(name, var): (&String, &Var)| -> Result<(String, Tensor)> {
            let tensor = self.added(name, var.as_tensor().detach())?.detach();
            Ok((name.clone(), tensor))
        };
        data.iter().map(merge).collect()
    }

    fn added(&self, name: &str, weight: Tensor) -> candle_core::Result<Tensor> {
        let Some((a, b)) = self.pairs.get(name) else {
            return Ok(weight);
        };
        let scale = self.config.alpha / self.config.rank as f64;
        weight + b.matmul(a)?.affine(scale, 0.0)?
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        self.vars.save(path).map_err(|e| Error::file(path, e))
    }

    pub(crate) fn load(&self, path: &Path) -> Result<()> {
        let found =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| Error::file(path, e))?;
        for (name, var) in self.named_variables() {
            let tensor = found
                .get(&name)
                .ok_or_else(|| Error::file(path, format!("no adapter {name}")))?;
            let tensor = tensor.to_device(var.device())?;
            var.set(&tensor).map_err(|e| Error::file(path, e))?;
        }
        Ok(())
    }

    /// Writes `adapter_model.safetensors` and `adapter_config.json` as Hugging Face's PEFT names them.
    pub(crate) fn export(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        let named = self.named_variables();
        let tensors: HashMap<String, Tensor> = named
            .into_iter()
            .map(|(name, var)| (format!("base_model.model.{name}"), var.as_tensor().detach()))
            .collect();
        let path = folder.join("adapter_model.safetensors");
        candle_core::safetensors::save(&tensors, &path).map_err(|e| Error::file(&path, e))?;
        let modules = self.config.targets.iter().map(|t| t.module());
        let config = serde_json::json!({
            "peft_type": "LORA",
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "target_modules": modules.collect::<Vec<_>>(),
        });
        let path = folder.join("adapter_config.json");
        std::fs::write(&path, format!("{config:#}\n")).map_err(|e| Error::file(&path, e))
    }
}

/// Name without `.weight`, outputs and inputs of every matrix that gets an adapter.
fn targets(config: &LoraConfig, base: &VarMap) -> Vec<(String, usize, usize)> {
    let data = base.data().lock().unwrap_or_else(|e| e.into_inner());
    let mut found: Vec<(String, usize, usize)> = data
        .iter()
        .filter_map(|(name, var)| {
            let rest = name.strip_prefix("model.encoder.layer.")?;
            let module = rest.split_once('.')?.1.strip_suffix(".weight")?;
            let wanted = config.targets.iter().any(|t| t.module() == module);
            let (outputs, inputs) = var.dims2().ok().filter(|_| wanted)?;
            Some((name.strip_suffix(".weight")?.to_owned(), outputs, inputs))
        })
        .collect();
    found.sort();
    found
}

struct Adapted {
    base: VarMap,
    adapter: Adapter,
}

impl SimpleBackend for Adapted {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let weight = self.base.get(shape, name, init, dtype, device)?;
        if !name.starts_with("model.") {
            return Ok(weight);
        }
        self.adapter.added(name, weight.detach())
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without its shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        let data = self.base.data().lock().unwrap_or_else(|e| e.into_inner());
        data.contains_key(name)
    }
}
