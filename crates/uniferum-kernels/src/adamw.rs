//! AdamW updates, in place and in two passes over memory, and moving averages of weights.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::error::{check_shape, invalid};
use crate::host;
use crate::simd::{self, Simd, madd, multiversion};

const CHUNK: usize = 1 << 14;

/// Hyper-parameters of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size of this update.
    pub lr: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
    /// Decoupled weight decay: each update multiplies the parameter by `1 - lr * weight_decay`.
    pub weight_decay: f64,
    /// Every gradient is multiplied by it first; gradient clipping and loss scaling go here.
    pub grad_scale: f64,
}

impl Default for AdamW {
    /// The paper's recipe (section 3.6) with its weight decay.
    fn default() -> Self {
        Self {
            lr: 5e-5,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 1e-4,
            grad_scale: 1.0,
        }
    }
}

/// A trained parameter, as [`adamw_step`] takes it, among others.
#[derive(Debug, Clone, Copy)]
pub struct Trained<'a> {
    /// Updated in place.
    pub parameter: &'a Tensor,
    /// Of the parameter's shape.
    pub gradient: &'a Tensor,
    /// `[2, n]` for a parameter of `n` elements, updated in place.
    pub state: &'a Tensor,
    /// Whether the weight decay is for this parameter; conventionally not for biases and norms.
    pub decays: bool,
}

impl Trained<'_> {
    /// The weight decay of this parameter.
    pub(crate) fn decay(&self, options: &AdamW) -> f64 {
        match self.decays {
            true => options.weight_decay,
            false => 0.0,
        }
    }
}

/// Updates `parameter` and its `state` in place by the gradient of update number `step` (from 1).
///
/// # Shapes
/// `parameter` and `gradient` alike, of `n` elements; `state` `[2, n]`: the running means of gradients
/// and of squared gradients, zeros before the first update. All contiguous `f32`.
///
/// # Errors
/// When the shapes do not fit together, for `step` 0, or for tensors that are not contiguous `f32`.
///
/// # Reference
/// Loshchilov & Hutter 2019, algorithm 2.
pub fn adamw_step(
    parameter: &Tensor,
    gradient: &Tensor,
    state: &Tensor,
    step: u64,
    options: &AdamW,
) -> Result<()> {
    let one = Trained {
        parameter,
        gradient,
        state,
        decays: true,
    };
    adamw_steps(&[one], step, options, None)
}

/// [`adamw_step`] for all parameters of a model, which lie on one device: there is one kernel for all on
/// a GPU.
///
/// `clip` is of [`clip_factor`]: its factor multiplies every gradient, and without one, because a
/// gradient is not finite, nothing is updated. On a GPU the host does not wait.
///
/// # Errors
/// As [`adamw_step`], before anything is updated, and for a `clip` that is not of [`clip_factor`].
pub fn adamw_steps(
    all: &[Trained<'_>],
    step: u64,
    options: &AdamW,
    clip: Option<&Tensor>,
) -> Result<()> {
    const OP: &str = "adamw";
    for trained in all {
        check(OP, trained, step)?;
    }
    if let Some(clip) = clip
        && clip.dims() != [2]
    {
        let got = format!("{:?}", clip.dims());
        return Err(invalid(OP, "clip", "[2], of clip_factor", got).into());
    }
    let Some(first) = all.first() else {
        return Ok(());
    };
    on_cuda!(first.parameter => crate::cuda::adamw(OP, all, step, options, clip));
    let factor = clip.map(|clip| Ok::<_, candle_core::Error>(clip.to_vec1::<f32>()?[1]));
    let factor = f64::from(factor.transpose()?.unwrap_or(1.0));
    if factor.is_nan() {
        return Ok(());
    }
    for trained in all {
        let options = AdamW {
            grad_scale: options.grad_scale * factor,
            weight_decay: trained.decay(options),
            ..*options
        };
        let (state, gradient) = (trained.state, trained.gradient.contiguous()?);
        state.inplace_op2(&gradient, &Moments(options))?;
        let update = Update { options, step };
        trained.parameter.inplace_op2(state, &update)?;
    }
    Ok(())
}

fn check(op: &'static str, trained: &Trained<'_>, step: u64) -> Result<()> {
    let Trained {
        parameter,
        gradient,
        state,
        ..
    } = trained;
    let n = parameter.elem_count();
    if gradient.dims() == parameter.dims() && state.dims() == [2, n] && step > 0 {
        return Ok(());
    }
    let expected = format!(
        "gradient {:?}, state [2, {n}], step from 1",
        parameter.dims()
    );
    let got = format!("{:?}, {:?}, {step}", gradient.dims(), state.dims());
    Err(invalid(op, "arguments", expected, got).into())
}

/// Moves averages `[average, value]` towards their values in place:
/// `average = decay * average + (1 - decay) * value`; one kernel for all on a GPU.
///
/// # Errors
/// For a value of another shape than its average, or tensors that are not `f32` of one device.
pub fn move_averages(pairs: &[[&Tensor; 2]], decay: f64) -> Result<()> {
    const OP: &str = "move_averages";
    for [average, value] in pairs {
        check_shape(OP, "value", value, average.dims())?;
    }
    let Some([first, _]) = pairs.first() else {
        return Ok(());
    };
    on_cuda!(first => crate::cuda::averages(OP, pairs, decay));
    for [average, value] in pairs {
        average.inplace_op2(&value.contiguous()?, &Average(decay))?;
    }
    Ok(())
}

/// The norm of all elements of several tensors of one device, and the factor that brings it down to
/// `largest`: 1 for a smaller norm, NaN for one that is not finite. On a GPU the host does not wait.
///
/// # Shapes
/// `[2]` of `f32`: norm and factor.
///
/// # Errors
/// For no tensor at all, or one that is not `f32`.
pub fn clip_factor(tensors: &[&Tensor], largest: f64) -> Result<Tensor> {
    const OP: &str = "clip_factor";
    let Some(first) = tensors.first() else {
        return Err(invalid(OP, "tensors", "at least one", 0).into());
    };
    on_cuda!(first => crate::cuda::clip(OP, tensors, largest));
    let norm = squared_norm(tensors)?.sqrt();
    let factor = match norm {
        n if !n.is_finite() => f64::NAN,
        n if n <= largest => 1.0,
        n => largest / n,
    };
    Tensor::new(&[norm as f32, factor as f32], first.device())
}

/// The sum of squares of a CPU tensor, in double precision.
fn sum_of_squares(x: &Tensor) -> Result<f64> {
    host::with_f32("squared_norm", [&x.contiguous()?], |[x]| {
        let simd = Simd::detect();
        let chunks: Vec<f64> = x.par_chunks(CHUNK).map(|x| simd::dot(simd, x, x)).collect();
        chunks.iter().sum()
    })
}

/// The sum of squares of all elements of several tensors of one device, in double precision.
///
/// On a GPU the host waits once, however many tensors there are.
///
/// # Errors
/// For a tensor that is not `f32`.
pub fn squared_norm(tensors: &[&Tensor]) -> Result<f64> {
    if let Some(first) = tensors.first() {
        on_cuda!(first => crate::cuda::squared_norm("squared_norm", tensors));
    }
    tensors
        .iter()
        .try_fold(0.0, |sum, x| Ok(sum + sum_of_squares(x)?))
}

struct Average(f64);

impl InplaceOp2 for Average {
    fn name(&self) -> &'static str {
        "move_average"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        average_layout: &Layout,
        value: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let value = host::f32_slice(self.name(), value, layout)?;
        let average = host::f32_slice_mut(self.name(), average, average_layout)?;
        let (keep, weight) = (self.0 as f32, (1.0 - self.0) as f32);
        let chunks = average.par_chunks_mut(CHUNK).zip(value.par_chunks(CHUNK));
        chunks.for_each(|(average, value)| {
            for (a, v) in average.iter_mut().zip(value) {
                *a = *a * keep + *v * weight;
            }
        });
        Ok(())
    }
}

struct Moments(AdamW);

impl InplaceOp2 for Moments {
    fn name(&self) -> &'static str {
        "adamw_moments"
    }

    fn cpu_fwd(
        &self,
        state: &mut CpuStorage,
        state_layout: &Layout,
        gradient: &CpuStorage,
        layout: &Layout,
    ) -> Result<()> {
        let gradient = host::f32_slice(self.name(), gradient, layout)?;
        let state = host::f32_slice_mut(self.name(), state, state_layout)?;
        let simd = Simd::detect();
        let (b1, b2) = (self.0.beta1 as f32, self.0.beta2 as f32);
        let scale = self.0.grad_scale as f32;
        let (m, v) = state.split_at_mut(gradient.len());
        m.par_chunks_mut(CHUNK)
            .zip(v.par_chunks_mut(CHUNK))
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|((m, v), g)| moments(simd, m, v, g, b1, b2, scale));
        Ok(())
    }
}

multiversion! {
    fn moments(
        m: &mut [f32], v: &mut [f32], g: &[f32], b1: f32, b2: f32, scale: f32,
    ) = moments_body;
}

#[inline(always)]
fn moments_body<const FMA: bool>(
    m: &mut [f32],
    v: &mut [f32],
    g: &[f32],
    b1: f32,
    b2: f32,
    scale: f32,
) {
    for ((m, v), g) in m.iter_mut().zip(v.iter_mut()).zip(g) {
        let g = *g * scale;
        *m = madd::<FMA>(1.0 - b1, g - *m, *m);
        *v = madd::<FMA>(1.0 - b2, g * g - *v, *v);
    }
}

struct Update {
    options: AdamW,
    step: u64,
}

impl InplaceOp2 for Update {
    fn name(&self) -> &'static str {
        "adamw_update"
    }

    fn cpu_fwd(
        &self,
        parameter: &mut CpuStorage,
        layout: &Layout,
        state: &CpuStorage,
        state_layout: &Layout,
    ) -> Result<()> {
        let state = host::f32_slice(self.name(), state, state_layout)?;
        let parameter = host::f32_slice_mut(self.name(), parameter, layout)?;
        let o = &self.options;
        let correction1 = 1.0 - o.beta1.powf(self.step as f64);
        let correction2 = 1.0 - o.beta2.powf(self.step as f64);
        let keep = (1.0 - o.lr * o.weight_decay) as f32;
        let rate = (o.lr / correction1) as f32;
        let root = (1.0 / correction2.sqrt()) as f32;
        let (m, v) = state.split_at(parameter.len());
        let simd = Simd::detect();
        parameter
            .par_chunks_mut(CHUNK)
            .zip(m.par_chunks(CHUNK).zip(v.par_chunks(CHUNK)))
            .for_each(|(p, (m, v))| update(simd, p, m, v, keep, rate, root, o.eps as f32));
        Ok(())
    }
}

multiversion! {
    fn update(
        p: &mut [f32], m: &[f32], v: &[f32], keep: f32, rate: f32, root: f32, eps: f32,
    ) = update_body;
}

#[inline(always)]
fn update_body<const FMA: bool>(
    p: &mut [f32],
    m: &[f32],
    v: &[f32],
    keep: f32,
    rate: f32,
    root: f32,
    eps: f32,
) {
    for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
        *p = madd::<FMA>(*p, keep, -rate * *m / madd::<FMA>(v.sqrt(), root, eps));
    }
}
