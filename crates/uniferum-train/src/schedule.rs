//! The learning rate.

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
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(step) as f64;
        let fall = self.steps.saturating_sub(self.warmup).max(1) as f64;
        self.peak * (left / fall).min(1.0)
    }
}
