//! AdamW over named variables, with gradient clipping and a state that can be saved.

use std::collections::HashMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use uniferum_kernels::{AdamW, Trained, adamw_steps, clip_factor};

use crate::config::TrainConfig;
use crate::distributed::Communicator;
use crate::error::{Error, Result};

/// A variable with its running means.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    state: Tensor,
    decays: bool,
}

/// AdamW with two groups: weights decay; biases, norms and single vectors do not.
#[derive(Debug)]
pub struct Optimizer {
    slots: Vec<Slot>,
    options: AdamW,
    clip_norm: f64,
    step: u64,
}

impl Optimizer {
    /// An optimiser of `vars` (sorted by name) that has seen no gradient.
    ///
    /// # Errors
    /// When memory for the state cannot be had.
    pub fn new(vars: Vec<(String, Var)>, config: &TrainConfig) -> Result<Self> {
        let slots: Result<Vec<Slot>> = vars
            .into_iter()
            .map(|(name, var)| {
                let state = Tensor::zeros((2, var.elem_count()), DType::F32, var.device())?;
                let decays = decays(&name);
                Ok(Slot {
                    name,
                    var,
                    state,
                    decays,
                })
            })
            .collect();
        let options = AdamW {
            beta1: config.beta1,
            beta2: config.beta2,
            weight_decay: config.weight_decay,
            ..AdamW::default()
        };
        Ok(Self {
            slots: slots?,
            options,
            clip_norm: config.clip_norm,
            step: 0,
        })
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.slots.iter().map(|s| s.var.elem_count()).sum()
    }

    /// Updates all variables that have a gradient; returns the gradient's norm before clipping.
    ///
    /// Nothing is updated where the norm is not finite.
    ///
    /// # Errors
    /// When a gradient does not fit its variable.
    pub fn step(&mut self, grads: &GradStore, learning_rate: f64) -> Result<f64> {
        let mut sums = Gradients::default();
        sums.add(self, grads)?;
        self.apply(&sums, learning_rate)
    }

    /// As [`step`](Self::step) with the summed gradients of several passes; 0 where there are none.
    ///
    /// # Errors
    /// When a gradient does not fit its variable.
    pub fn apply(&mut self, grads: &Gradients, learning_rate: f64) -> Result<f64> {
        match self.apply_unread(grads, learning_rate)? {
            Some(norm) => norm.read(),
            None => Ok(0.0),
        }
    }

    /// As [`apply`](Self::apply), but the norm stays where the gradients are, so that a GPU goes on
    /// without waiting for the host. None where there are no gradients.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub(crate) fn apply_unread(
        &mut self,
        grads: &Gradients,
        learning_rate: f64,
    ) -> Result<Option<UnreadNorm>> {
        self.step += 1;
        let present = grads.present();
        if present.is_empty() {
            return Ok(None);
        }
        let clip = clip_factor(&present, self.clip_norm)?;
        let options = AdamW {
            lr: learning_rate,
            ..self.options
        };
        let all = grads.of(&self.slots).map(|(slot, gradient)| Trained {
            parameter: slot.var.as_tensor(),
            gradient,
            state: &slot.state,
            decays: slot.decays,
        });
        let all: Vec<Trained<'_>> = all.collect();
        adamw_steps(&all, self.step, &options, Some(&clip))?;
        Ok(Some(UnreadNorm(clip)))
    }

    /// The variables with their names, sorted.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.slots.iter().map(|s| (s.name.as_str(), &s.var))
    }

    /// Writes the running means and the step.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let mut tensors: HashMap<String, Tensor> = self
            .slots
            .iter()
            .map(|s| (s.name.clone(), s.state.clone()))
            .collect();
        let step = Tensor::new(&[self.step as i64], &Device::Cpu)?;
        tensors.insert(STEP.to_owned(), step);
        candle_core::safetensors::save(&tensors, path).map_err(|e| Error::file(path, e))
    }

    /// Reads what [`save`](Self::save) wrote, for the same variables.
    ///
    /// # Errors
    /// [`Error::File`] where the file is not of these variables.
    pub(crate) fn load(&mut self, path: &Path) -> Result<()> {
        let tensors =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|e| Error::file(path, e))?;
        let find = |name: &str| {
            tensors
                .get(name)
                .ok_or_else(|| Error::file(path, format!("no optimiser state of {name}")))
        };
        let step = find(STEP)?.to_vec1::<i64>()?;
        for slot in &mut self.slots {
            let state = find(&slot.name)?;
            if state.dims() != slot.state.dims() {
                let (expected, got) = (slot.state.dims(), state.dims());
                let what = format!("state of {}: expected {expected:?}, got {got:?}", slot.name);
                return Err(Error::file(path, what));
            }
            slot.state = state.to_device(slot.var.device())?;
        }
        self.step = step.first().copied().unwrap_or(0) as u64;
        Ok(())
    }
}

/// Gradients summed over the passes of a step, in the optimiser's order.
#[derive(Debug, Default)]
pub struct Gradients {
    sums: Vec<Option<Tensor>>,
}

/// The norm of a gradient before clipping, on the device.
#[derive(Debug)]
pub(crate) struct UnreadNorm(Tensor);

impl UnreadNorm {
    /// Waits for it.
    pub(crate) fn read(&self) -> Result<f64> {
        Ok(f64::from(self.0.to_vec1::<f32>()?[0]))
    }
}

impl Gradients {
    fn present(&self) -> Vec<&Tensor> {
        self.sums.iter().flatten().collect()
    }

    /// The variables that have a gradient.
    fn of<'a>(&'a self, slots: &'a [Slot]) -> impl Iterator<Item = (&'a Slot, &'a Tensor)> {
        let both = slots.iter().zip(&self.sums);
        both.filter_map(|(slot, grad)| Some((slot, grad.as_ref()?)))
    }

    /// Adds the gradients of one backward pass.
    ///
    /// # Errors
    /// When a gradient has another shape than before.
    pub fn add(&mut self, optimizer: &Optimizer, grads: &GradStore) -> Result<()> {
        self.sums.resize_with(optimizer.slots.len(), || None);
        for (sum, slot) in self.sums.iter_mut().zip(&optimizer.slots) {
            let Some(grad) = grads.get(slot.var.as_tensor()) else {
                continue;
            };
            *sum = Some(match sum.take() {
                Some(before) => (before + grad)?,
                None => grad.clone(),
            });
        }
        Ok(())
    }

    /// Multiplies all gradients.
    ///
    /// # Errors
    /// When memory for the products cannot be had.
    pub(crate) fn scale(&mut self, factor: f64) -> Result<()> {
        if factor == 1.0 {
            return Ok(());
        }
        for sum in self.sums.iter_mut().flatten() {
            *sum = (&*sum * factor)?;
        }
        Ok(())
    }

    /// Sums the gradients of all processes.
    ///
    /// # Errors
    /// When the processes cannot speak to each other.
    pub(crate) fn reduce(&mut self, optimizer: &Optimizer, group: &dyn Communicator) -> Result<()> {
        self.sums.resize_with(optimizer.slots.len(), || None);
        // A process without a pass has no gradients; a variable without a gradient anywhere keeps
        // none, so that it does not decay.
        let mut present: Vec<f64> = self
            .sums
            .iter()
            .map(|g| f64::from(u8::from(g.is_some())))
            .collect();
        group.sum_f64(&mut present)?;
        let mut parts = Vec::with_capacity(self.sums.len());
        for (sum, slot) in self.sums.iter().zip(&optimizer.slots) {
            parts.push(match sum {
                Some(grad) => grad.detach().flatten_all()?,
                None => Tensor::zeros(slot.var.elem_count(), DType::F32, slot.var.device())?,
            });
        }
        let total = group.sum_tensor(&Tensor::cat(&parts, 0)?)?;
        let mut at = 0;
        for ((sum, slot), present) in self.sums.iter_mut().zip(&optimizer.slots).zip(present) {
            let n = slot.var.elem_count();
            let own = || total.narrow(0, at, n)?.reshape(slot.var.dims());
            *sum = (present > 0.0).then(own).transpose()?;
            at += n;
        }
        Ok(())
    }
}

const STEP: &str = "optimizer.step";

/// Weight matrices, filters and embedding tables decay.
fn decays(name: &str) -> bool {
    // `ln` as Megatron calls its norms.
    let norms = ["LayerNorm", ".bn", ".ln."];
    let norm = norms.iter().any(|norm| name.contains(norm));
    let vector = name.ends_with("emb_start") || name.ends_with("emb_end");
    name.ends_with(".weight") && !norm && !vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_weights_decay() {
        for name in [
            "model.encoder.layer.0.output.dense.weight",
            "vision_model.model.conv_stem.weight",
        ] {
            assert!(decays(name), "{name}");
        }
        for name in [
            "model.encoder.layer.0.output.dense.bias",
            "model.embeddings.LayerNorm.weight",
            "vision_model.model.blocks.0.0.bn1.weight",
            "vision_model.emb_start",
        ] {
            assert!(!decays(name), "{name}");
        }
    }
}
