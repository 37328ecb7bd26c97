//! Layers on CUDA as one operation: what passes between them and back is never a node of the graph,
//! so that no gradient is added to zeros, which took a tenth of a step.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Result, Tensor};

use super::{ConvNormSilu, OP, Stage};
use crate::batch_norm::cuda::{
    Norm, Rows, Source, batch_statistics, constants, norm_backward, norm_of, normalise,
};
use crate::conv3d::{Conv3d, cuda::Convolution};
use crate::cuda::{Arg, Buf, Gpu, View, Weights, record2};
use crate::mbconv::{BatchStatistics, PlannedOnCuda, SavedOnCuda};

/// [`sequence`](super::sequence) on CUDA.
pub(super) fn sequence(x: &Tensor, stages: &[Stage<'_>]) -> Result<(Tensor, Vec<BatchStatistics>)> {
    let gpu = Gpu::of(OP, x)?;
    let (layers, parts, dims) = Layers::new(&gpu, x, stages)?;
    if parts.is_empty() {
        return Ok((x.clone(), Vec::new()));
    }
    let (x, weights) = (x.contiguous()?, Tensor::cat(&parts, 0)?.contiguous()?);
    let (rounded, value, passed, own) = {
        let (xs, ws) = (gpu.read(&x)?, gpu.read_f32(&weights)?);
        let ws = View::from(&ws);
        let rounded = layers.rounded(&gpu, ws, xs.dtype)?;
        let (value, passed, own) = layers.forward(&gpu, (ws, &rounded), View::from(&xs))?;
        (rounded, value, passed, own)
    };
    let counts = layers.0.iter().flat_map(|(layer, _)| layer.counts());
    let made: Result<Vec<_>> = own.into_iter().zip(counts).map(made).collect();
    let passed = Mutex::new(Some(passed));
    let backward = move |[x, weights]: [&Tensor; 2], dy: &Tensor| {
        let gpu = Gpu::of(OP, dy)?;
        let (xs, ws, dys) = (gpu.read(x)?, gpu.read_f32(weights)?, gpu.read(dy)?);
        let xs = View::from(&xs);
        let ws: Parameters<'_> = (View::from(&ws), &rounded);
        // A second pass over the same graph finds nothing kept and computes it again.
        let kept = passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = match kept {
            Some(kept) => kept,
            None => layers.forward(&gpu, ws, xs)?.1,
        };
        let grads = gpu.zeros(DType::F32, weights.elem_count())?;
        let to = View::from(&grads);
        let dx = layers.backward(&gpu, (ws, xs), kept, (View::from(&dys), to), x.track_op())?;
        let dw = weights.track_op().then(|| grads.tensor(weights.shape()));
        Ok([dx.map(|dx| dx.tensor(x.shape())), dw])
    };
    Ok((record2(OP, value, dims, [&x, &weights], backward)?, made?))
}

fn made((both, count): (Buf, usize)) -> Result<BatchStatistics> {
    let (mean, var) = batch_statistics(both)?;
    Ok(BatchStatistics { mean, var, count })
}

/// Layers, each with the place of its parameters.
struct Layers(Vec<(Layer, Range<usize>)>);

/// What a layer gives to the next: values, and a norm with SiLU that the next one applies.
struct Activation {
    values: Buf,
    norm: Option<Norm>,
}

impl Activation {
    fn source(&self) -> Source {
        Source {
            values: View::from(&self.values),
            norm: self.norm.as_ref().map(Norm::view),
        }
    }
}

/// What a layer was given, unless it was the operation's own input, and what it kept.
type Passed = (Option<Activation>, Kept);

/// The parameters of all layers: flat and as they are, and of each layer in the type of the activations.
type Parameters<'a> = (View, &'a [Option<Buf>]);

/// A layer's parameters and input.
type Given = (Weights, Source);

impl Layers {
    /// Also all parameters, flat and in order, and the dimensions of the output.
    fn new(gpu: &Gpu, x: &Tensor, stages: &[Stage<'_>]) -> Result<(Self, Vec<Tensor>, Vec<usize>)> {
        let (mut layers, mut parts, mut end) = (Vec::new(), Vec::new(), 0);
        let mut dims = x.dims().to_vec();
        for (i, stage) in stages.iter().enumerate() {
            let layer = Layer::new(gpu, stage, &dims, i > 0 || x.track_op())?;
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

    /// What each layer's products read in the type of the activations, in an array of its own: cuBLAS takes
    /// matrices faster that begin at a multiple of 16 bytes.
    fn rounded(&self, gpu: &Gpu, weights: View, dtype: DType) -> Result<Vec<Option<Buf>>> {
        let one = |(layer, place): &(Layer, _)| layer.rounded(gpu, weights.part(place), dtype);
        self.0.iter().map(one).collect()
    }

    /// The output, what backward needs, and the batch's statistics.
    fn forward(
        &self,
        gpu: &Gpu,
        (weights, rounded): Parameters<'_>,
        x: View,
    ) -> Result<(Buf, Vec<Passed>, Vec<Buf>)> {
        let (mut passed, mut made) = (Vec::new(), Vec::new());
        let mut input: Option<Activation> = None;
        for (i, (layer, place)) in self.0.iter().enumerate() {
            let leave = self.0.get(i + 1).is_some_and(|(l, _)| l.reads_normed());
            let own_weights = Weights::new(weights.part(place), rounded[i].as_ref());
            let given = (own_weights, source(x, input.as_ref()));
            let (y, kept, own) = layer.forward(gpu, given, leave)?;
            made.extend(own);
            passed.push((input.replace(y), kept));
        }
        let output = input.map_or_else(|| gpu.uninit(x.dtype, 0), |last| Ok(last.values))?;
        Ok((output, passed, made))
    }

    /// The gradient of the input, if wanted; those of the parameters go to `grads`.
    fn backward(
        &self,
        gpu: &Gpu,
        ((weights, rounded), x): (Parameters<'_>, View),
        mut passed: Vec<Passed>,
        (dy, grads): (View, View),
        want_dx: bool,
    ) -> Result<Option<Buf>> {
        let mut gradient: Option<Buf> = None;
        let mut output: Option<Activation> = None;
        for ((layer, place), rounded) in self.0.iter().zip(rounded).rev() {
            let Some((input, kept)) = passed.pop() else {
                break;
            };
            let wanted = want_dx || input.is_some();
            let own_weights = Weights::new(weights.part(place), rounded.as_ref());
            let given = (own_weights, source(x, input.as_ref()));
            let kept = (kept, output.take());
            let dy = gradient.as_ref().map_or(dy, View::from);
            gradient = layer.backward(gpu, given, kept, (dy, grads.part(place)), wanted)?;
            output = input.filter(|input| input.norm.is_some());
        }
        Ok(gradient)
    }
}

/// What a layer reads: the output of the layer before, or `x` if it is the first.
fn source(x: View, before: Option<&Activation>) -> Source {
    let first = Source {
        values: x,
        norm: None,
    };
    before.map_or(first, Activation::source)
}

/// A layer with all its sizes known.
enum Layer {
    Conv(Box<ConvNorm>),
    MbConv(Box<PlannedOnCuda>),
}

/// What a layer's backward pass needs beside its input and parameters.
enum Kept {
    /// A convolution's output and its norm, unless these are what the next layer was given.
    Conv(Option<Box<Activation>>),
    MbConv(Box<SavedOnCuda>),
}

impl Layer {
    /// `track` for a layer whose input has a gradient.
    fn new(gpu: &Gpu, stage: &Stage<'_>, dims: &[usize], track: bool) -> Result<Self> {
        Ok(match stage {
            Stage::ConvNormSilu(stage) => {
                Self::Conv(Box::new(ConvNorm::new(gpu, stage, dims, track)?))
            }
            Stage::MbConv(block) => Self::MbConv(Box::new(PlannedOnCuda::new(gpu, block, dims)?)),
        })
    }

    fn rounded(&self, gpu: &Gpu, parameters: View, dtype: DType) -> Result<Option<Buf>> {
        match self {
            Self::Conv(layer) => layer
                .convolution
                .rounded(gpu, layer.split(parameters).0, dtype),
            Self::MbConv(_) => gpu.rounded(parameters, dtype),
        }
    }

    fn reads_normed(&self) -> bool {
        match self {
            Self::Conv(_) => false,
            Self::MbConv(layer) => layer.reads_normed(),
        }
    }

    /// `leave` for a next layer that reads normed values.
    fn forward(
        &self,
        gpu: &Gpu,
        (weights, x): Given,
        leave: bool,
    ) -> Result<(Activation, Kept, Vec<Buf>)> {
        match self {
            Self::Conv(layer) => layer.forward(gpu, (weights, x), leave),
            Self::MbConv(layer) => {
                let (values, saved, own) = layer.forward(gpu, weights, x)?;
                let y = Activation { values, norm: None };
                Ok((y, Kept::MbConv(Box::new(saved)), own))
            }
        }
    }

    /// `output` is what the next layer was given, where that applied the norm.
    fn backward(
        &self,
        gpu: &Gpu,
        given: Given,
        (kept, output): (Kept, Option<Activation>),
        (dy, grads): (View, View),
        want_dx: bool,
    ) -> Result<Option<Buf>> {
        match (self, kept) {
            (Self::Conv(layer), Kept::Conv(kept)) => {
                let applied = kept.is_some();
                let kept = (kept.map(|own| *own).or(output), applied);
                layer.backward(gpu, given, kept, (dy, grads), want_dx)
            }
            (Self::MbConv(layer), Kept::MbConv(saved)) => {
                layer.backward(gpu, given, *saved, dy, grads).map(Some)
            }
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
    constants: Option<Buf>,
    eps: f64,
    /// Elements of the convolution's weight.
    weight: usize,
}

impl ConvNorm {
    fn new(gpu: &Gpu, stage: &ConvNormSilu<'_>, dims: &[usize], track: bool) -> Result<Self> {
        let tensors = &stage.conv;
        let conv = Conv3d::new(dims, tensors.weight.dims(), &stage.cfg)?;
        tensors.check_norm(OP, conv.c_out)?;
        let running = tensors.running.map(|running| constants(gpu, running));
        Ok(Self {
            dims: conv.out_dims(),
            rows: Rows::new(conv.batch, conv.c_out, conv.geometry.out_voxels()),
            convolution: Convolution::new(conv, track),
            constants: running.transpose()?,
            eps: stage.eps,
            weight: tensors.weight.elem_count(),
        })
    }

    /// The convolution's weight, and gamma and beta, of parameters or of their gradients.
    fn split(&self, parameters: View) -> (View, View, View) {
        let gamma = self.weight;
        let beta = gamma + self.rows.channels;
        let part = |range: Range<usize>| parameters.part(&range);
        (
            part(0..gamma),
            part(gamma..beta),
            part(beta..beta + self.rows.channels),
        )
    }

    fn counts(&self) -> Vec<usize> {
        let own = self.rows.samples * self.rows.voxels;
        self.constants
            .is_none()
            .then_some(own)
            .into_iter()
            .collect()
    }

    fn forward(
        &self,
        gpu: &Gpu,
        (weights, x): Given,
        leave: bool,
    ) -> Result<(Activation, Kept, Vec<Buf>)> {
        let (_, gamma, beta) = self.split(weights.exact);
        let inner = self.convolution.forward(gpu, x.values, weights, None)?;
        let input = (Arg::from(&inner), inner.dtype);
        let affine = (Arg::from(gamma), Arg::from(beta));
        let known = self.constants.as_ref();
        let (norm, own) = norm_of(gpu, &self.rows, known, input, affine, self.eps)?;
        let made: Vec<Buf> = own.into_iter().collect();
        if leave {
            let y = Activation {
                values: inner,
                norm: Some(norm),
            };
            return Ok((y, Kept::Conv(None), made));
        }
        let y = gpu.uninit(inner.dtype, inner.len)?;
        let none = (Arg::NULL, Arg::NULL);
        normalise(gpu, &self.rows, norm.view(), input, true, none, &y)?;
        let y = Activation {
            values: y,
            norm: None,
        };
        let kept = Activation {
            values: inner,
            norm: Some(norm),
        };
        Ok((y, Kept::Conv(Some(Box::new(kept))), made))
    }

    /// `dy` is the gradient of SiLU's result where that was `applied` here, and else of the norm's.
    fn backward(
        &self,
        gpu: &Gpu,
        (weights, x): Given,
        (kept, applied): (Option<Activation>, bool),
        (dy, grads): (View, View),
        want_dx: bool,
    ) -> Result<Option<Buf>> {
        let (dweight, dgamma, dbeta) = self.split(grads);
        let Some(Activation {
            values,
            norm: Some(norm),
        }) = kept
        else {
            unreachable!("a convolution's output is kept with its norm");
        };
        let inner = View::from(&values);
        let inputs = (Arg::from(dy), Arg::from(inner), inner.dtype);
        // The gradient takes the place of what it is the gradient of.
        let over = Some(Arg::from(inner));
        let (rows, parameters) = (&self.rows, (dgamma, dbeta));
        norm_backward(gpu, rows, norm.view(), inputs, applied, parameters, over)?;
        self.convolution
            .grad_weight(gpu, x.values, inner, dweight)?;
        let dx = || self.convolution.grad_input(gpu, weights, inner);
        want_dx.then(dx).transpose()
    }
}
