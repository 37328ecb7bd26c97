//! What a run leaves in its folder, and how it goes on from there.

use std::path::Path;

use uniferum_tasks::trained;

use super::Trainer;
use crate::checkpoint::{self, Parts, Settings};
use crate::digest;
use crate::ema::Averages;
use crate::error::{Error, Result};
use crate::learner::Learner;
use crate::log::Logs;

impl<L: Learner> Trainer<L> {
    /// Writes checkpoints and logs to a folder; goes on from its newest checkpoint if there is one.
    ///
    /// Returns the number of steps that were found done.
    ///
    /// # Errors
    /// [`Error::File`] where the folder cannot be used or its checkpoint belongs to another configuration:
    /// another recipe, network, input or validation. Settings that change no weight may differ
    /// (`keep_checkpoints`, `checkpoint_every`, `read_loss_every`). [`Error::Distributed`] where processes
    /// find different checkpoints.
    pub fn resume_in(&mut self, folder: &Path) -> Result<u64> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        if self.read_latest(folder)?.is_none()
            && let Some(decay) = self.config.ema_decay
        {
            // Weights may have been initialised since the averages were made.
            let all = self.learner.variables();
            self.averages = Some(Averages::new(decay, &self.optimizer, all)?);
        }
        self.agree_on_step(folder)?;
        if self.group.rank() == 0 {
            self.logs = Some(Logs::open(folder, self.state.step)?);
        }
        self.folder = Some(folder.to_owned());
        Ok(self.state.step)
    }

    /// Goes on from a folder's newest checkpoint if there is one, and leaves the folder as it is: checkpoints and
    /// logs go where [`resume_in`](Self::resume_in) says, or nowhere.
    ///
    /// Returns the number of steps that were found done, or nothing where there is no checkpoint.
    ///
    /// # Errors
    /// [`Error::File`] as of [`resume_in`](Self::resume_in).
    pub fn read_latest(&mut self, folder: &Path) -> Result<Option<u64>> {
        let Some(path) = checkpoint::latest_checkpoint(folder) else {
            return Ok(None);
        };
        let settings = self.settings();
        self.state = checkpoint::load(
            &path,
            &mut self.learner,
            &mut self.optimizer,
            self.averages.as_mut(),
            &settings,
        )?;
        Ok(Some(self.state.step))
    }

    /// Only the first process writes checkpoints: one that does not see them would start anew in silence.
    fn agree_on_step(&self, folder: &Path) -> Result<()> {
        let mut steps = vec![0.0; self.group.world()];
        steps[self.group.rank()] = self.state.step as f64;
        self.group.sum_f64(&mut steps)?;
        if steps.iter().all(|step| *step == steps[0]) {
            return Ok(());
        }
        Err(Error::Distributed(format!(
            "the processes would go on after different numbers of steps, {steps:?}: is {} shared by all of \
             them?",
            folder.display()
        )))
    }

    /// What a run that goes on must have in common with this one.
    pub(super) fn settings(&self) -> Settings {
        let validation = self.validation.as_ref();
        let validation = validation.map(|v| digest::of_validation(&v.dataset, &v.scans));
        Settings {
            train: serde_json::json!(self.config),
            model: self.learner.settings(),
            input: serde_json::json!(self.input),
            validation: validation.unwrap_or("none".to_owned()).into(),
        }
    }

    /// Writes a checkpoint now, if the run has a folder and this is its first process. Of one of this step that
    /// is there already the weights stay: the same run makes the same ones.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn checkpoint(&self) -> Result<()> {
        let Some(folder) = self.folder.as_ref().filter(|_| self.group.rank() == 0) else {
            return Ok(());
        };
        let parts = Parts {
            learner: &self.learner,
            optimizer: &self.optimizer,
            averages: self.averages.as_ref(),
            state: &self.state,
            settings: self.settings(),
            questions: &self.questions,
            keep: self.config.keep_checkpoints,
        };
        checkpoint::save(folder, &parts)?;
        Ok(())
    }

    /// Writes the model alone, with what its use needs beside it: configuration, tokenizer and, where
    /// they are known, the input's settings and the questions.
    ///
    /// Averages take the place of the weights where the recipe keeps them, and adapters are merged.
    ///
    /// # Errors
    /// [`Error::Model`] or [`Error::File`].
    pub fn save_model(&self, path: &Path) -> Result<()> {
        self.averaged(|| self.learner.save(path))?;
        let Some(folder) = path.parent() else {
            return Ok(());
        };
        if let Some(input) = &self.input {
            input.save(folder)?;
        }
        if !self.questions.is_empty() {
            trained::save(folder, &self.questions)?;
        }
        Ok(())
    }

    /// Writes the adapters alone, as averages where the recipe keeps them; false where there are none.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn export_adapter(&self, folder: &Path) -> Result<bool> {
        self.averaged(|| self.learner.export_adapter(folder))
    }
}
