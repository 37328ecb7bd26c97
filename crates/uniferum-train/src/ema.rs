//! Exponential moving average of the weights.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;
use uniferum_encoder::is_buffer;
use uniferum_kernels::move_averages;

use crate::error::{Error, Result};
use crate::optimizer::Optimizer;

/// Averages of the trained variables, and of the running statistics: averaged weights with statistics of the
/// last steps would be a network that never was.
#[derive(Debug)]
pub(crate) struct Averages {
    decay: f64,
    averaged: Vec<Averaged>,
}

#[derive(Debug)]
struct Averaged {
    name: String,
    var: Var,
    average: Tensor,
}

impl Averages {
    /// Averages that begin at the variables as they are.
    pub(crate) fn new(decay: f64, optimizer: &Optimizer, all: &VarMap) -> Result<Self> {
        let trained = optimizer.variables();
        let mut vars: Vec<(String, Var)> =
            trained.map(|(n, v)| (n.to_owned(), v.clone())).collect();
        let data = all.data().lock().unwrap_or_else(|e| e.into_inner());
        let moves = |name: &str, var: &Var| is_buffer(name) && var.dtype() == DType::F32;
        let statistics = data.iter().filter(|(name, var)| moves(name, var));
        vars.extend(statistics.map(|(name, var)| (name.clone(), var.clone())));
        vars.sort_by(|a, b| a.0.cmp(&b.0));
        let averaged = vars.into_iter().map(|(name, var)| {
            Ok(Averaged {
                average: copy(&var)?,
                name,
                var,
            })
        });
        Ok(Self {
            decay,
            averaged: averaged.collect::<Result<_>>()?,
        })
    }

    /// Moves towards the variables after step `step`, counted from 1.
    ///
    /// The first steps count more, or the fresh weights would stay in the average for long.
    pub(crate) fn update(&self, step: u64) -> Result<()> {
        let step = step as f64;
        let decay = self.decay.min((1.0 + step) / (10.0 + step));
        let averaged = self.averaged.iter();
        let pairs: Vec<_> = averaged.map(|a| [&a.average, a.var.as_tensor()]).collect();
        Ok(move_averages(&pairs, decay)?)
    }

    /// Puts the averages in the variables' place while `work` runs.
    pub(crate) fn instead<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut kept = Vec::with_capacity(self.averaged.len());
        let put = self.averaged.iter().try_for_each(|averaged| {
            kept.push(copy(&averaged.var)?);
            Ok(averaged.var.set(&averaged.average)?)
        });
        let result = put.and_then(|()| work());
        // Whatever went wrong: what is saved next are the weights themselves.
        let back = kept.iter().zip(&self.averaged);
        let back: Vec<_> = back
            .map(|(kept, averaged)| averaged.var.set(kept))
            .collect();
        let back: candle_core::Result<()> = back.into_iter().collect();
        result.and_then(|done| Ok(back.map(|()| done)?))
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let averaged = self.averaged.iter();
        let tensors: HashMap<&str, Tensor> = averaged
            .map(|a| (a.name.as_str(), a.average.clone()))
            .collect();
        candle_core::safetensors::save(&tensors, path).map_err(|e| Error::file(path, e))
    }

    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let found =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| Error::file(path, e))?;
        for Averaged { name, average, var } in &mut self.averaged {
            let tensor = match found.get(name.as_str()) {
                Some(tensor) => tensor,
                // Earlier versions averaged no statistics: they begin as they are.
                None if is_buffer(name) => &copy(var)?,
                None => return Err(Error::file(path, format!("no average of {name}"))),
            };
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

fn copy(var: &Var) -> Result<Tensor> {
    Ok(var.as_tensor().copy()?.detach())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    #[test]
    fn the_weights_come_back_from_work_that_fails() {
        let device = Device::Cpu;
        let vars = VarMap::new();
        let var = Var::new(&[1f32, 2.0], &device).unwrap();
        let name = "a.weight".to_owned();
        vars.data()
            .lock()
            .unwrap()
            .insert(name.clone(), var.clone());
        let optimizer = Optimizer::new(vec![(name, var.clone())], &TrainConfig::default());
        let averages = Averages::new(0.9, &optimizer.unwrap(), &vars).unwrap();
        var.set(&Tensor::new(&[5f32, 6.0], &device).unwrap())
            .unwrap();
        let values = || var.as_tensor().to_vec1::<f32>().unwrap();
        let mut seen = Vec::new();
        let failed: Result<()> = averages.instead(|| {
            seen = values();
            Err(Error::config("work", "something", "nothing"))
        });
        assert!(failed.unwrap_err().to_string().contains("work"));
        assert_eq!((seen, values()), (vec![1.0, 2.0], vec![5.0, 6.0]));
    }
}
