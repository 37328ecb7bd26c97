//! What a step did, read from the device as late as may be.

use candle_core::Tensor;
use serde::Serialize;
use uniferum_data::Batch;

use crate::distributed::Communicator;
use crate::error::{Error, Result};
use crate::optimizer::UnreadNorm;

/// What a step did; a line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// The step, counted from 1.
    pub step: u64,
    /// Its loss.
    pub loss: f32,
    /// Mean loss of its label questions.
    pub label_loss: Option<f32>,
    /// Mean loss of its mask questions, with the mask weight.
    pub mask_loss: Option<f32>,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Scans of the step, over all processes.
    pub scans: usize,
    /// Questions of the step, over all processes.
    pub questions: usize,
    /// Seconds of the step, waiting for data included; the mean of the steps that were read together.
    pub seconds: f64,
    /// Scans a second, over all processes.
    pub samples_per_second: f64,
    /// Seconds that the rest of the run takes at the pace so far.
    pub eta_seconds: f64,
    /// Resident memory of this process, MiB, where the system tells.
    pub memory_mib: Option<f64>,
    /// Memory in use on the GPU, MiB, other processes' included; nothing on a CPU.
    pub gpu_memory_mib: Option<f64>,
}

/// A step that has been taken, whose numbers may still be on the device.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) step: u64,
    pub(super) learning_rate: f64,
    pub(super) norm: Norm,
    pub(super) sums: Sums,
}

#[derive(Debug)]
pub(super) enum Norm {
    Known(f64),
    Unread(UnreadNorm),
}

impl Taken {
    /// Waits for the step where that was not done before.
    pub(super) fn read(mut self) -> Result<Progress> {
        if !self.sums.take()? {
            return Err(Error::NotFinite {
                step: self.step,
                samples: self.sums.named("of this process"),
            });
        }
        let gradient_norm = self.read_norm()?;
        let sums = self.sums;
        let mean = |sum: f64, n: f64| (n > 0.0).then_some((sum / n) as f32);
        let questions = sums.labels + sums.masks;
        Ok(Progress {
            step: self.step,
            loss: ((sums.label_loss + sums.mask_loss) / questions.max(1.0)) as f32,
            label_loss: mean(sums.label_loss, sums.labels),
            mask_loss: mean(sums.mask_loss, sums.masks),
            gradient_norm,
            learning_rate: self.learning_rate,
            scans: sums.scans as usize,
            questions: questions as usize,
            seconds: 0.0,
            samples_per_second: 0.0,
            eta_seconds: 0.0,
            memory_mib: None,
            gpu_memory_mib: None,
        })
    }

    /// The norm, if it is finite; waits for it.
    pub(super) fn read_norm(&mut self) -> Result<f64> {
        let norm = match &self.norm {
            Norm::Known(norm) => *norm,
            Norm::Unread(norm) => norm.read()?,
        };
        self.norm = Norm::Known(norm);
        if norm.is_finite() {
            return Ok(norm);
        }
        Err(Error::GradientNotFinite {
            step: self.step,
            samples: self.sums.names.clone(),
        })
    }
}

/// Losses of a step, summed over passes and processes.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// Passes whose losses have not been read.
    held: Vec<Held>,
    label_loss: f64,
    labels: f64,
    mask_loss: f64,
    masks: f64,
    scans: f64,
    /// Questions, whether their losses have been read or not.
    pub(super) asked: f64,
    pub(super) bad: f64,
    /// Processes that were asked to stop.
    pub(super) stop: f64,
    /// Processes that could not read their scans.
    pub(super) lost: f64,
    /// Questions that the shares of a step's passes were made for.
    pub(super) planned: Option<usize>,
    names: Vec<String>,
    bad_names: Vec<String>,
}

/// The losses of one pass.
#[derive(Debug)]
struct Held {
    losses: Tensor,
    kinds: Tensor,
    names: Vec<String>,
}

impl Sums {
    /// Keeps the losses of a pass where they are.
    pub(super) fn hold(&mut self, batch: &Batch, losses: Tensor) -> Result<()> {
        self.scans += batch.images.dim(0)? as f64;
        self.asked += batch.prompts.len() as f64;
        self.held.push(Held {
            losses,
            kinds: batch.is_segmentation.clone(),
            names: batch.names.clone(),
        });
        Ok(())
    }

    /// Reads and adds the losses that were kept; false where one of all is not finite.
    pub(super) fn take(&mut self) -> Result<bool> {
        for held in self.held.drain(..) {
            let losses = held.losses.to_vec1::<f32>()?;
            let kinds = held.kinds.to_vec1::<f32>()?;
            for ((loss, kind), name) in losses.iter().zip(kinds).zip(held.names) {
                let (sum, count) = if kind > 0.5 {
                    (&mut self.mask_loss, &mut self.masks)
                } else {
                    (&mut self.label_loss, &mut self.labels)
                };
                *sum += f64::from(*loss);
                *count += 1.0;
                if !loss.is_finite() {
                    self.bad += 1.0;
                    self.bad_names.push(name.clone());
                }
                self.names.push(name);
            }
        }
        Ok(self.bad == 0.0)
    }

    pub(super) fn reduce(&mut self, group: &dyn Communicator) -> Result<()> {
        let own = [
            &mut self.label_loss,
            &mut self.labels,
            &mut self.mask_loss,
            &mut self.masks,
            &mut self.scans,
            &mut self.asked,
            &mut self.bad,
            &mut self.stop,
            &mut self.lost,
        ];
        let mut values: Vec<f64> = own.iter().map(|v| **v).collect();
        group.sum_f64(&mut values)?;
        for (own, sum) in own.into_iter().zip(values) {
            *own = sum;
        }
        Ok(())
    }

    /// What the summed gradients of several passes lack to be the mean over the questions that were
    /// asked: scans that could not be read were planned, but not asked about.
    pub(super) fn correction(&self) -> f64 {
        self.planned
            .map_or(1.0, |planned| planned as f64 / self.asked.max(1.0))
    }

    /// The questions that went wrong here, or a word for those elsewhere.
    pub(super) fn named(self, elsewhere: &str) -> Vec<String> {
        if self.bad_names.is_empty() {
            return vec![format!("{} questions {elsewhere}", self.bad)];
        }
        self.bad_names
    }
}
