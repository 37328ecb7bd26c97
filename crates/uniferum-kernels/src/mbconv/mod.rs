//! The inverted-residual block of MobileNets and EfficientNets as one operation.

mod backward;
mod channels;
mod excite;
mod forward;
mod norm;
mod plan;
mod tiles;

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::error::invalid;
use crate::geometry::{Conv3dConfig, Geometry, Padding3, dims5};
use crate::host;
use backward::Backward;
use forward::{Saved, forward};
use norm::Statistics;
use plan::Plan;

const OP: &str = "mbconv";

/// A convolution without bias, followed by batch normalisation.
#[derive(Debug, Clone, Copy)]
pub struct NormedConv<'a> {
    /// The convolution's weight, five-dimensional.
    pub weight: &'a Tensor,
    /// The norm's scale.
    pub gamma: &'a Tensor,
    /// The norm's shift.
    pub beta: &'a Tensor,
    /// Running mean and variance to normalise with; `None` for the batch's own.
    pub running: Option<(&'a Tensor, &'a Tensor)>,
}

/// Weights and biases of squeeze-and-excitation; see
/// [`squeeze_excite`](crate::squeeze_excite).
#[derive(Debug, Clone, Copy)]
pub struct SqueezeExcite<'a> {
    /// `[S, C]` with trailing axes of size 1.
    pub w_reduce: &'a Tensor,
    /// `[S]`.
    pub b_reduce: &'a Tensor,
    /// `[C, S]` with trailing axes of size 1.
    pub w_expand: &'a Tensor,
    /// `[C]`.
    pub b_expand: &'a Tensor,
}

/// Everything a block is made of.
#[derive(Debug, Clone, Copy)]
pub struct MbConv<'a> {
    /// `[C_mid, C_in, 1, 1, 1]`; `None` for a block that does not widen.
    pub expand: Option<NormedConv<'a>>,
    /// `[C_mid, 1, K, K, K]`.
    pub depthwise: NormedConv<'a>,
    /// The gate of the wide channels.
    pub squeeze_excite: SqueezeExcite<'a>,
    /// `[C_out, C_mid, 1, 1, 1]`.
    pub project: NormedConv<'a>,
    /// Stride and padding of the depthwise convolution; the groups are ignored.
    pub stride: [usize; 3],
    /// Padding of the depthwise convolution.
    pub padding: Padding3,
    /// Whether the input is added to the output.
    pub residual: bool,
    /// Added to the variances.
    pub eps: f64,
}

/// Statistics of a batch, outside the autograd graph.
#[derive(Debug, Clone)]
pub struct BatchStatistics {
    /// Mean of each channel.
    pub mean: Tensor,
    /// **Biased** variance of each channel; see
    /// [`unbiased_variance`](crate::unbiased_variance).
    pub var: Tensor,
    /// Values per channel that they are of.
    pub count: usize,
}

/// Expansion, depthwise convolution, squeeze-and-excitation and projection with their norms and
/// activations as one differentiable operation.
///
/// The same function as [`conv3d`](crate::conv3d), [`batch_norm`](crate::batch_norm),
/// [`silu`](crate::silu) and [`squeeze_excite`](crate::squeeze_excite) in a row, in a fraction
/// of the time and memory: the expanded activation exists a few channels at a time only and is
/// computed again in the backward pass.
///
/// Returns the output and, for each norm that uses the batch's statistics (all or none must),
/// those statistics in the order expansion, depthwise, projection.
///
/// # Shapes
/// `x` is `[B, C_in, D, H, W]`, the result `[B, C_out, D', H', W']`.
///
/// # Errors
/// When shapes do not fit together, some norms have running statistics and others not, or for
/// tensors that are not `f32` on the CPU.
///
/// # Reference
/// Sandler et al. 2018, *MobileNetV2*; Tan and Le 2019, *EfficientNet*.
pub fn mbconv(x: &Tensor, block: &MbConv<'_>) -> Result<(Tensor, Vec<BatchStatistics>)> {
    let plan = block.plan(x)?;
    let running = block.running(&plan)?;
    let batch_statistics = running.is_none();
    let layers = block.layers();
    let se = &block.squeeze_excite;
    let norms = layers.iter().flat_map(|l| [l.weight, l.gamma, l.beta]);
    let parts = norms.chain([se.w_reduce, se.b_reduce, se.w_expand, se.b_expand]);
    let flat: Vec<Tensor> = parts.map(Tensor::flatten_all).collect::<Result<_>>()?;
    let weights = Tensor::cat(&flat, 0)?;
    let state = Arc::new(State::default());
    let counts = block.counts(&plan);
    let op = Op {
        plan,
        running,
        state: state.clone(),
    };
    let y = x.contiguous()?.apply_op2(&weights.contiguous()?, op)?;
    let made = std::mem::take(&mut *lock(&state.statistics));
    let made = made.into_iter().zip(counts).map(|(s, count)| {
        let channels = s.mean.len();
        BatchStatistics {
            mean: host::tensor(s.mean, channels),
            var: host::tensor(s.var, channels),
            count,
        }
    });
    let statistics = if batch_statistics {
        made.collect()
    } else {
        Vec::new()
    };
    Ok((y, statistics))
}

impl<'a> MbConv<'a> {
    fn layers(&self) -> Vec<NormedConv<'a>> {
        let rest = [self.depthwise, self.project];
        self.expand.into_iter().chain(rest).collect()
    }

    /// Values per channel of each norm.
    fn counts(&self, plan: &Plan) -> Vec<usize> {
        let expand = self.expand.iter().map(|_| plan.in_columns());
        expand.chain([plan.out_columns(); 2]).collect()
    }

    fn plan(&self, x: &Tensor) -> Result<Plan> {
        let (batch, c_in, input) = dims5(OP, "input shape", x.dims())?;
        let (mid, _, kernel) = dims5(OP, "depthwise weight", self.depthwise.weight.dims())?;
        let (c_out, _, _) = dims5(OP, "projection weight", self.project.weight.dims())?;
        let cfg = Conv3dConfig {
            stride: self.stride,
            padding: self.padding,
            groups: mid,
        };
        let plan = Plan {
            batch,
            c_in,
            mid,
            c_out,
            squeezed: self.squeeze_excite.b_reduce.elem_count(),
            expands: self.expand.is_some(),
            residual: self.residual,
            geometry: Geometry::new(OP, input, kernel, cfg.stride, cfg.padding)?,
            eps: self.eps,
        };
        self.check(&plan)?;
        Ok(plan)
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        let &Plan {
            c_in,
            mid,
            c_out,
            squeezed,
            ..
        } = plan;
        let se = &self.squeeze_excite;
        let [kd, kh, kw] = plan.geometry.kernel;
        if let Some(expand) = &self.expand {
            expect("expansion weight", expand.weight, &[mid, c_in, 1, 1, 1])?;
        } else if c_in != mid {
            let got = format!("{c_in} channels");
            return Err(invalid(OP, "input shape", format!("{mid} channels"), got).into());
        }
        expect(
            "depthwise weight",
            self.depthwise.weight,
            &[mid, 1, kd, kh, kw],
        )?;
        expect(
            "projection weight",
            self.project.weight,
            &[c_out, mid, 1, 1, 1],
        )?;
        expect("w_reduce", se.w_reduce, &[squeezed, mid, 1, 1, 1])?;
        expect("b_reduce", se.b_reduce, &[squeezed])?;
        expect("w_expand", se.w_expand, &[mid, squeezed, 1, 1, 1])?;
        expect("b_expand", se.b_expand, &[mid])?;
        for layer in self.layers() {
            let channels = layer.weight.dims()[0];
            for vector in [Some(layer.gamma), Some(layer.beta)].into_iter().flatten() {
                expect("norm parameter", vector, &[channels])?;
            }
            if let Some((mean, var)) = layer.running {
                expect("running mean", mean, &[channels])?;
                expect("running variance", var, &[channels])?;
            }
        }
        let unchanged = c_in == c_out && plan.geometry.input == plan.geometry.output;
        if plan.residual && !unchanged {
            let got = format!("{c_in} to {c_out} channels, stride {:?}", self.stride);
            let expected = "a block that keeps channels and size";
            return Err(invalid(OP, "residual", expected, got).into());
        }
        Ok(())
    }

    fn running(&self, plan: &Plan) -> Result<Option<Vec<Statistics>>> {
        let layers = self.layers();
        let given: Vec<_> = layers.iter().filter_map(|l| l.running).collect();
        if !given.is_empty() && given.len() != layers.len() {
            let expected = format!("{} norms alike", layers.len());
            return Err(invalid(OP, "running statistics", expected, given.len()).into());
        }
        debug_assert_eq!(plan.expands, layers.len() == 3);
        let vector = |t: &Tensor| t.to_vec1::<f32>();
        let read = |(mean, var): &(&Tensor, &Tensor)| {
            Ok(Statistics {
                mean: vector(mean)?,
                var: vector(var)?,
            })
        };
        if given.is_empty() {
            return Ok(None);
        }
        given.iter().map(read).collect::<Result<_>>().map(Some)
    }
}

fn expect(what: &'static str, tensor: &Tensor, dims: &[usize]) -> Result<()> {
    if tensor.dims() == dims {
        return Ok(());
    }
    Err(invalid(
        OP,
        what,
        format!("{dims:?}"),
        format!("{:?}", tensor.dims()),
    )
    .into())
}

#[derive(Default)]
struct State {
    statistics: Mutex<Vec<Statistics>>,
    saved: Mutex<Option<Saved>>,
}

/// A poisoned lock means that a kernel panicked; its data are replaced whole, never half.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Op {
    plan: Plan,
    running: Option<Vec<Statistics>>,
    state: Arc<State>,
}

impl CustomOp2 for Op {
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
        let weights = host::f32_slice(OP, weights, lw)?;
        let (y, saved, statistics) = forward(&self.plan, weights, self.running.as_deref(), x);
        *lock(&self.state.saved) = Some(saved);
        *lock(&self.state.statistics) = statistics;
        let [d, h, w] = self.plan.geometry.output;
        let shape = (self.plan.batch, self.plan.c_out, d, h, w);
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weights: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let places = self.plan.places();
        // A second pass over the same graph finds nothing kept and computes it again.
        let saved = lock(&self.state.saved).take();
        let (dx, dw) = host::with_f32(OP, x, |xs| {
            host::with_f32(OP, weights, |ws| {
                host::with_f32(OP, &dy, |dy| {
                    let running = self.running.as_deref();
                    let saved = saved.unwrap_or_else(|| forward(&self.plan, ws, running, xs).1);
                    let backward = Backward {
                        plan: &self.plan,
                        places: &places,
                        weights: ws,
                        x: xs,
                        saved: &saved,
                    };
                    backward.run(dy)
                })
            })
        })???;
        let dx = x.track_op().then(|| host::tensor(dx, x.shape()));
        let dw = weights
            .track_op()
            .then(|| host::tensor(dw, weights.shape()));
        Ok((dx, dw))
    }
}
