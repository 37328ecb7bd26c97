//! One training after another: the encoder, then the whole model.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use uniferum_data::Dataset;
use uniferum_tasks::{Catalogue, Task, TaskKind};
use uniferum_train::{Learner, RunConfig, Trainer, copy_encoder};

use crate::commands::lock::lock;
use crate::global::Global;
use crate::progress::time_left;

/// A trainer of whatever model a configuration names.
pub(crate) type AnyTrainer = Trainer<Box<dyn Learner>>;

/// What the trainings of a command share.
pub(crate) struct Site<'a> {
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) device: &'a Device,
    pub(crate) global: &'a Global,
}

impl Site<'_> {
    /// Trains a configuration in `folder`, or goes on where a stopped run was.
    ///
    /// `encoder` is a finished training whose image encoder the model starts with.
    pub(crate) fn train(
        &self,
        name: &str,
        config: &RunConfig,
        dataset: &Arc<Dataset>,
        encoder: Option<&AnyTrainer>,
        folder: &Path,
    ) -> anyhow::Result<AnyTrainer> {
        let _lock = lock(folder, ".lock", "trains")?;
        let mut trainer = config.trainer(self.catalogue, dataset, self.device)?;
        if let Some(encoder) = encoder {
            copy_encoder(encoder.learner(), trainer.learner())?;
        }
        let done = trainer.resume_in(folder)?;
        let bar = self.global.steps(config.train.steps, name);
        bar.set_position(done);
        trainer.run(&config.loader(dataset, self.device), |p| {
            bar.set_position(p.step);
            bar.set_message(format!("{}, loss {:.3}", time_left(p.eta_seconds), p.loss));
        })?;
        bar.finish_and_clear();
        Ok(trainer)
    }
}

/// The tasks that an encoder alone can be asked.
pub(crate) fn labels(tasks: &[Task]) -> Vec<Task> {
    let labels = tasks.iter().filter(|t| t.kind != TaskKind::Segmentation);
    labels.cloned().collect()
}
