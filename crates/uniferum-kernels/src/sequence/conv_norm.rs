//! Convolution, batch normalisation and SiLU; only the convolution's output is kept.

use candle_core::Result;

use super::layer::Differentiable;
use super::{ConvNormSilu, OP};
use crate::batch_norm::Plan;
use crate::batch_norm::cpu::{NormLayer, statistics};
use crate::batch_norm::norm::{Norm, Statistics};
use crate::conv3d::{self, Conv3d};
use crate::memory::Scratch;

/// The layer with all its sizes known.
pub(crate) struct ConvNorm {
    conv: Conv3d,
    plan: Plan,
    running: Option<Statistics>,
    eps: f64,
    /// Elements of the convolution's weight.
    weight: usize,
}

/// The convolution's output and its norm.
pub(crate) struct Kept {
    inner: Scratch,
    norm: NormLayer,
}

impl ConvNorm {
    pub(super) fn new(stage: &ConvNormSilu<'_>, dims: &[usize]) -> Result<Self> {
        let tensors = &stage.conv;
        let conv = Conv3d::new(dims, tensors.weight.dims(), &stage.cfg)?;
        tensors.check_norm(OP, conv.c_out)?;
        let read = |(mean, var)| Statistics::read(OP, mean, var);
        Ok(Self {
            plan: Plan::new(&conv.out_dims())?,
            conv,
            running: tensors.running.map(read).transpose()?,
            eps: stage.eps,
            weight: tensors.weight.elem_count(),
        })
    }

    /// The convolution's weight, gamma and beta.
    fn split<'a>(&self, weights: &'a [f32]) -> [&'a [f32]; 3] {
        let (weight, rest) = weights.split_at(self.weight);
        let (gamma, beta) = rest.split_at(self.conv.c_out);
        [weight, gamma, beta]
    }
}

impl Differentiable for ConvNorm {
    type Kept = Kept;

    fn forward(&self, weights: &[f32], x: &[f32]) -> (Scratch, Kept, Vec<Statistics>) {
        let [weight, gamma, beta] = self.split(weights);
        let voxels = self.conv.geometry.out_voxels();
        let mut inner = Scratch::new(self.conv.batch * self.conv.c_out * voxels);
        conv3d::cpu::forward_into(&self.conv, x, weight, None, &mut inner);
        let running = self.running.clone();
        let own = running.unwrap_or_else(|| statistics(&self.plan, &inner));
        let count = self.of_batch().then(|| self.plan.count());
        let norm = Norm::new(&own, gamma, beta, self.eps, count);
        let norm = NormLayer::new(self.plan, norm, true);
        let mut y = Scratch::new(inner.len());
        norm.forward_into(&inner, &mut y);
        (y, Kept { inner, norm }, vec![own])
    }

    fn backward(
        &self,
        weights: &[f32],
        x: &[f32],
        Kept { inner, norm }: Kept,
        mut dy: Scratch,
        grads: &mut [f32],
        want_dx: bool,
    ) -> Scratch {
        let [weight, ..] = self.split(weights);
        let (dgamma, dbeta) = norm.backward_in_place(&inner, &mut dy);
        drop(inner);
        let (dweight, rest) = grads.split_at_mut(self.weight);
        dweight.copy_from_slice(&conv3d::cpu::grad_weight(&self.conv, x, &dy));
        rest[..dgamma.len()].copy_from_slice(&dgamma);
        rest[dgamma.len()..].copy_from_slice(&dbeta);
        if !want_dx {
            return Scratch::new(0);
        }
        let mut dx = Scratch::zeroed(x.len());
        conv3d::cpu::grad_input_into(&self.conv, weight, &dy, &mut dx);
        dx
    }

    fn out_dims(&self) -> Vec<usize> {
        self.conv.out_dims().to_vec()
    }

    fn counts(&self) -> Vec<usize> {
        vec![self.plan.count()]
    }

    fn of_batch(&self) -> bool {
        self.running.is_none()
    }
}
