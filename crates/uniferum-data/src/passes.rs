//! Steps that are too large for one pass through the model, or shared by several processes.

use std::sync::mpsc::{Receiver, sync_channel};

use crate::collate::Batch;
use crate::dataset::Loader;
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
    /// Questions of the step, over all processes.
    pub questions: usize,
    /// The batch; `None` where the step has fewer passes than there are processes.
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
    /// The passes of this process for the steps from `start` up to `end`, made ahead.
    ///
    /// A step's scans are cut into passes alike for any number of processes, and pass `i` goes to
    /// process `i % world`: the same passes are made whether one process makes them all or several
    /// share them.
    ///
    /// The channel ends after an error, which is its last item, or when the receiver is dropped.
    pub fn passes(&self, start: u64, end: u64, cut: Cut) -> Receiver<Result<Pass>> {
        let (sender, receiver) = sync_channel(2);
        let loader = self.clone();
        std::thread::spawn(move || {
            let mut first_step = 0;
            for epoch in 0.. {
                let (_, steps) = loader.epoch(epoch);
                if steps.is_empty() {
                    let empty = Error::config("training questions", "at least one", "none");
                    let _ = sender.send(Err(empty));
                    return;
                }
                for (index, groups) in steps.iter().enumerate() {
                    let step = first_step + index as u64;
                    if step >= end {
                        return;
                    }
                    if step < start {
                        continue;
                    }
                    for pass in loader.cut(step, groups, epoch, cut) {
                        let failed = pass.is_err();
                        if sender.send(pass).is_err() || failed {
                            return;
                        }
                    }
                }
                first_step += steps.len() as u64;
            }
        });
        receiver
    }

    /// The passes of one step that are this process's.
    fn cut<'a>(
        &'a self,
        step: u64,
        groups: &'a [Vec<Question>],
        epoch: u64,
        cut: Cut,
    ) -> impl Iterator<Item = Result<Pass>> + 'a {
        let parts = split(groups, cut.scans_per_pass);
        let passes = parts.len();
        let questions = groups.iter().map(Vec::len).sum();
        let mut own: Vec<(usize, Option<&[Vec<Question>]>)> = parts
            .into_iter()
            .enumerate()
            .skip(cut.rank)
            .step_by(cut.world.max(1))
            .map(|(index, part)| (index, Some(part)))
            .collect();
        if own.is_empty() {
            own.push((cut.rank, None));
        }
        let count = own.len();
        own.into_iter().enumerate().map(move |(i, (index, part))| {
            let batch = part.map(|groups| self.batch(groups, epoch)).transpose()?;
            Ok(Pass {
                step,
                index,
                passes,
                questions,
                batch,
                last: i + 1 == count,
            })
        })
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
