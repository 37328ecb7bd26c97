//! Convolution, batch normalisation and SiLU; only the convolution's output is kept.

use candle_core::Result;

use super::ConvNormSilu;
use super::layer::Differentiable;
use crate::batch_norm::{self, BatchNorm, NormSilu};
use crate::conv3d::{self, Conv3d};
use crate::error::invalid;
use crate::mbconv::{NormedConv, Statistics};
use crate::memory::Scratch;

/// The layer with all its sizes known.
pub(crate) struct ConvNorm {
    conv: Conv3d,
    norm: batch_norm::Plan,
    running: Option<Statistics>,
    eps: f64,
    /// Elements of the convolution's weight.
    weight: usize,
}

/// The convolution's output and its norm.
pub(crate) struct Kept {
    inner: Scratch,
    norm: NormSilu,
}

/// Whether everything about the norm has a value for each channel.
pub(super) fn check_norm(conv: &NormedConv<'_>, channels: usize) -> Result<()> {
    let (mean, var) = conv.running.unzip();
    for vector in [Some(conv.gamma), Some(conv.beta), mean, var] {
        if let Some(vector) = vector
            && vector.dims() != [channels]
        {
            let got = format!("{:?}", vector.dims());
            let expected = format!("[{channels}]");
            return Err(invalid("sequence", "norm parameter", expected, got).into());
        }
    }
    Ok(())
}

impl ConvNorm {
    pub(super) fn new(stage: &ConvNormSilu<'_>, dims: &[usize]) -> Result<Self> {
        let tensors = &stage.conv;
        let conv = Conv3d::new(dims, tensors.weight.dims(), &stage.cfg)?;
        let channels = conv.c_out;
        check_norm(tensors, channels)?;
        let read = |(mean, var)| Statistics::read(mean, var);
        Ok(Self {
            norm: batch_norm::Plan::new(&conv.out_dims())?,
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
        let own = self.running.clone().unwrap_or_else(|| {
            let (mean, var) = batch_norm::cpu::statistics(&self.norm, &inner);
            Statistics { mean, var }
        });
        let (mean, of_batch) = (own.mean.clone(), self.running.is_none());
        let norm = NormSilu(BatchNorm::new(
            self.norm, mean, &own.var, self.eps, of_batch,
        ));
        let mut y = Scratch::new(inner.len());
        norm.forward_into(&inner, gamma, beta, &mut y);
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
        let [weight, gamma, beta] = self.split(weights);
        let (dgamma, dbeta) = norm.backward_in_place(&inner, gamma, beta, &mut dy);
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
        vec![self.conv.batch * self.conv.geometry.out_voxels()]
    }

    fn of_batch(&self) -> bool {
        self.running.is_none()
    }
}
