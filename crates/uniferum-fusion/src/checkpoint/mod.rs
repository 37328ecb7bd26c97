//! Reading and writing whole models with the public checkpoints' tensor names.
//!
//! A checkpoint is a `.safetensors` file with its configuration beside it: `best.json`
//! beside `best.safetensors`, or one `model.json` for the folder. A bare file of the public
//! shape needs no configuration; PyTorch's own `.bin` and `.pth` files are read as well.

mod expected;
mod infer;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use uniferum_encoder::read_weights;

use crate::config::UniferumConfig;
use crate::error::{Error, Result, file};

pub use expected::tensor_shapes;
pub use infer::infer_config;
pub(crate) use infer::{HEAD_WIDTH, infer_bert};

/// The file inside a folder that is given in place of a checkpoint.
const FILE_NAME: &str = "model.safetensors";
const CONFIG_NAME: &str = "model.json";

/// A checkpoint read into memory and checked against its configuration.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The model's configuration.
    pub config: UniferumConfig,
    /// All tensors of the model, none missing and none besides.
    pub tensors: HashMap<String, Tensor>,
}

/// Reads a checkpoint strictly.
///
/// `path` is a file, or a folder with a `model.safetensors`. Tensors are converted to
/// `f32`. The second BERT that the public release's class inherits and never uses
/// (`embeddings.*`, `encoder.*`, `pooler.*`) is ignored, and the batch norms' counters may
/// be missing.
///
/// # Errors
/// [`Error::Checkpoint`] listing missing, unexpected and misshapen tensors; [`Error::File`]
/// for a file that cannot be read; [`Error::Config`] when there is no configuration and the
/// shapes do not tell it.
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Checkpoint> {
    let path = locate(path.as_ref());
    let mut tensors = read(&path, device)?;
    let config = match read_config(&path)? {
        Some(config) => config,
        None => infer_config(&tensors)?,
    };
    check(&path, &config, &mut tensors)?;
    Ok(Checkpoint { config, tensors })
}

/// Fills the variables of an existing model from a checkpoint, as strictly as [`load`].
///
/// Nothing is changed unless everything fits.
///
/// # Errors
/// As [`load`].
pub fn load_into(path: impl AsRef<Path>, vars: &VarMap, config: &UniferumConfig) -> Result<()> {
    let path = locate(path.as_ref());
    let mut tensors = read(&path, &Device::Cpu)?;
    check(&path, config, &mut tensors)?;
    let data = vars.data().lock().unwrap_or_else(|e| e.into_inner());
    let absent: Vec<String> = tensors
        .keys()
        .filter(|n| !data.contains_key(*n))
        .cloned()
        .collect();
    if !absent.is_empty() {
        return Err(Error::Checkpoint {
            path,
            missing: Vec::new(),
            unexpected: sorted(absent),
            mismatched: Vec::new(),
        });
    }
    for (name, tensor) in &tensors {
        let var = &data[name];
        var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
    }
    Ok(())
}

/// Writes the variables of a model, and its configuration beside them.
///
/// Both files appear under a temporary name first, so that a run that dies here leaves the
/// previous ones whole.
///
/// # Errors
/// [`Error::Checkpoint`] when `vars` is not a model of this configuration, [`Error::File`]
/// when a file cannot be written.
pub fn save(path: impl AsRef<Path>, vars: &VarMap, config: &UniferumConfig) -> Result<()> {
    let path = path.as_ref();
    let mut tensors: HashMap<String, Tensor> = {
        let data = vars.data().lock().unwrap_or_else(|e| e.into_inner());
        data.iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().detach()))
            .collect()
    };
    save_tensors(path, &mut tensors, config)
}

/// As [`save`], for tensors that are not variables, for example averaged weights.
///
/// # Errors
/// As [`save`].
pub fn save_tensors(
    path: impl AsRef<Path>,
    tensors: &mut HashMap<String, Tensor>,
    config: &UniferumConfig,
) -> Result<()> {
    let path = path.as_ref();
    check(path, config, tensors)?;
    let sorted: BTreeMap<&String, &Tensor> = tensors.iter().collect();
    // Hugging Face's loader refuses files that do not name their origin.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(sorted, Some(metadata)).map_err(|e| file(path, e))?;
    write_atomically(path, &bytes)?;
    let json = serde_json::to_string_pretty(config).map_err(|e| file(path, e))?;
    write_atomically(&path.with_extension("json"), (json + "\n").as_bytes())
}

/// The configuration that lies beside a checkpoint, if one does.
///
/// # Errors
/// [`Error::File`] when it cannot be read or has fields that a configuration has not.
pub fn read_config(checkpoint: impl AsRef<Path>) -> Result<Option<UniferumConfig>> {
    let checkpoint = locate(checkpoint.as_ref());
    let own = checkpoint.with_extension("json");
    let shared = checkpoint.with_file_name(CONFIG_NAME);
    let Some(path) = [own, shared].into_iter().find(|p| p.is_file()) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&path).map_err(|e| file(&path, e))?;
    let config: UniferumConfig = serde_json::from_str(&text)
        .map_err(|e| file(&path, format!("not a model configuration: {e}")))?;
    config.validate()?;
    Ok(Some(config))
}

/// The file of a model's weights: the path itself, or in the folder that it is.
pub fn locate(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(FILE_NAME)
    } else {
        path.to_path_buf()
    }
}

fn read(path: &Path, device: &Device) -> Result<HashMap<String, Tensor>> {
    let mut tensors = read_weights(path, device)?;
    tensors.retain(|name, _| !is_unused(name));
    Ok(tensors)
}

/// Names that public checkpoints carry and no forward pass reads.
fn is_unused(name: &str) -> bool {
    let unused = ["embeddings.", "encoder.", "pooler."];
    unused.iter().any(|prefix| name.starts_with(prefix)) || name.ends_with(".position_ids")
}

/// Compares names and shapes with the model's, adds counters that are missing, and converts
/// to the model's types.
fn check(path: &Path, cfg: &UniferumConfig, tensors: &mut HashMap<String, Tensor>) -> Result<()> {
    let expected = tensor_shapes(cfg)?;
    let mut missing = Vec::new();
    let mut mismatched = Vec::new();
    for (name, shape) in &expected {
        match tensors.get(name) {
            Some(found) if found.dims() != shape => {
                let found = found.dims();
                mismatched.push(format!("{name} (expected {shape:?}, got {found:?})"));
            }
            Some(_) => {}
            None if is_counter(name) => {
                let zero = Tensor::zeros((), DType::I64, &Device::Cpu)?;
                tensors.insert(name.clone(), zero);
            }
            None => missing.push(name.clone()),
        }
    }
    let unexpected = tensors
        .keys()
        .filter(|n| !expected.contains_key(*n))
        .cloned();
    let unexpected = sorted(unexpected.collect());
    if !(missing.is_empty() && mismatched.is_empty() && unexpected.is_empty()) {
        return Err(Error::Checkpoint {
            path: path.to_path_buf(),
            missing,
            unexpected,
            mismatched,
        });
    }
    for (name, tensor) in tensors.iter_mut() {
        let dtype = if is_counter(name) {
            DType::I64
        } else {
            DType::F32
        };
        *tensor = tensor.to_dtype(dtype)?;
    }
    Ok(())
}

fn is_counter(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut partial = path.as_os_str().to_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let write = || -> std::io::Result<()> {
        let mut out = std::fs::File::create(&partial)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|e| file(path, e))
}
