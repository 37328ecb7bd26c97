//! Exponential moving average of the weights.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use uniferum_kernels::move_averages;

use crate::error::{Error, Result};
use crate::optimizer::Optimizer;

/// Averages of the trained variables.
#[derive(Debug)]
pub(crate) struct Averages {
    decay: f64,
    tensors: Vec<(String, Tensor)>,
}

impl Averages {
    /// Averages that begin at the variables as they are.
    pub(crate) fn new(decay: f64, optimizer: &Optimizer) -> Result<Self> {
        let copies = optimizer
            .variables()
            .map(|(name, var)| Ok((name.to_owned(), var.as_tensor().copy()?.detach())));
        Ok(Self {
            decay,
            tensors: copies.collect::<Result<_>>()?,
        })
    }

    /// Moves towards the variables after step `step`, counted from 1.
    ///
    /// The first steps count more, or the fresh weights would stay in the average for long.
    pub(crate) fn update(&self, optimizer: &Optimizer, step: u64) -> Result<()> {
        let step = step as f64;
        let decay = self.decay.min((1.0 + step) / (10.0 + step));
        let both = self.tensors.iter().zip(optimizer.variables());
        let pairs: Vec<_> = both
            .map(|((_, average), (_, var))| [average, var.as_tensor()])
            .collect();
        Ok(move_averages(&pairs, decay)?)
    }

    /// Puts the averages in the variables' place while `work` runs.
    pub(crate) fn instead<T>(
        &self,
        optimizer: &Optimizer,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut kept = Vec::with_capacity(self.tensors.len());
        for ((_, average), (_, var)) in self.tensors.iter().zip(optimizer.variables()) {
            kept.push(var.as_tensor().copy()?.detach());
            var.set(average)?;
        }
        let result = work();
        for (kept, (_, var)) in kept.iter().zip(optimizer.variables()) {
            var.set(kept)?;
        }
        result
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let tensors: HashMap<String, Tensor> = self.tensors.iter().cloned().collect();
        candle_core::safetensors::save(&tensors, path).map_err(|e| Error::file(path, e))
    }

    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let found =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| Error::file(path, e))?;
        for (name, average) in &mut self.tensors {
            let tensor = found
                .get(name)
                .ok_or_else(|| Error::file(path, format!("no average of {name}")))?;
            if tensor.dims() != average.dims() {
                let (expected, got) = (average.dims(), tensor.dims());
                let what = format!("average of {name}: expected {expected:?}, got {got:?}");
                return Err(Error::file(path, what));
            }
            *average = tensor.to_device(average.device())?;
        }
        Ok(())
    }
}
