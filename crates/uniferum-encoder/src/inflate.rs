//! 2-D ImageNet weights for a 3-D network.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use candle_nn::VarMap;

use crate::config::EncoderConfig;
use crate::error::{Error, Result};

/// Turns the weights of a 2-D timm EfficientNet into those of a 3-D one of the same variant.
///
/// Convolution kernels are [inflated](inflate_kernel); the stem, which saw red, green and
/// blue, is summed to the one channel of CT. The classifier is left out and names stay as
/// they are, so that the result fits [`EfficientNet3d::new`](crate::EfficientNet3d::new)
/// through `VarBuilder::from_tensors`.
///
/// # Shapes
/// `[O, I, K, K]` to `[O, I, K, K, K]`; vectors stay.
///
/// # Errors
/// [`Error::Weights`] when a convolution is not square or the stem's channels fit neither
/// the image nor a sum.
///
/// # Reference
/// Carreira and Zisserman, *Quo Vadis, Action Recognition?*, CVPR 2017, section 2.4.
pub fn inflate_imagenet(
    weights: &HashMap<String, Tensor>,
    cfg: &EncoderConfig,
) -> Result<HashMap<String, Tensor>> {
    let mut inflated = HashMap::new();
    for (name, tensor) in weights {
        if name.starts_with("classifier.") {
            continue;
        }
        let tensor = match tensor.rank() {
            4 if name == "conv_stem.weight" => {
                inflate_kernel(name, &fit_stem(name, tensor, cfg.in_channels)?)?
            }
            4 => inflate_kernel(name, tensor)?,
            _ => tensor.clone(),
        };
        inflated.insert(name.clone(), tensor);
    }
    Ok(inflated)
}

/// Fills the variables of a network from pre-trained weights, 2-D or 3-D, for fine-tuning.
///
/// `prefix` is the network's place in `vars`: `""` alone, `"vision_model.model"` inside a
/// whole model. Either every variable is filled or none. Of the weights of a whole model, such as a
/// checkpoint of Uniferum, the part is taken that has the network's stem.
///
/// ```no_run
/// use candle_core::{DType, Device};
/// use candle_nn::VarMap;
/// use uniferum_encoder::*;
/// # fn main() -> Result<()> {
/// let (cfg, vars) = (EncoderConfig::default(), VarMap::new());
/// let vb = seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu);
/// let net = EfficientNet3d::new(&cfg, vb)?;
/// load_pretrained(&read_weights("tf_efficientnet_b0.safetensors", &Device::Cpu)?, &cfg, &vars, "")?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::Weights`] naming what is missing, has another shape or has no place in the
/// network.
pub fn load_pretrained(
    weights: &HashMap<String, Tensor>,
    cfg: &EncoderConfig,
    vars: &VarMap,
    prefix: &str,
) -> Result<()> {
    let weights = inflate_imagenet(&part_of(weights), cfg)?;
    let data = vars.data().lock().unwrap_or_else(|e| e.into_inner());
    let mut missing = Vec::new();
    let mut found = Vec::new();
    for (full, var) in data.iter() {
        let Some(name) = strip(full, prefix) else {
            continue;
        };
        match weights.get(name) {
            Some(tensor) if tensor.dims() != var.dims() => {
                let expected =
                    format!("{:?}, as EfficientNet {:?} has it", var.dims(), cfg.variant);
                return Err(bad(name, &expected, tensor.dims()));
            }
            Some(tensor) => found.push((var, tensor)),
            None if name.ends_with("num_batches_tracked") => {}
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        missing.sort_unstable();
        let (some, more) = (missing.len().min(3), missing.len().saturating_sub(3));
        let mut name = missing[..some].join(", ");
        if more > 0 {
            name.push_str(&format!(" and {more} more"));
        }
        return Err(Error::Weights {
            name,
            expected: format!("the weights of EfficientNet {:?}", cfg.variant),
            got: "a file without them".into(),
        });
    }
    for name in weights.keys() {
        let full = [prefix, name].join(if prefix.is_empty() { "" } else { "." });
        if !data.contains_key(&full) && !name.ends_with("num_batches_tracked") {
            let expected = format!("only weights of EfficientNet {:?}", cfg.variant);
            return Err(bad(name, &expected, weights[name].dims()));
        }
    }
    for (var, tensor) in found {
        var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
    }
    Ok(())
}

/// The weights of the network, without the name of its place in a whole model.
fn part_of(weights: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    let places = weights
        .keys()
        .filter_map(|name| name.strip_suffix("conv_stem.weight"));
    let place = places.filter(|place| place.ends_with('.')).min();
    match place {
        Some(place) if !weights.contains_key("conv_stem.weight") => {
            let own = weights.iter().filter_map(|(name, tensor)| {
                Some((name.strip_prefix(place)?.to_owned(), tensor.clone()))
            });
            own.collect()
        }
        _ => weights.clone(),
    }
}

fn strip<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    if prefix.is_empty() {
        return Some(name);
    }
    name.strip_prefix(prefix)?.strip_prefix('.')
}

/// Repeats a `K x K` kernel `K` times along a new last axis and divides by `K`, so that the
/// response to a volume that is constant along that axis stays the same.
///
/// # Shapes
/// `[O, I, K, K]` to `[O, I, K, K, K]`.
///
/// # Errors
/// [`Error::Weights`] naming `name` when the kernel is not square.
pub fn inflate_kernel(name: &str, kernel: &Tensor) -> Result<Tensor> {
    let dims = kernel.dims();
    let &[o, i, k, width] = dims else {
        return Err(bad(name, "a kernel [O, I, K, K]", dims));
    };
    if k != width || k == 0 {
        return Err(bad(name, "a square kernel [O, I, K, K]", dims));
    }
    let stacked = kernel
        .to_dtype(DType::F32)?
        .unsqueeze(4)?
        .broadcast_as((o, i, k, k, k))?;
    Ok(stacked.contiguous()?.affine(1.0 / k as f64, 0.0)?)
}

fn fit_stem(name: &str, kernel: &Tensor, channels: usize) -> Result<Tensor> {
    let found = kernel.dim(1)?;
    if found == channels {
        return Ok(kernel.clone());
    }
    if channels == 1 {
        return Ok(kernel.to_dtype(DType::F32)?.sum_keepdim(1)?);
    }
    let expected = format!("{channels} input channels, or 1 wanted");
    Err(bad(name, &expected, kernel.dims()))
}

fn bad(name: &str, expected: &str, dims: &[usize]) -> Error {
    Error::Weights {
        name: name.to_string(),
        expected: expected.to_string(),
        got: format!("{dims:?}"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_volume_constant_along_the_new_axis_answers_as_its_slice() {
        let kernel = Tensor::new(&[[[[1f32, 2.0], [3.0, 6.0]]]], &Device::Cpu).unwrap();
        let cube = inflate_kernel("k", &kernel).unwrap();
        assert_eq!(cube.dims(), [1, 1, 2, 2, 2]);
        let along = cube.sum(4).unwrap().flatten_all().unwrap();
        assert_eq!(along.to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0, 6.0]);
    }

    #[test]
    fn kernels_that_are_not_square_are_refused() {
        let kernel = Tensor::zeros((1, 1, 3, 5), DType::F32, &Device::Cpu).unwrap();
        let error = inflate_kernel("conv.weight", &kernel)
            .unwrap_err()
            .to_string();
        assert!(error.contains("conv.weight"), "{error}");
    }

    #[test]
    fn a_whole_model_gives_its_network() {
        let (one, device) = (
            || Tensor::ones(1, DType::F32, &Device::Cpu).unwrap(),
            &Device::Cpu,
        );
        let other = Tensor::zeros(2, DType::F32, device).unwrap();
        let name = |name: &str| name.to_owned();
        let whole = HashMap::from([
            (name("vision.model.conv_stem.weight"), one()),
            (name("vision.model.bn1.bias"), one()),
            (name("bert.word.weight"), other),
        ]);
        let mut part: Vec<String> = part_of(&whole).into_keys().collect();
        part.sort();
        assert_eq!(part, ["bn1.bias", "conv_stem.weight"]);
        let alone = HashMap::from([(name("conv_stem.weight"), one()), (name("a"), one())]);
        assert_eq!(part_of(&alone).len(), 2);
    }

    #[test]
    fn a_colour_stem_serves_one_channel() {
        let stem = Tensor::ones((4, 3, 3, 3), DType::F32, &Device::Cpu).unwrap();
        let weights = HashMap::from([
            ("conv_stem.weight".to_string(), stem.clone()),
            ("classifier.weight".to_string(), stem),
        ]);
        let grey = inflate_imagenet(&weights, &EncoderConfig::default()).unwrap();
        assert_eq!(grey.len(), 1);
        assert_eq!(grey["conv_stem.weight"].dims(), [4, 1, 3, 3, 3]);
        let two = EncoderConfig {
            in_channels: 2,
            ..EncoderConfig::default()
        };
        assert!(inflate_imagenet(&weights, &two).is_err());
    }
}
