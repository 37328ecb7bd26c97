//! The inverted-residual block of MobileNets and EfficientNets as one operation.

mod backward;
mod channels;
#[cfg(feature = "cuda")]
mod cuda;
mod excite;
mod forward;
mod moments;
mod plan;
mod tiles;

use candle_core::{Result, Tensor};

use crate::batch_norm::norm::Statistics;
use crate::error::{check_shape, invalid};
use crate::geometry::{Conv3dConfig, Geometry, Padding3, dims5};
use crate::memory::Scratch;
use crate::sequence::{Differentiable, Stage, sequence};
use backward::Backward;
use forward::{Saved, forward};
use plan::Plan;

#[cfg(feature = "cuda")]
pub(crate) use cuda::{Planned as PlannedOnCuda, Saved as SavedOnCuda};

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

impl NormedConv<'_> {
    /// Refuses a norm without a value for each channel.
    pub(crate) fn check_norm(&self, op: &'static str, channels: usize) -> Result<()> {
        check_shape(op, "gamma", self.gamma, &[channels])?;
        check_shape(op, "beta", self.beta, &[channels])?;
        if let Some((mean, var)) = self.running {
            check_shape(op, "running mean", mean, &[channels])?;
            check_shape(op, "running variance", var, &[channels])?;
        }
        Ok(())
    }
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
    /// Stride of the depthwise convolution.
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
/// tensors that are not `f32` (on CUDA the input may be `bf16`).
///
/// # Reference
/// Sandler et al. 2018, *MobileNetV2*; Tan and Le 2019, *EfficientNet*.
pub fn mbconv(x: &Tensor, block: &MbConv<'_>) -> Result<(Tensor, Vec<BatchStatistics>)> {
    sequence(x, &[Stage::MbConv(*block)])
}

impl<'a> MbConv<'a> {
    fn layers(&self) -> Vec<NormedConv<'a>> {
        let rest = [self.depthwise, self.project];
        self.expand.into_iter().chain(rest).collect()
    }

    /// Every parameter in the order of [`Places`](plan::Places).
    pub(crate) fn parts(&self) -> Vec<&'a Tensor> {
        let se = &self.squeeze_excite;
        let layers = self.layers();
        let norms = layers.iter().flat_map(|l| [l.weight, l.gamma, l.beta]);
        norms
            .chain([se.w_reduce, se.b_reduce, se.w_expand, se.b_expand])
            .collect()
    }

    fn plan(&self, dims: &[usize]) -> Result<Plan> {
        let (batch, c_in, input) = dims5(OP, "input shape", dims)?;
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
        let (depthwise, project) = (self.depthwise.weight, self.project.weight);
        if let Some(expand) = &self.expand {
            let shape = [mid, c_in, 1, 1, 1];
            check_shape(OP, "expansion weight", expand.weight, &shape)?;
        } else if c_in != mid {
            let got = format!("{c_in} channels");
            return Err(invalid(OP, "input shape", format!("{mid} channels"), got).into());
        }
        check_shape(OP, "depthwise weight", depthwise, &[mid, 1, kd, kh, kw])?;
        check_shape(OP, "projection weight", project, &[c_out, mid, 1, 1, 1])?;
        check_shape(OP, "w_reduce", se.w_reduce, &[squeezed, mid, 1, 1, 1])?;
        check_shape(OP, "b_reduce", se.b_reduce, &[squeezed])?;
        check_shape(OP, "w_expand", se.w_expand, &[mid, squeezed, 1, 1, 1])?;
        check_shape(OP, "b_expand", se.b_expand, &[mid])?;
        for layer in self.layers() {
            layer.check_norm(OP, layer.weight.dims()[0])?;
        }
        let unchanged = c_in == c_out && plan.geometry.input == plan.geometry.output;
        if plan.residual && !unchanged {
            let got = format!("{c_in} to {c_out} channels, stride {:?}", self.stride);
            let expected = "a block that keeps channels and size";
            return Err(invalid(OP, "residual", expected, got).into());
        }
        Ok(())
    }

    /// The running statistics of every norm, if they are to be used.
    fn given(&self, plan: &Plan) -> Result<Option<Vec<(&'a Tensor, &'a Tensor)>>> {
        let layers = self.layers();
        let given: Vec<_> = layers.iter().filter_map(|l| l.running).collect();
        if !given.is_empty() && given.len() != layers.len() {
            let expected = format!("{} norms alike", layers.len());
            return Err(invalid(OP, "running statistics", expected, given.len()).into());
        }
        debug_assert_eq!(plan.expands, layers.len() == 3);
        Ok((!given.is_empty()).then_some(given))
    }

    fn running(&self, plan: &Plan) -> Result<Option<Vec<Statistics>>> {
        let read = |(mean, var): &(&Tensor, &Tensor)| Statistics::read(OP, mean, var);
        let given = self.given(plan)?;
        given.map(|g| g.iter().map(read).collect()).transpose()
    }
}

/// A block with its sizes and its constant statistics, if it has any.
pub(crate) struct Planned {
    plan: Plan,
    running: Option<Vec<Statistics>>,
}

impl Planned {
    pub(crate) fn new(block: &MbConv<'_>, dims: &[usize]) -> Result<Self> {
        let plan = block.plan(dims)?;
        let running = block.running(&plan)?;
        Ok(Self { plan, running })
    }
}

impl Differentiable for Planned {
    type Kept = Box<Saved>;

    fn forward(&self, weights: &[f32], x: &[f32]) -> (Scratch, Box<Saved>, Vec<Statistics>) {
        let (y, saved, own) = forward(&self.plan, weights, self.running.as_deref(), x);
        (y, Box::new(saved), own)
    }

    fn backward(
        &self,
        weights: &[f32],
        x: &[f32],
        saved: Box<Saved>,
        dy: Scratch,
        grads: &mut [f32],
        _want_dx: bool,
    ) -> Scratch {
        let backward = Backward {
            plan: &self.plan,
            places: &self.plan.places(),
            weights,
            x,
            saved: &saved,
        };
        backward.run(dy, grads)
    }

    fn out_dims(&self) -> Vec<usize> {
        let [d, h, w] = self.plan.geometry.output;
        vec![self.plan.batch, self.plan.c_out, d, h, w]
    }

    fn counts(&self) -> Vec<usize> {
        let plan = &self.plan;
        let expand = plan.expands.then(|| plan.in_columns());
        expand.into_iter().chain([plan.out_columns(); 2]).collect()
    }

    fn of_batch(&self) -> bool {
        self.running.is_none()
    }
}
