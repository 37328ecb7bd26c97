//! Layers on CUDA, each an operation of the graph: the blocks, whose insides are the largest, keep
//! little and compute the rest again.

use candle_core::{Result, Tensor};

use super::{ConvNormSilu, Stage};
use crate::batch_norm::batch_norm_silu;
use crate::conv3d::conv3d;
use crate::mbconv::{BatchStatistics, mbconv_on_cuda};

/// [`sequence`](super::sequence) on CUDA.
pub(super) fn sequence(x: &Tensor, stages: &[Stage<'_>]) -> Result<(Tensor, Vec<BatchStatistics>)> {
    let mut x = x.clone();
    let mut statistics = Vec::new();
    for stage in stages {
        let (y, own) = match stage {
            Stage::ConvNormSilu(layer) => conv_norm_silu(&x, layer)?,
            Stage::MbConv(block) => mbconv_on_cuda(&x, block)?,
        };
        x = y;
        statistics.extend(own);
    }
    Ok((x, statistics))
}

fn conv_norm_silu(x: &Tensor, layer: &ConvNormSilu<'_>) -> Result<(Tensor, Vec<BatchStatistics>)> {
    let conv = &layer.conv;
    let y = conv3d(x, conv.weight, None, &layer.cfg)?;
    let count = y.elem_count() / y.dim(1)?.max(1);
    let (y, made) = batch_norm_silu(&y, conv.gamma, conv.beta, conv.running, layer.eps)?;
    let own = made.map(|(mean, var)| BatchStatistics { mean, var, count });
    Ok((y, own.into_iter().collect()))
}
