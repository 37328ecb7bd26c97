//! One step of the optimiser.

use std::sync::atomic::Ordering;

use candle_core::DType;
use uniferum_data::{Batch, Pass};

use super::Trainer;
use super::taken::{Norm, Progress, Sums, Taken};
use crate::config::Precision;
use crate::error::{Error, Result};
use crate::learner::Learner;
use crate::optimizer::Gradients;
use crate::schedule::Schedule;
use crate::statistics::RunningStatistics;

/// The passes of a run's steps, one after the other.
type Source<'a> = dyn Iterator<Item = uniferum_data::Result<Pass>> + 'a;

impl<L: Learner> Trainer<L> {
    /// One optimiser step on one batch, up to the recipe's last. Of several processes each calls it, with its
    /// part of the step.
    ///
    /// # Errors
    /// As [`run`](Self::run). Weights and running statistics are then as they were before; but on a GPU that
    /// trains alone a step of one pass has moved the statistics.
    pub fn train_on(&mut self, batch: &Batch) -> Result<Progress> {
        if self.state.step >= self.config.steps {
            let expected = format!("more than the {} that are taken", self.state.step);
            return Err(Error::config("steps", expected, self.config.steps));
        }
        // With others the batch is a part of a step, whose sums are shared by the questions of all.
        let (passes, questions) = match self.group.world() {
            1 => (1, batch.prompts.len()),
            world => (world, 1),
        };
        let pass = Pass {
            step: self.state.step,
            index: self.group.rank(),
            passes,
            questions,
            batch: Some(batch.clone()),
            last: true,
        };
        let done = self.step(&mut std::iter::once(Ok(pass)))?.read()?;
        self.learner.refresh()?;
        Ok(done)
    }

    /// Whether the host need not see a step's loss before the next step: no other process waits for
    /// it, and a GPU would stand still meanwhile.
    pub(super) fn reads_rarely(&self) -> bool {
        self.device.is_cuda() && self.group.world() == 1
    }

    /// A step, or an error and the model as it was before: of a step that cannot be had (see
    /// [`is_of_data`](Error::is_of_data)) every process learns before any of its weights moves.
    pub(super) fn step(&mut self, passes: &mut Source<'_>) -> Result<Taken> {
        let mut statistics: Option<RunningStatistics> = None;
        let taken = self.attempt(passes, &mut statistics);
        if taken.is_err()
            && let Some(statistics) = &statistics
        {
            statistics.rewind()?;
        }
        taken
    }

    fn attempt(
        &mut self,
        passes: &mut Source<'_>,
        statistics: &mut Option<RunningStatistics>,
    ) -> Result<Taken> {
        let step = self.state.step;
        let mut gradients = Gradients::default();
        let mut sums = Sums::default();
        let computed = self.passes(passes, &mut sums, &mut gradients, statistics);
        match computed {
            Err(error) if !error.is_of_data() => return Err(error),
            _ => sums.lost = f64::from(u8::from(computed.is_err())),
        }
        sums.stop = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        sums.reduce(&*self.group)?;
        if sums.lost > 0.0 {
            return computed.and(Err(Error::Elsewhere { step: step + 1 }));
        }
        self.interrupted = sums.stop > 0.0;
        if sums.asked == 0.0 {
            return Err(Error::NoScans { step: step + 1 });
        }
        if sums.bad > 0.0 {
            return Err(Error::NotFinite {
                step: step + 1,
                samples: sums.named("of another process"),
            });
        }
        if self.group.world() > 1 {
            gradients.reduce(&self.optimizer, &*self.group)?;
        }
        gradients.scale(sums.correction())?;
        if let Some(statistics) = statistics {
            statistics.settle(&*self.group)?;
        }
        self.update(&gradients, sums)
    }

    /// Forward and backward of all passes of a step.
    fn passes(
        &self,
        passes: &mut Source<'_>,
        sums: &mut Sums,
        gradients: &mut Gradients,
        statistics: &mut Option<RunningStatistics>,
    ) -> Result<()> {
        let step = self.state.step + 1;
        loop {
            let mut pass = passes.next().ok_or(Error::NoBatches { step })??;
            // Of a single pass too: there may be processes that have none, or the step be refused. Where losses
            // are read rarely that would be known too late.
            let kept = pass.passes > 1 || !self.reads_rarely();
            if kept && statistics.is_none() && !self.config.freeze_statistics {
                *statistics = Some(RunningStatistics::new(self.learner.variables())?);
            }
            if let Some(statistics) = &statistics {
                statistics.rewind()?;
            }
            if pass.passes > 1 {
                sums.planned = Some(pass.questions);
            }
            if let Some(mut batch) = pass.batch.take() {
                if self.config.precision == Precision::Bf16 {
                    batch.images = batch.images.to_dtype(DType::BF16)?;
                }
                self.pass(&pass, &batch, sums, gradients)?;
                if let Some(statistics) = statistics {
                    statistics.take()?;
                }
            }
            if pass.last {
                return Ok(());
            }
        }
    }

    /// Forward and backward of one pass over its batch.
    fn pass(
        &self,
        pass: &Pass,
        batch: &Batch,
        sums: &mut Sums,
        gradients: &mut Gradients,
    ) -> Result<()> {
        // A resumed run drops what it would have dropped.
        let seed = self.config.seed.wrapping_mul(1 << 32);
        let seed = seed.wrapping_add(self.state.step);
        let seed = seed.wrapping_add((pass.index as u64) << 40);
        let loss = self.learner.loss(batch, &self.config.loss, seed)?;
        sums.hold(batch, loss.per_sample)?;
        if !self.reads_rarely() && !sums.take()? {
            return Ok(());
        }
        let grads = if pass.passes == 1 {
            loss.total.backward()?
        } else {
            let share = batch.prompts.len() as f64 / pass.questions.max(1) as f64;
            (loss.total * share)?.backward()?
        };
        gradients.add(&self.optimizer, &grads)
    }

    fn update(&mut self, gradients: &Gradients, sums: Sums) -> Result<Taken> {
        let schedule = Schedule {
            peak: self.config.learning_rate,
            warmup: self.config.warmup_steps,
            steps: self.config.steps,
        };
        let plateau = &self.state.plateau;
        let learning_rate = schedule.rate(&self.config.schedule, plateau, self.state.step);
        let mut taken = Taken {
            step: self.state.step + 1,
            learning_rate,
            norm: Norm::Known(0.0),
            sums,
        };
        if let Some(norm) = self.optimizer.apply_unread(gradients, learning_rate)? {
            taken.norm = Norm::Unread(norm);
        }
        if !self.reads_rarely() {
            taken.read_norm()?;
        }
        self.state.step += 1;
        if let Some(averages) = &self.averages {
            averages.update(self.state.step)?;
        }
        Ok(taken)
    }
}
