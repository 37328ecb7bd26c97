//! The running statistics of batch norms over a step of several passes.

use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;
use uniferum_encoder::is_buffer;

use crate::distributed::Communicator;
use crate::error::Result;

/// Lets each pass of a step begin at the same statistics, and moves them by the mean of the passes.
///
/// One pass after the other would weigh the last most and depend on the number of processes.
pub(crate) struct RunningStatistics {
    vars: Vec<Var>,
    start: Vec<Tensor>,
    sums: Vec<Vec<f64>>,
    passes: usize,
}

impl RunningStatistics {
    pub(crate) fn new(all: &VarMap) -> Result<Self> {
        let data = all.data().lock().unwrap_or_else(|e| e.into_inner());
        let mut named: Vec<(&String, &Var)> = data.iter().filter(|(n, _)| is_buffer(n)).collect();
        named.sort_by_key(|(name, _)| *name);
        let vars: Vec<Var> = named.into_iter().map(|(_, var)| var.clone()).collect();
        let start: Result<Vec<Tensor>> = vars.iter().map(copy).collect();
        let sums = vars.iter().map(|v| vec![0.0; v.elem_count()]).collect();
        Ok(Self {
            start: start?,
            sums,
            vars,
            passes: 0,
        })
    }

    /// Before each pass.
    pub(crate) fn rewind(&self) -> Result<()> {
        for (var, start) in self.vars.iter().zip(&self.start) {
            var.set(start)?;
        }
        Ok(())
    }

    /// After each pass.
    pub(crate) fn take(&mut self) -> Result<()> {
        for (var, sum) in self.vars.iter().zip(&mut self.sums) {
            let values = var.as_tensor().detach().to_dtype(DType::F64)?;
            let values: Vec<f64> = values.flatten_all()?.to_vec1()?;
            for (sum, value) in sum.iter_mut().zip(values) {
                *sum += value;
            }
        }
        self.passes += 1;
        Ok(())
    }

    /// After the step: the mean over the passes of all processes.
    pub(crate) fn settle(&self, group: &dyn Communicator) -> Result<()> {
        let mut flat: Vec<f64> = self.sums.concat();
        flat.push(self.passes as f64);
        group.sum_f64(&mut flat)?;
        let passes = flat.pop().unwrap_or(1.0).max(1.0);
        let mut rest = flat.as_slice();
        for var in &self.vars {
            let (own, after) = rest.split_at(var.elem_count());
            rest = after;
            let means: Vec<f64> = own.iter().map(|v| v / passes).collect();
            let mean = Tensor::from_vec(means, var.dims(), var.device())?;
            var.set(&mean.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }
}

fn copy(var: &Var) -> Result<Tensor> {
    Ok(var.as_tensor().copy()?.detach())
}
