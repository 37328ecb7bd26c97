//! One layer of a sequence, whatever its kind.

use candle_core::Result;

use super::{ConvNorm, Stage};
use crate::batch_norm::norm::Statistics;
use crate::mbconv;
use crate::memory::Scratch;

/// A layer with all its sizes known.
pub(super) enum Layer {
    Conv(ConvNorm),
    MbConv(mbconv::Planned),
}

/// What a layer's backward pass needs beside its input and parameters.
pub(super) enum Kept {
    Conv(<ConvNorm as Differentiable>::Kept),
    MbConv(<mbconv::Planned as Differentiable>::Kept),
}

/// A function of an input and parameters, and its derivative, over `f32` slices.
pub(crate) trait Differentiable {
    type Kept;

    /// The output, what backward needs, and the statistics that each norm used.
    fn forward(&self, weights: &[f32], x: &[f32]) -> (Scratch, Self::Kept, Vec<Statistics>);

    /// The input's gradient, if wanted; writes the parameters' to `grads`.
    fn backward(
        &self,
        weights: &[f32],
        x: &[f32],
        kept: Self::Kept,
        dy: Scratch,
        grads: &mut [f32],
        want_dx: bool,
    ) -> Scratch;

    fn out_dims(&self) -> Vec<usize>;

    /// Values per channel of each norm.
    fn counts(&self) -> Vec<usize>;

    /// Whether the norms use the batch's own statistics.
    fn of_batch(&self) -> bool;
}

impl Layer {
    pub(super) fn new(stage: &Stage<'_>, dims: &[usize]) -> Result<Self> {
        Ok(match stage {
            Stage::ConvNormSilu(stage) => Self::Conv(ConvNorm::new(stage, dims)?),
            Stage::MbConv(block) => Self::MbConv(mbconv::Planned::new(block, dims)?),
        })
    }

    pub(super) fn forward(&self, weights: &[f32], x: &[f32]) -> (Scratch, Kept, Vec<Statistics>) {
        match self {
            Self::Conv(layer) => {
                let (y, kept, statistics) = layer.forward(weights, x);
                (y, Kept::Conv(kept), statistics)
            }
            Self::MbConv(layer) => {
                let (y, kept, statistics) = layer.forward(weights, x);
                (y, Kept::MbConv(kept), statistics)
            }
        }
    }

    pub(super) fn backward(
        &self,
        weights: &[f32],
        x: &[f32],
        kept: Kept,
        dy: Scratch,
        grads: &mut [f32],
        want_dx: bool,
    ) -> Scratch {
        match (self, kept) {
            (Self::Conv(layer), Kept::Conv(kept)) => {
                layer.backward(weights, x, kept, dy, grads, want_dx)
            }
            (Self::MbConv(layer), Kept::MbConv(kept)) => {
                layer.backward(weights, x, kept, dy, grads, want_dx)
            }
            _ => unreachable!("each layer gets what it kept itself"),
        }
    }

    pub(super) fn out_dims(&self) -> Vec<usize> {
        match self {
            Self::Conv(layer) => layer.out_dims(),
            Self::MbConv(layer) => layer.out_dims(),
        }
    }

    pub(super) fn counts(&self) -> Vec<usize> {
        match self {
            Self::Conv(layer) => layer.counts(),
            Self::MbConv(layer) => layer.counts(),
        }
    }

    pub(super) fn of_batch(&self) -> bool {
        match self {
            Self::Conv(layer) => layer.of_batch(),
            Self::MbConv(layer) => layer.of_batch(),
        }
    }
}
