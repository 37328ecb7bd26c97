//! Steps that are too large for one pass through the model, or shared by several processes.

use std::sync::Arc;

use super::queue::{Job, Queue};
use super::{Loader, LoaderStatistics, StreamOptions};
use crate::collate::Batch;
use crate::error::{Error, Result};
use crate::sampler::Question;

/// What one process sends through the model at once.
#[derive(Debug, Clone)]
pub struct Pass {
    /// The step, counted from 0.
    pub step: u64,
    /// Which pass of the step it is, counted over all processes.
    pub index: usize,
    /// Passes of the step, over all processes.
    pub passes: usize,
    /// Questions that the step was to have, over all processes: those of scans that could not be read
    /// are counted although no batch holds them.
    pub questions: usize,
    /// The batch; `None` where the step has fewer passes than there are processes, or several passes and
    /// no scan of this one could be read. Whether any pass of the step has a batch is for whoever takes
    /// all of them to see.
    pub batch: Option<Batch>,
    /// Whether it is this process's last of the step.
    pub last: bool,
}

/// How steps are cut and shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Most scans of a pass (up to half as many again in the last one).
    pub scans_per_pass: usize,
    /// Which of the processes this is, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
}

impl Loader {
    /// The passes of this process for the steps from `start` up to `end`, prepared by several threads and
    /// handed out in order.
    ///
    /// A step's scans are cut into passes alike for any number of processes, and pass `i` goes to
    /// process `i % world`: the same passes are made whether one process makes them all or several
    /// share them.
    ///
    /// What a pass holds depends on the settings, the step and the cut, never on threads or time. Reading
    /// stops while `options.ahead` passes are waiting.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that cannot work, or where there is nothing to ask.
    pub fn passes_with(
        &self,
        start: u64,
        end: u64,
        cut: Cut,
        options: StreamOptions,
    ) -> Result<Passes> {
        options.validate()?;
        cut.validate()?;
        self.validate()?;
        let jobs = self.jobs(start, end, cut)?;
        let queue = Queue::start(
            Arc::clone(&self.dataset),
            self.device.clone(),
            options,
            jobs,
        )?;
        Ok(Passes {
            queue,
            ended: false,
        })
    }

    fn validate(&self) -> Result<()> {
        self.sampler.validate()?;
        for (field, count) in [
            ("scans_per_step", self.scans_per_step),
            ("questions_per_scan", self.questions_per_scan),
        ] {
            if count == 0 {
                return Err(Error::config(field, "at least one", 0));
            }
        }
        let scans = self.dataset.manifest.scans.len();
        if let Some(scan) = self.scans.iter().find(|scan| **scan >= scans) {
            return Err(Error::config(
                "scans",
                format!("places below {scans}"),
                scan,
            ));
        }
        let Some(augment) = &self.augment else {
            return Ok(());
        };
        let refused = |e| Error::config("augment", "settings that can work", e);
        augment.validate().map_err(refused)
    }

    /// The passes of one process in order.
    fn jobs(
        &self,
        start: u64,
        end: u64,
        cut: Cut,
    ) -> Result<impl Iterator<Item = Job> + Send + use<>> {
        if self.epoch(0).1.is_empty() {
            return Err(Error::config("training questions", "at least one", "none"));
        }
        let loader = self.clone();
        let steps = (0..).flat_map(move |epoch| {
            let (_, steps) = loader.epoch(epoch);
            steps
        });
        let loader = self.clone();
        let numbered = (0u64..).zip(steps).take_while(move |(step, _)| *step < end);
        let wanted = numbered.skip_while(move |(step, _)| *step < start);
        Ok(wanted.flat_map(move |(step, groups)| loader.cut(step, &groups, cut)))
    }

    /// The passes of one step that are this process's.
    fn cut(&self, step: u64, groups: &[Vec<Question>], cut: Cut) -> Vec<Job> {
        // Before the step is divided, so that a scan's augmentation is the same for any division.
        let draws = self.draws(groups.len(), step);
        let parts = split(groups, cut.scans_per_pass);
        let passes = parts.len();
        let questions = groups.iter().map(Vec::len).sum();
        let mut from = 0;
        let mut own = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let places = from..from + part.len();
            from = places.end;
            if index % cut.world.max(1) == cut.rank {
                let draws = draws.as_ref().map(|draws| draws[places].to_vec());
                own.push((index, part.to_vec(), draws));
            }
        }
        if own.is_empty() {
            own.push((cut.rank, Vec::new(), None));
        }
        let count = own.len();
        own.into_iter()
            .enumerate()
            .map(|(i, (index, groups, draws))| Job {
                pass: Pass {
                    step,
                    index,
                    passes,
                    questions,
                    batch: None,
                    last: i + 1 == count,
                },
                draws,
                groups,
            })
            .collect()
    }
}

impl Cut {
    /// One process, each step in one pass.
    pub const WHOLE: Cut = Cut {
        scans_per_pass: usize::MAX,
        rank: 0,
        world: 1,
    };

    fn validate(&self) -> Result<()> {
        if self.scans_per_pass == 0 {
            return Err(Error::config("scans_per_pass", "at least 1", 0));
        }
        if self.rank >= self.world {
            let got = format!("rank {} of {}", self.rank, self.world);
            return Err(Error::config(
                "rank",
                "a rank below the number of processes",
                got,
            ));
        }
        Ok(())
    }
}

/// Passes in the order of their steps; an iterator that ends after the last step or after an error.
///
/// Dropping it stops the threads after the scans that they are reading.
#[derive(Debug)]
pub struct Passes {
    queue: Arc<Queue>,
    ended: bool,
}

impl Passes {
    /// What was read, waited for and left out up to now.
    pub fn statistics(&self) -> LoaderStatistics {
        self.queue.statistics()
    }
}

impl Iterator for Passes {
    type Item = Result<Pass>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.queue.next();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Parts of `size`; a last one of at most half the size joins the one before it, because batch
/// statistics over very few scans are noise.
fn split<T>(items: &[T], size: usize) -> Vec<&[T]> {
    let size = size.max(1);
    let full = items.len() / size;
    let rest = items.len() % size;
    let parts = if full > 0 && 2 * rest <= size {
        full
    } else {
        full + 1
    };
    (0..parts)
        .map(|i| {
            let end = if i + 1 == parts {
                items.len()
            } else {
                (i + 1) * size
            };
            &items[i * size..end]
        })
        .filter(|part| !part.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_short_rest_joins_the_part_before_it() {
        let sizes = |n: usize, size| -> Vec<usize> {
            let items: Vec<usize> = (0..n).collect();
            let parts = split(&items, size);
            assert_eq!(parts.concat(), items);
            parts.iter().map(|p| p.len()).collect()
        };
        assert_eq!(sizes(8, 4), [4, 4]);
        assert_eq!(sizes(10, 4), [4, 6]);
        assert_eq!(sizes(11, 4), [4, 4, 3]);
        assert_eq!(sizes(2, 4), [2]);
        assert_eq!(sizes(3, 1), [1, 1, 1]);
        assert_eq!(sizes(0, 4), [0usize; 0]);
    }
}
