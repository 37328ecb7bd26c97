//! What a model asks a builder for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::config::UniferumConfig;
use crate::error::Result;
use crate::model::Uniferum;

type Shapes = BTreeMap<String, Vec<usize>>;

/// Names and shapes of all tensors of a model's checkpoint.
///
/// ```
/// use uniferum_fusion::{UniferumConfig, checkpoint::tensor_shapes};
/// let shapes = tensor_shapes(&UniferumConfig::default())?;
/// assert_eq!(shapes["vision_model.lm_adaptor.0.weight"], [768, 1280]);
/// # Ok::<(), uniferum_fusion::Error>(())
/// ```
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an impossible configuration.
pub fn tensor_shapes(cfg: &UniferumConfig) -> Result<Shapes> {
    let seen = Arc::new(Mutex::new(Shapes::new()));
    let recorder = Recorder { seen: seen.clone() };
    let vb = VarBuilder::from_backend(Box::new(recorder), DType::F32, Device::Cpu);
    Uniferum::new(cfg, vb)?;
    let shapes = std::mem::take(&mut *seen.lock().unwrap_or_else(|e| e.into_inner()));
    Ok(shapes)
}

/// Notes each request and answers with a single zero, seen through the wanted shape.
struct Recorder {
    seen: Arc<Mutex<Shapes>>,
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        s: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        dev: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        seen.insert(name.to_string(), s.dims().to_vec());
        Tensor::zeros((), dtype, dev)?.broadcast_as(s)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} was asked for without its shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
