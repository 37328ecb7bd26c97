//! 2-D ImageNet weights for a 3-D network.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

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
