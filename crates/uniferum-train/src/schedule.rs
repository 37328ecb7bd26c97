//! The learning rate.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LearningRate {
    /// Falls linearly to 0 at the last step: the paper's.
    #[default]
    Linear,
    /// Stays.
    Constant,
    /// Falls whenever validation stops getting better: the baseline's.
    Plateau {
        /// What the rate is multiplied by.
        #[serde(default = "default_factor")]
        factor: f64,
        /// Validations without a better macro AUROC that are borne; it falls at the next.
        #[serde(default = "default_patience")]
        patience: u64,
        /// By how much, relative to the best, a value must be better to count.
        #[serde(default = "default_threshold")]
        threshold: f64,
        /// Share of the first rate below which it does not fall.
        #[serde(default)]
        floor: f64,
    },
}

fn default_factor() -> f64 {
    0.1
}

fn default_patience() -> u64 {
    10
}

fn default_threshold() -> f64 {
    1e-4
}

impl LearningRate {
    /// The plateau with the customary settings: a tenth at the 11th validation without progress.
    pub fn plateau() -> Self {
        Self::Plateau {
            factor: default_factor(),
            patience: default_patience(),
            threshold: default_threshold(),
            floor: 0.0,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let Self::Plateau {
            factor,
            threshold,
            floor,
            ..
        } = self
        else {
            return Ok(());
        };
        if !(*factor > 0.0 && *factor < 1.0) {
            return Err(Error::config(
                "schedule.factor",
                "between 0 and 1, both excluded",
                factor,
            ));
        }
        for (field, value) in [("schedule.threshold", threshold), ("schedule.floor", floor)] {
            if !(0.0..1.0).contains(value) {
                return Err(Error::config(field, "from 0 to below 1", value));
            }
        }
        Ok(())
    }
}

/// How far a plateau has taken the rate down.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlateauState {
    /// What the rate is multiplied by now.
    pub share: f64,
    /// The best value so far.
    pub best: Option<f64>,
    /// Validations since then, or since the rate fell.
    pub waited: u64,
}

impl Default for PlateauState {
    fn default() -> Self {
        Self {
            share: 1.0,
            best: None,
            waited: 0,
        }
    }
}

impl PlateauState {
    /// Takes note of a validation's value, the larger the better.
    ///
    /// ```
    /// use uniferum_train::{LearningRate, PlateauState};
    /// let rule = LearningRate::Plateau { factor: 0.5, patience: 1, threshold: 0.0, floor: 0.0 };
    /// let mut state = PlateauState::default();
    /// for value in [0.6, 0.7, 0.7] {
    ///     state.observe(&rule, value);
    /// }
    /// assert_eq!(state.share, 1.0); // one validation without progress is borne
    /// state.observe(&rule, 0.69);
    /// assert_eq!(state.share, 0.5);
    /// ```
    pub fn observe(&mut self, rule: &LearningRate, value: f64) {
        let LearningRate::Plateau {
            factor,
            patience,
            threshold,
            floor,
        } = *rule
        else {
            return;
        };
        if self
            .best
            .is_none_or(|best| value > best * (1.0 + threshold))
        {
            self.best = Some(value);
            self.waited = 0;
            return;
        }
        self.waited += 1;
        if self.waited > patience {
            self.share = (self.share * factor).max(floor);
            self.waited = 0;
        }
    }
}

/// Rises linearly over the warm-up, then falls linearly to 0 at the last step.
///
/// ```
/// use uniferum_train::Schedule;
/// let schedule = Schedule { peak: 1.0, warmup: 4, steps: 24 };
/// assert_eq!(schedule.at(0), 0.25);
/// assert_eq!(schedule.at(3), 1.0);
/// assert_eq!(schedule.at(14), 0.5);
/// ```
///
/// # Reference
/// Paper, section 3.6.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The largest rate.
    pub peak: f64,
    /// Steps of the rise.
    pub warmup: u64,
    /// Steps altogether.
    pub steps: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0; every step of the warm-up already learns.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.warm(step);
        }
        let left = self.steps.saturating_sub(step) as f64;
        let fall = self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.peak * (left / fall).min(1.0)
    }

    /// As [`at`](Self::at) with another rule after the warm-up.
    pub fn rate(&self, rule: &LearningRate, plateau: &PlateauState, step: u64) -> f64 {
        match rule {
            LearningRate::Linear => self.at(step),
            LearningRate::Constant => self.warm(step),
            LearningRate::Plateau { .. } => self.warm(step) * plateau.share,
        }
    }

    fn warm(&self, step: u64) -> f64 {
        self.peak * ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0)
    }
}
