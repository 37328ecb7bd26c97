//! A batch norm as an affine map per channel, and its derivative likewise.

use candle_core::{Result, Tensor};

use crate::host;
use crate::simd::{Simd, sum, sum_squares};

/// Mean and biased variance of each channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    pub(crate) var: Vec<f32>,
}

impl Statistics {
    /// Copies two `f32` vectors of the host.
    pub(crate) fn read(op: &'static str, mean: &Tensor, var: &Tensor) -> Result<Self> {
        let vector = |t: &Tensor| host::with_f32(op, [&t.contiguous()?], |[t]| t.to_vec());
        Ok(Self {
            mean: vector(mean)?,
            var: vector(var)?,
        })
    }

    /// Mean and variance as tensors outside the graph, `[C]` each.
    pub(crate) fn into_tensors(self) -> (Tensor, Tensor) {
        let channels = self.mean.len();
        (
            host::tensor(self.mean, channels),
            host::tensor(self.var, channels),
        )
    }
}

/// Mean and biased variance of all values of some rows, in two passes.
pub(crate) fn statistics_of<'a>(rows: impl Iterator<Item = &'a [f32]> + Clone) -> (f32, f32) {
    let simd = Simd::detect();
    let count = rows.clone().map(<[f32]>::len).sum::<usize>() as f64;
    let total: f64 = rows.clone().map(|row| sum(simd, row)).sum();
    let mean = (total / count) as f32;
    let squares: f64 = rows.map(|row| sum_squares(simd, row, mean)).sum();
    (mean, (squares / count) as f32)
}

/// A norm ready for use: `y = scale x + shift`.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    pub(crate) mean: Vec<f32>,
    pub(crate) inv_std: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
    /// Values per channel that the statistics are of; `None` for constant statistics.
    count: Option<f64>,
}

impl Norm {
    /// `count`: values per channel when the statistics are the batch's own.
    pub(crate) fn new(
        statistics: &Statistics,
        gamma: &[f32],
        beta: &[f32],
        eps: f64,
        count: Option<usize>,
    ) -> Self {
        let inv = |v: &f32| (1.0 / (f64::from(*v) + eps).sqrt()) as f32;
        let inv_std: Vec<f32> = statistics.var.iter().map(inv).collect();
        let scale: Vec<f32> = gamma.iter().zip(&inv_std).map(|(g, i)| g * i).collect();
        let shift = scale.iter().zip(&statistics.mean).zip(beta);
        Self {
            mean: statistics.mean.clone(),
            shift: shift.map(|((s, m), b)| b - s * m).collect(),
            inv_std,
            scale,
            count: count.map(|n| n as f64),
        }
    }

    /// `(p, q)` such that the gradient of the norm's input is `scale dy + p x + q`: what flows
    /// through the statistics, nothing when these are constants.
    pub(crate) fn through_statistics(&self, c: usize, dgamma: f64, dbeta: f64) -> (f64, f64) {
        let Some(n) = self.count else {
            return (0.0, 0.0);
        };
        let scale = f64::from(self.scale[c]);
        let p = -scale * f64::from(self.inv_std[c]) * dgamma / n;
        (p, -scale * dbeta / n - p * f64::from(self.mean[c]))
    }
}
