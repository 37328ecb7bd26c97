//! Layers on CUDA as one operation: what passes between them and back is never a node of the graph,
//! so that no gradient is added to zeros, which took a tenth of a step.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result, Tensor};

use super::{ConvNormSilu, OP, Stage};
use crate::batch_norm::cuda::{
    Norm, Rows, norm_back, norm_gradient, normalise, prepare, slope_sums, statistics,
};
use crate::conv3d::{Conv3d, cuda::Convolution};
use crate::cuda::{Arg, Buf, Gpu, View, record2};
use crate::mbconv::{BatchStatistics, PlannedOnCuda, SavedOnCuda};

/// Mean and biased variance of each channel.
type Statistics = (Buf, Buf);

/// [`sequence`](super::sequence) on CUDA.
pub(super) fn sequence(x: &Tensor, stages: &[Stage<'_>]) -> Result<(Tensor, Vec<BatchStatistics>)> {
    let (layers, parts, dims) = Layers::new(x, stages)?;
    if parts.is_empty() {
        return Ok((x.clone(), Vec::new()));
    }
    let (x, weights) = (x.contiguous()?, Tensor::cat(&parts, 0)?.contiguous()?);
    let gpu = Gpu::of(OP, &x)?;
    let (value, passed, own) = {
        let (xs, ws) = (gpu.read(&x)?, gpu.read_f32(&weights)?);
        layers.forward(&gpu, View::from(&ws), View::from(&xs))?
    };
    let counts = layers.0.iter().flat_map(|(layer, _)| layer.counts());
    let made = own.into_iter().zip(counts).map(made).collect();
    let passed = Mutex::new(Some(passed));
    let backward = move |[x, weights]: [&Tensor; 2], dy: &Tensor| {
        let gpu = Gpu::of(OP, dy)?;
        let (xs, ws, dys) = (gpu.read(x)?, gpu.read_f32(weights)?, gpu.read(dy)?);
        let (xs, ws) = (View::from(&xs), View::from(&ws));
        // A second pass over the same graph finds nothing kept and computes it again.
        let kept = passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = match kept {
            Some(kept) => kept,
            None => layers.forward(&gpu, ws, xs)?.1,
        };
        let grads = gpu.zeros(DType::F32, ws.len)?;
        let to = View::from(&grads);
        let dx = layers.backward(&gpu, (ws, xs), kept, (View::from(&dys), to), x.track_op())?;
        let dw = weights.track_op().then(|| grads.tensor(weights.shape()));
        Ok([dx.map(|dx| dx.tensor(x.shape())), dw])
    };
    Ok((record2(OP, value, dims, [&x, &weights], backward)?, made))
}

fn made(((mean, var), count): (Statistics, usize)) -> BatchStatistics {
    let channels = mean.len;
    BatchStatistics {
        mean: mean.tensor(channels),
        var: var.tensor(channels),
        count,
    }
}

/// Layers, each with the place of its parameters.
struct Layers(Vec<(Layer, Range<usize>)>);

/// What a layer was given, unless it was the operation's own input, and what it kept.
type Passed = (Option<Buf>, Kept);

impl Layers {
    /// Also all parameters, flat and in order, and the dimensions of the output.
    fn new(x: &Tensor, stages: &[Stage<'_>]) -> Result<(Self, Vec<Tensor>, Vec<usize>)> {
        let (mut layers, mut parts, mut end) = (Vec::new(), Vec::new(), 0);
        let mut dims = x.dims().to_vec();
        for (i, stage) in stages.iter().enumerate() {
            let layer = Layer::new(stage, &dims, i > 0 || x.track_op())?;
            dims = layer.out_dims();
            let own = stage.parts().into_iter().map(Tensor::flatten_all);
            let own: Vec<Tensor> = own.collect::<Result<_>>()?;
            let count: usize = own.iter().map(Tensor::elem_count).sum();
            parts.extend(own);
            layers.push((layer, end..end + count));
            end += count;
        }
        Ok((Self(layers), parts, dims))
    }

    /// The output, what backward needs, and the batch's statistics.
    fn forward(
        &self,
        gpu: &Gpu,
        weights: View,
        x: View,
    ) -> Result<(Buf, Vec<Passed>, Vec<Statistics>)> {
        let (mut passed, mut made) = (Vec::new(), Vec::new());
        let mut input: Option<Buf> = None;
        for (layer, place) in &self.0 {
            let x = input.as_ref().map_or(x, View::from);
            let (y, kept, own) = layer.forward(gpu, weights.part(place), x)?;
            made.extend(own);
            passed.push((input.replace(y), kept));
        }
        let output = input.map_or_else(|| gpu.uninit(x.dtype, 0), Ok)?;
        Ok((output, passed, made))
    }

    /// The gradient of the input, if wanted; those of the parameters go to `grads`.
    fn backward(
        &self,
        gpu: &Gpu,
        (weights, x): (View, View),
        mut passed: Vec<Passed>,
        (dy, grads): (View, View),
        want_dx: bool,
    ) -> Result<Option<Buf>> {
        let mut gradient: Option<Buf> = None;
        for (layer, place) in self.0.iter().rev() {
            let Some((input, kept)) = passed.pop() else {
                break;
            };
            let wanted = want_dx || input.is_some();
            let both = (weights.part(place), input.as_ref().map_or(x, View::from));
            let dy = gradient.as_ref().map_or(dy, View::from);
            gradient = layer.backward(gpu, both, kept, (dy, grads.part(place)), wanted)?;
        }
        Ok(gradient)
    }
}

/// A layer with all its sizes known.
enum Layer {
    Conv(Box<ConvNorm>),
    MbConv(Box<PlannedOnCuda>),
}

/// What a layer's backward pass needs beside its input and parameters.
enum Kept {
    Conv(Box<(Buf, Norm)>),
    MbConv(Box<SavedOnCuda>),
}

impl Layer {
    /// `track` for a layer whose input has a gradient.
    fn new(stage: &Stage<'_>, dims: &[usize], track: bool) -> Result<Self> {
        Ok(match stage {
            Stage::ConvNormSilu(stage) => Self::Conv(Box::new(ConvNorm::new(stage, dims, track)?)),
            Stage::MbConv(block) => Self::MbConv(Box::new(PlannedOnCuda::new(block, dims)?)),
        })
    }

    fn forward(&self, gpu: &Gpu, weights: View, x: View) -> Result<(Buf, Kept, Vec<Statistics>)> {
        match self {
            Self::Conv(layer) => layer.forward(gpu, weights, x),
            Self::MbConv(layer) => {
                let (y, saved, own) = layer.forward(gpu, weights, x)?;
                Ok((y, Kept::MbConv(Box::new(saved)), own))
            }
        }
    }

    fn backward(
        &self,
        gpu: &Gpu,
        (weights, x): (View, View),
        kept: Kept,
        (dy, grads): (View, View),
        want_dx: bool,
    ) -> Result<Option<Buf>> {
        match (self, kept) {
            (Self::Conv(layer), Kept::Conv(kept)) => {
                layer.backward(gpu, (weights, x), &kept, (dy, grads), want_dx)
            }
            (Self::MbConv(layer), Kept::MbConv(saved)) => layer
                .backward(gpu, (weights, x), *saved, dy, grads)
                .map(Some),
            _ => unreachable!("each layer gets what it kept itself"),
        }
    }

    fn out_dims(&self) -> Vec<usize> {
        match self {
            Self::Conv(layer) => layer.dims.to_vec(),
            Self::MbConv(layer) => layer.out_dims(),
        }
    }

    /// Values per channel of each norm that uses the batch's statistics.
    fn counts(&self) -> Vec<usize> {
        match self {
            Self::Conv(layer) => layer.counts(),
            Self::MbConv(layer) => layer.counts(),
        }
    }
}

/// Convolution, batch normalisation and SiLU; only the convolution's output is kept.
struct ConvNorm {
    convolution: Convolution,
    dims: [usize; 5],
    rows: Rows,
    running: Option<(Tensor, Tensor)>,
    eps: f64,
    /// Elements of the convolution's weight.
    weight: usize,
}

impl ConvNorm {
    fn new(stage: &ConvNormSilu<'_>, dims: &[usize], track: bool) -> Result<Self> {
        let tensors = &stage.conv;
        let conv = Conv3d::new(dims, tensors.weight.dims(), &stage.cfg)?;
        super::conv_norm::check_norm(tensors, conv.c_out)?;
        // Later updates of the running statistics must not reach the backward pass.
        let copied = |(mean, var): (&Tensor, &Tensor)| {
            Ok::<_, candle_core::Error>((mean.detach().copy()?, var.detach().copy()?))
        };
        Ok(Self {
            dims: conv.out_dims(),
            rows: Rows::new(conv.batch, conv.c_out, conv.geometry.out_voxels()),
            convolution: Convolution::new(conv, track),
            running: tensors.running.map(copied).transpose()?,
            eps: stage.eps,
            weight: tensors.weight.elem_count(),
        })
    }

    /// The convolution's weight, and the places of gamma and beta.
    fn split(&self, weights: View) -> (View, usize, usize) {
        let gamma = self.weight;
        (weights.part(&(0..gamma)), gamma, gamma + self.rows.channels)
    }

    fn counts(&self) -> Vec<usize> {
        let own = self.rows.samples * self.rows.voxels;
        self.running.is_none().then_some(own).into_iter().collect()
    }

    fn forward(&self, gpu: &Gpu, weights: View, x: View) -> Result<(Buf, Kept, Vec<Statistics>)> {
        let (weight, gamma, beta) = self.split(weights);
        let inner = self.convolution.forward(gpu, x, weight, None)?;
        let input = (Arg::from(&inner), inner.dtype);
        let affine = (Arg::Ptr(weights.at(gamma)), Arg::Ptr(weights.at(beta)));
        let (norm, made) = match &self.running {
            Some((mean, var)) => {
                let mean = gpu.copy(&gpu.read_f32(mean)?)?;
                let var = gpu.read_f32(var)?;
                let norm = prepare(gpu, mean, Arg::from(&var), affine, self.eps, 0)?;
                (norm, Vec::new())
            }
            None => {
                let (mean, var) = statistics(gpu, &self.rows, input)?;
                let own = gpu.copy_buf(&mean)?;
                let count = self.rows.samples * self.rows.voxels;
                let norm = prepare(gpu, own, Arg::from(&var), affine, self.eps, count)?;
                (norm, vec![(mean, var)])
            }
        };
        let y = gpu.uninit(inner.dtype, inner.len)?;
        let none = (Arg::NULL, Arg::NULL);
        normalise(gpu, &self.rows, &norm, input, true, none, &y)?;
        Ok((y, Kept::Conv(Box::new((inner, norm))), made))
    }

    fn backward(
        &self,
        gpu: &Gpu,
        (weights, x): (View, View),
        (inner, norm): &(Buf, Norm),
        (dy, grads): (View, View),
        want_dx: bool,
    ) -> Result<Option<Buf>> {
        let (weight, gamma, beta) = self.split(weights);
        let inputs = (Arg::from(dy), Arg::from(inner), inner.dtype);
        let (sums, _) = slope_sums(gpu, &self.rows, norm, inputs, true)?;
        let own = norm_gradient(gpu, &self.rows, norm, &sums, None)?;
        gpu.copy_into(&own.gamma, grads, gamma)?;
        gpu.copy_into(&own.beta, grads, beta)?;
        let dinner = gpu.uninit(inner.dtype, inner.len)?;
        let to = Arg::from(&dinner);
        norm_back(gpu, &self.rows, (norm, &own), inputs, true, None, to)?;
        let slope = View::from(&dinner);
        let dweight = self.convolution.grad_weight(gpu, x, slope)?;
        gpu.copy_into(&dweight, grads, 0)?;
        let dx = || self.convolution.grad_input(gpu, weight, slope);
        want_dx.then(dx).transpose()
    }
}
