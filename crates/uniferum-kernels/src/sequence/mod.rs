//! Layers of a network as one operation.

mod conv_norm;
#[cfg(feature = "cuda")]
mod cuda;
mod layer;

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::batch_norm::norm::Statistics;
use crate::geometry::Conv3dConfig;
use crate::host;
use crate::mbconv::{BatchStatistics, MbConv, NormedConv};
use crate::memory::{Scratch, copied};
use layer::{Kept, Layer};

use conv_norm::ConvNorm;

pub(crate) use layer::Differentiable;

const OP: &str = "sequence";

/// A layer of a [`sequence`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Stage<'a> {
    /// A convolution without bias, its norm and SiLU.
    ConvNormSilu(ConvNormSilu<'a>),
    /// An inverted-residual block.
    MbConv(MbConv<'a>),
}

/// A convolution without bias, followed by batch normalisation and SiLU.
#[derive(Debug, Clone, Copy)]
pub struct ConvNormSilu<'a> {
    /// Weights, and statistics if they are constants.
    pub conv: NormedConv<'a>,
    /// Stride, padding and groups.
    pub cfg: Conv3dConfig,
    /// Added to the variances.
    pub eps: f64,
}

/// Layers one after the other as one differentiable operation.
///
/// The same function as [`mbconv`](crate::mbconv), [`conv3d`](crate::conv3d) and
/// [`batch_norm_silu`](crate::batch_norm_silu) in a row. What passes between the layers and back
/// never becomes a tensor, so that its memory is used again, and no gradient is added to zeros:
/// in a 3-D network, whose first maps are hundreds of megabytes, that is a fifth of a step.
///
/// Returns the output and, of each norm that uses the batch's statistics, these in order.
///
/// # Shapes
/// `x` is `[B, C, D, H, W]`, and so is the result with the last layer's channels and sides.
///
/// # Errors
/// As for the single operations; an empty sequence gives its input back.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use uniferum_kernels::{Conv3dConfig, ConvNormSilu, NormedConv, Stage, sequence};
/// # fn main() -> candle_core::Result<()> {
/// let tensor = |dims: &[usize]| Tensor::rand(0f32, 1.0, dims, &Device::Cpu);
/// let (w1, w2) = (tensor(&[4, 1, 3, 3, 3])?, tensor(&[2, 4, 1, 1, 1])?);
/// let (one, zero) = (tensor(&[4])?, tensor(&[4])?);
/// let layer = |weight, channels: usize| -> candle_core::Result<_> {
///     Ok((weight, one.narrow(0, 0, channels)?, zero.narrow(0, 0, channels)?))
/// };
/// let layers = [layer(&w1, 4)?, layer(&w2, 2)?];
/// let stages = layers.each_ref().map(|(weight, gamma, beta)| {
///     let conv = NormedConv { weight, gamma, beta, running: None };
///     Stage::ConvNormSilu(ConvNormSilu { conv, cfg: Conv3dConfig::default(), eps: 1e-3 })
/// });
/// let (y, statistics) = sequence(&tensor(&[1, 1, 6, 5, 4])?, &stages)?;
/// assert_eq!(y.dims(), [1, 2, 4, 3, 2]);
/// assert_eq!((statistics.len(), statistics[0].count), (2, 4 * 3 * 2));
/// # Ok(()) }
/// ```
pub fn sequence(x: &Tensor, stages: &[Stage<'_>]) -> Result<(Tensor, Vec<BatchStatistics>)> {
    on_cuda!(x => cuda::sequence(x, stages));
    let mut dims = x.dims().to_vec();
    let (mut layers, mut flat) = (Vec::new(), Vec::new());
    let mut end = 0;
    for stage in stages {
        let layer = Layer::new(stage, &dims)?;
        dims = layer.out_dims();
        let first = flat.len();
        for part in stage.parts() {
            flat.push(part.flatten_all()?);
        }
        let count: usize = flat[first..].iter().map(Tensor::elem_count).sum();
        layers.push((layer, end..end + count));
        end += count;
    }
    if flat.is_empty() {
        return Ok((x.clone(), Vec::new()));
    }
    let weights = Tensor::cat(&flat, 0)?;
    let state = Arc::new(State::default());
    let counts: Vec<usize> = layers.iter().flat_map(|(l, _)| l.counts()).collect();
    let op = Sequence {
        layers,
        dims,
        state: state.clone(),
    };
    let y = x.contiguous()?.apply_op2(&weights.contiguous()?, op)?;
    let made = std::mem::take(&mut *lock(&state.statistics));
    let statistics = made.into_iter().zip(counts).map(|(own, count)| {
        let (mean, var) = own.into_tensors();
        BatchStatistics { mean, var, count }
    });
    Ok((y, statistics.collect()))
}

impl<'a> Stage<'a> {
    /// Every parameter in the order of the flat array.
    fn parts(&self) -> Vec<&'a Tensor> {
        match self {
            Self::ConvNormSilu(stage) => {
                let NormedConv {
                    weight,
                    gamma,
                    beta,
                    ..
                } = stage.conv;
                vec![weight, gamma, beta]
            }
            Self::MbConv(block) => block.parts(),
        }
    }
}

/// What a layer was given, unless it was the operation's own input, and what it kept.
type Passed = (Option<Scratch>, Kept);

#[derive(Default)]
struct State {
    statistics: Mutex<Vec<Statistics>>,
    passed: Mutex<Option<Vec<Passed>>>,
}

/// A poisoned lock means that a kernel panicked; its data are replaced whole, never half.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sequence {
    /// Each with the place of its parameters.
    layers: Vec<(Layer, Range<usize>)>,
    dims: Vec<usize>,
    state: Arc<State>,
}

impl Sequence {
    /// The output, what backward needs, and the batch's statistics.
    fn forward(&self, weights: &[f32], x: &[f32]) -> (Scratch, Vec<Passed>, Vec<Statistics>) {
        let mut passed: Vec<Passed> = Vec::new();
        let mut statistics = Vec::new();
        let mut input: Option<Scratch> = None;
        for (layer, place) in &self.layers {
            let x = input.as_deref().unwrap_or(x);
            let (y, kept, own) = layer.forward(&weights[place.clone()], x);
            if layer.of_batch() {
                statistics.extend(own);
            }
            passed.push((input.replace(y), kept));
        }
        (input.unwrap_or_else(|| Scratch::new(0)), passed, statistics)
    }

    /// Gradients of the input, if wanted, and of the parameters.
    fn backward(
        &self,
        weights: &[f32],
        x: &[f32],
        mut passed: Vec<Passed>,
        dy: &[f32],
        want_dx: bool,
    ) -> (Scratch, Vec<f32>) {
        let mut grads = vec![0.0; weights.len()];
        let mut gradient = Scratch::of(dy);
        for (layer, place) in self.layers.iter().rev() {
            let Some((input, kept)) = passed.pop() else {
                break;
            };
            let (weights, own) = (&weights[place.clone()], &mut grads[place.clone()]);
            let wanted = want_dx || input.is_some();
            let x = input.as_deref().unwrap_or(x);
            gradient = layer.backward(weights, x, kept, gradient, own, wanted);
        }
        (gradient, grads)
    }
}

impl CustomOp2 for Sequence {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weights: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = host::f32_slice(OP, x, lx)?;
        let (y, passed, statistics) = self.forward(host::f32_slice(OP, weights, lw)?, x);
        *lock(&self.state.passed) = Some(passed);
        *lock(&self.state.statistics) = statistics;
        Ok((CpuStorage::F32(copied(&y)), self.dims.clone().into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        // A second pass over the same graph finds nothing kept and computes it again.
        let passed = lock(&self.state.passed).take();
        let want_dx = x.track_op();
        let inputs = [x, weights, &dy.contiguous()?];
        let (dx, dw) = host::with_f32(OP, inputs, |[x, weights, dy]| {
            let passed = passed.unwrap_or_else(|| self.forward(weights, x).1);
            self.backward(weights, x, passed, dy, want_dx)
        })?;
        let dx = want_dx.then(|| host::tensor(copied(&dx), x.shape()));
        let dw = weights
            .track_op()
            .then(|| host::tensor(dw, weights.shape()));
        Ok((dx, dw))
    }
}
