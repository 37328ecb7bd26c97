//! The block on CUDA: the same passes and the same recomputation as on the CPU.
//!
//! Wide activations are `[B, channels, voxels]`; the expanded one, the largest of all, exists for
//! a group of channels at a time in either pass and is computed again in the backward pass.

mod backward;
mod forward;

use std::ops::Range;

use candle_core::{DType, Result};

use super::MbConv;
use super::plan::{LayerPlaces, Places, Plan};
use crate::batch_norm::cuda::{Norm, Rows, Source, constants};
use crate::cuda::{Arg, Buf, Gpu, Mat, Module, View, Weights, module};
use crate::depthwise::cuda::Sizes;

const MODULE: Module = module!("mbconv");

/// Elements of an expanded activation that exist at a time: 256 MiB of `f32`. Groups cost launches and a
/// pass over the block's input each, as long as one fills the device.
const GROUP: usize = 1 << 26;

/// What backward needs beside the input and the parameters.
pub(crate) struct Saved {
    expand: Option<Norm>,
    depthwise: Norm,
    project: Norm,
    excite: Excite,
    /// Outputs of the depthwise convolution, `[B, mid, voxels]`, and of the projection,
    /// `[B, c_out, voxels]`. A block without expansion computes them again: they are as large as its
    /// input, the largest that there is between blocks, and one convolution away from it.
    outputs: Option<(Buf, Buf)>,
}

/// What the gate was made of, `[B, mid]` and `[B, squeezed]`.
struct Excite {
    mean: Buf,
    hidden: Buf,
    gate: Buf,
}

/// A block with its sizes and its constant statistics, if it has any.
pub(crate) struct Planned {
    plan: Plan,
    constants: Option<Vec<Buf>>,
}

impl Planned {
    pub(crate) fn new(gpu: &Gpu, block: &MbConv<'_>, dims: &[usize]) -> Result<Self> {
        let plan = block.plan(dims)?;
        let given = block.given(&plan)?;
        let copied = |g: Vec<_>| g.into_iter().map(|pair| constants(gpu, pair)).collect();
        let constants = given.map(copied).transpose()?;
        Ok(Self { plan, constants })
    }

    /// Whether the block applies a norm and SiLU to its input as it reads: the depthwise convolution
    /// does, and nothing else must read the input.
    pub(crate) fn reads_normed(&self) -> bool {
        !self.plan.expands && !self.plan.residual
    }

    /// The output, what backward needs, and the statistics of the batch in order.
    pub(crate) fn forward(
        &self,
        gpu: &Gpu,
        weights: Weights,
        x: Source,
    ) -> Result<(Buf, Saved, Vec<Buf>)> {
        Block::new(gpu, &self.plan, weights, x).forward(self.constants.as_deref())
    }

    /// The gradient of the input, or where that is normed on the way of the norm's result; those of
    /// the parameters go to `grads`, which is zeros.
    pub(crate) fn backward(
        &self,
        gpu: &Gpu,
        (weights, x): (Weights, Source),
        saved: Saved,
        dy: View,
        grads: View,
    ) -> Result<Buf> {
        Block::new(gpu, &self.plan, weights, x).backward(saved, dy, grads)
    }

    pub(crate) fn out_dims(&self) -> Vec<usize> {
        let [d, h, w] = self.plan.geometry.output;
        vec![self.plan.batch, self.plan.c_out, d, h, w]
    }

    /// Values per channel of each norm that uses the batch's statistics.
    pub(crate) fn counts(&self) -> Vec<usize> {
        let plan = &self.plan;
        let expand = plan.expands.then(|| plan.in_columns());
        let all = expand.into_iter().chain([plan.out_columns(); 2]);
        all.filter(|_| self.constants.is_none()).collect()
    }
}

/// A block at work: the device, the sizes, and where parameters lie.
struct Block<'a> {
    gpu: &'a Gpu,
    plan: &'a Plan,
    places: Places,
    weights: Weights,
    x: Source,
}

impl<'a> Block<'a> {
    fn new(gpu: &'a Gpu, plan: &'a Plan, weights: Weights, x: Source) -> Self {
        Self {
            gpu,
            plan,
            places: plan.places(),
            weights,
            x,
        }
    }

    fn dtype(&self) -> DType {
        self.x.values.dtype
    }

    fn input(&self) -> (Arg, DType) {
        (Arg::from(self.x.values), self.dtype())
    }

    /// Parameters from element `at`.
    fn weight(&self, at: usize) -> Arg {
        Arg::Ptr(self.weights.exact.at(at))
    }

    /// Scale and shift of a layer's norm, from channel `first` on.
    fn affine(&self, layer: &LayerPlaces, first: usize) -> (Arg, Arg) {
        let at = |place: &Range<usize>| self.weight(place.start + first);
        (at(&layer.gamma), at(&layer.beta))
    }

    /// Rows of a channel each, before and behind the depthwise convolution.
    fn rows_in(&self, channels: usize) -> Rows {
        Rows::new(self.plan.batch, channels, self.plan.geometry.in_voxels())
    }

    fn rows_out(&self, channels: usize) -> Rows {
        Rows::new(self.plan.batch, channels, self.plan.geometry.out_voxels())
    }

    /// Groups of channels whose expanded activation fits the memory set aside for it.
    fn groups(&self) -> Vec<Range<usize>> {
        let most = (GROUP / self.plan.in_columns()).max(16);
        let count = self.plan.mid.div_ceil(most);
        (0..count)
            .map(|i| crate::parallel::part(self.plan.mid, i, count))
            .collect()
    }

    /// The depthwise convolution of `channels` channels of their own array, into or from an array
    /// of all.
    fn sizes(&self, channels: usize) -> Sizes {
        Sizes {
            y_sample: self.plan.mid * self.plan.geometry.out_voxels(),
            ..Sizes::new(self.plan.batch, channels, self.plan.geometry)
        }
    }

    /// A sample's channels of `[B, channels, voxels]` as a matrix.
    fn volumes(&self, ptr: u64, channels: usize, voxels: usize) -> Mat {
        Mat::new(ptr, self.dtype(), voxels, channels * voxels)
    }

    /// The expansion of a group of channels before its norm, `[B, channels, voxels]`.
    fn expanded(&self, weight: usize, group: &Range<usize>) -> Result<Buf> {
        let (c_in, n) = (self.plan.c_in, self.plan.geometry.in_voxels());
        let channels = group.len();
        let out = self
            .gpu
            .uninit(self.dtype(), self.plan.batch * channels * n)?;
        let w = self.weights.matrix(weight + group.start * c_in, c_in);
        let x = self.volumes(self.x.values.at(0), c_in, n);
        let y = self.volumes(out.at(0), channels, n);
        let sizes = [channels, n, c_in];
        self.gpu.gemm(w, x, y, sizes, self.plan.batch, false)?;
        Ok(out)
    }
}
