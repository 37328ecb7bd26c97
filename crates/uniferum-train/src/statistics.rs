//! The running statistics of batch norms over a step of several passes or processes.

use candle_core::{DType, Tensor, Var};
use candle_nn::VarMap;
use uniferum_encoder::is_buffer;

use crate::distributed::Communicator;
use crate::error::Result;

/// Lets each pass of a step begin at the same statistics, and moves them by the mean of the passes; of a step
/// that is refused nothing stays.
///
/// One pass after the other would weigh the last most and depend on the number of processes.
pub(crate) struct RunningStatistics {
    vars: Vec<Var>,
    start: Vec<Tensor>,
    /// Of double precision, where the statistics are: a GPU's are not read.
    sums: Vec<Tensor>,
    passes: usize,
}

impl RunningStatistics {
    pub(crate) fn new(all: &VarMap) -> Result<Self> {
        let data = all.data().lock().unwrap_or_else(|e| e.into_inner());
        let mut named: Vec<(&String, &Var)> = data.iter().filter(|(n, _)| is_buffer(n)).collect();
        named.sort_by_key(|(name, _)| *name);
        let vars: Vec<Var> = named.into_iter().map(|(_, var)| var.clone()).collect();
        let start: Result<Vec<Tensor>> = vars.iter().map(copy).collect();
        let sums = vars
            .iter()
            .map(|v| Ok(Tensor::zeros(v.dims(), DType::F64, v.device())?));
        Ok(Self {
            start: start?,
            sums: sums.collect::<Result<_>>()?,
            vars,
            passes: 0,
        })
    }

    /// Before each pass, and after a step that is refused.
    pub(crate) fn rewind(&self) -> Result<()> {
        for (var, start) in self.vars.iter().zip(&self.start) {
            var.set(start)?;
        }
        Ok(())
    }

    /// After each pass.
    pub(crate) fn take(&mut self) -> Result<()> {
        for (var, sum) in self.vars.iter().zip(&mut self.sums) {
            *sum = (&*sum + var.as_tensor().detach().to_dtype(DType::F64)?)?;
        }
        self.passes += 1;
        Ok(())
    }

    /// After the step: the mean over the passes of all processes.
    pub(crate) fn settle(&self, group: &dyn Communicator) -> Result<()> {
        let (sums, passes) = match group.world() {
            1 => (self.sums.clone(), self.passes as f64),
            _ => self.reduce(group)?,
        };
        for (var, sum) in self.vars.iter().zip(sums) {
            var.set(&(sum / passes.max(1.0))?.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }

    /// Sums and number of passes over all processes.
    fn reduce(&self, group: &dyn Communicator) -> Result<(Vec<Tensor>, f64)> {
        let mut flat = Vec::new();
        for sum in &self.sums {
            flat.extend(sum.flatten_all()?.to_vec1::<f64>()?);
        }
        flat.push(self.passes as f64);
        group.sum_f64(&mut flat)?;
        let passes = flat.pop().unwrap_or(1.0);
        let mut rest = flat.as_slice();
        let sums = self.vars.iter().map(|var| {
            let (own, after) = rest.split_at(var.elem_count());
            rest = after;
            Ok(Tensor::from_slice(own, var.dims(), var.device())?)
        });
        Ok((sums.collect::<Result<_>>()?, passes))
    }
}

fn copy(var: &Var) -> Result<Tensor> {
    Ok(var.as_tensor().copy()?.detach())
}
