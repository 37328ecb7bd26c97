//! Weight files of both common formats.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, pickle, safetensors};

use crate::error::{Error, Result};

/// Wrappers that training scripts put round a dictionary of weights.
const WRAPPERS: [&str; 3] = ["state_dict", "model", "state_dict_ema"];

/// Reads all tensors of a `.safetensors` file, or of a PyTorch file (`.bin`, `.pt`, `.pth`).
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
    if !path.is_file() {
        return Err(wrong("no such file".into()));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    if !matches!(extension, "bin" | "pt" | "pth" | "ckpt") {
        return safetensors::load(path, device)
            .map_err(|e| wrong(format!("not a safetensors file: {e}")));
    }
    let keys = std::iter::once(None).chain(WRAPPERS.map(Some));
    let mut reason = "no tensors inside".to_string();
    for key in keys {
        match pickle::read_all_with_key(path, key) {
            Ok(tensors) if !tensors.is_empty() => {
                let moved = tensors
                    .into_iter()
                    .map(|(name, tensor)| Ok((name, tensor.to_device(device)?)));
                return moved.collect();
            }
            Ok(_) => {}
            Err(error) if key.is_none() => reason = error.to_string(),
            Err(_) => {}
        }
    }
    Err(wrong(format!("not a PyTorch file of weights: {reason}")))
}
