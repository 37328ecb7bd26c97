//! Batch normalisation folded into the convolutions before it.

use candle_core::Tensor;
use uniferum_kernels::infer::{Affine, Head, MbConv, Stem};

use crate::block::{ConvNorm, InvertedResidual};
use crate::efficientnet::EfficientNet3d;
use crate::error::Result;

/// The whole network's folded weights.
pub(super) fn network(net: &EfficientNet3d) -> Result<(Stem, Vec<MbConv>, Head)> {
    let cfg = net.config();
    let stem = Stem {
        inputs: cfg.in_channels,
        outputs: cfg.stem_channels(),
        conv: conv(net.stem_layer())?,
    };
    let blocks: Vec<_> = net.blocks().iter().map(block).collect::<Result<_>>()?;
    let head = Head {
        inputs: blocks.last().map_or(cfg.stem_channels(), |b| b.outputs),
        outputs: cfg.out_channels(),
        conv: conv(net.head_layer())?,
    };
    Ok((stem, blocks, head))
}

fn block(block: &InvertedResidual) -> Result<MbConv> {
    let spec = block.spec();
    let layers = block.layers();
    let [squeeze, excite] = layers.squeeze_excite.layers();
    Ok(MbConv {
        inputs: spec.in_channels,
        middle: spec.mid_channels,
        squeezed: spec.se_channels,
        outputs: spec.out_channels,
        kernel: spec.kernel,
        stride: spec.stride,
        skip: spec.has_skip(),
        expand: layers.expand.map(conv).transpose()?,
        depthwise: conv(layers.depthwise)?,
        squeeze: plain(squeeze)?,
        excite: plain(excite)?,
        project: conv(layers.project)?,
    })
}

/// `scale * (W x) + shift` as one convolution.
fn conv(layer: &ConvNorm) -> Result<Affine> {
    let (scale, shift) = layer.norm().scale_and_shift()?;
    let mut weight = numbers(layer.weight())?;
    let row = weight.len() / scale.len();
    for (weight, scale) in weight.chunks_exact_mut(row).zip(&scale) {
        for w in weight {
            *w = (f64::from(*w) * scale) as f32;
        }
    }
    let bias = shift.into_iter().map(|v| v as f32).collect();
    Ok(Affine { weight, bias })
}

fn plain((weight, bias): (&Tensor, &Tensor)) -> Result<Affine> {
    Ok(Affine {
        weight: numbers(weight)?,
        bias: numbers(bias)?,
    })
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}
