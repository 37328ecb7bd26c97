//! Weight files of the common formats.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::{Device, Tensor, pickle, safetensors};

use crate::error::{Error, Result};
use crate::legacy;

/// Wrappers that training scripts put round a dictionary of weights.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "state_dict_ema"];

/// Reads all tensors of a `.safetensors` file, or of a PyTorch file (`.bin`, `.pt`, `.pth`,
/// `.ckpt`) of the zip format or the older one.
///
/// Of a PyTorch file only tensors are read; nothing in it is executed.
///
/// # Errors
/// [`Error::File`] when the file cannot be read or is of neither format.
pub fn read_weights(path: impl AsRef<Path>, device: &Device) -> Result<HashMap<String, Tensor>> {
    let path = path.as_ref();
    let wrong = |reason: String| Error::File {
        path: path.to_path_buf(),
        reason,
    };
    if path.is_dir() {
        return Err(wrong(
            "a folder: expected a file in it, such as model.safetensors".into(),
        ));
    }
    if !path.is_file() {
        return Err(wrong("no such file".into()));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    if !matches!(extension, "bin" | "pt" | "pth" | "ckpt") {
        return safetensors::load(path, device)
            .map_err(|e| wrong(format!("not a safetensors file: {e}")));
    }
    let tensors = read_pickled(path)
        .map_err(|reason| wrong(format!("not a PyTorch file of weights: {reason}")))?;
    let moved = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(device)?)));
    moved.collect()
}

/// The content of a file of the older format; nothing for a zip archive, which is read in parts.
fn not_zip(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.by_ref().take(2).read_to_end(&mut bytes)?;
    if bytes == b"PK" {
        return Ok(None);
    }
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn read_pickled(path: &Path) -> Result<Vec<(String, Tensor)>, String> {
    let bytes = not_zip(path).map_err(|e| e.to_string())?;
    let mut reason = "no tensors inside".to_string();
    for key in std::iter::once(None).chain(WRAPPERS.map(Some)) {
        let read = match &bytes {
            Some(bytes) => legacy::read(bytes, key),
            None => pickle::read_all_with_key(path, key),
        };
        match read {
            Ok(tensors) if !tensors.is_empty() => return Ok(tensors),
            Err(error) if key.is_none() => reason = error.to_string(),
            Ok(_) | Err(_) => {}
        }
    }
    Err(reason)
}
