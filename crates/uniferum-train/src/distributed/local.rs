//! One process, or threads of one process.

use std::sync::{Arc, Condvar, Mutex};

use super::Communicator;
use crate::error::{Error, Result};

/// A process without others.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world(&self) -> usize {
        1
    }

    fn sum_f32(&self, _values: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn sum_f64(&self, _values: &mut [f64]) -> Result<()> {
        Ok(())
    }
}

/// Threads that train one model, each with its own copy: for several GPUs of one machine, and for tests
/// of what several processes do.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    world: usize,
    round: Mutex<Round>,
    changed: Condvar,
}

/// One sum in the making. Shares are kept apart and added in the order of ranks, so that the sum does
/// not depend on which thread was first.
#[derive(Debug, Default)]
struct Round {
    shares: Vec<Option<Vec<f64>>>,
    sum: Option<Vec<f64>>,
    readers: usize,
    gone: bool,
}

impl Threads {
    /// The members of a group of `world` threads.
    pub fn group(world: usize) -> Vec<Self> {
        let shared = Arc::new(Shared {
            world,
            round: Mutex::new(Round {
                shares: vec![None; world],
                ..Default::default()
            }),
            changed: Condvar::new(),
        });
        (0..world)
            .map(|rank| Self {
                rank,
                shared: Arc::clone(&shared),
            })
            .collect()
    }

    fn sum(&self, own: Vec<f64>) -> Result<Vec<f64>> {
        let lost = || Error::Distributed("another thread of the group has ended".to_owned());
        let mut round = self.shared.round.lock().map_err(|_| lost())?;
        // The sum before this one must have been read by all.
        while round.sum.is_some() && !round.gone {
            round = self.shared.changed.wait(round).map_err(|_| lost())?;
        }
        if round.gone {
            return Err(lost());
        }
        round.shares[self.rank] = Some(own);
        if round.shares.iter().all(Option::is_some) {
            let shares: Vec<Vec<f64>> = round.shares.iter_mut().filter_map(Option::take).collect();
            let length = shares.first().map_or(0, Vec::len);
            let sum = (0..length).map(|i| shares.iter().map(|s| s[i]).sum());
            round.sum = Some(sum.collect());
            round.readers = self.shared.world;
            self.shared.changed.notify_all();
        }
        while round.sum.is_none() && !round.gone {
            round = self.shared.changed.wait(round).map_err(|_| lost())?;
        }
        let sum = round.sum.clone().ok_or_else(lost)?;
        round.readers -= 1;
        if round.readers == 0 {
            round.sum = None;
            self.shared.changed.notify_all();
        }
        Ok(sum)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Ok(mut round) = self.shared.round.lock() {
            round.gone = true;
        }
        self.shared.changed.notify_all();
    }
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.shared.world
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        let sum = self.sum(values.iter().map(|v| f64::from(*v)).collect())?;
        for (value, sum) in values.iter_mut().zip(sum) {
            *value = sum as f32;
        }
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        let sum = self.sum(values.to_vec())?;
        values.copy_from_slice(&sum);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_agree_on_many_sums() {
        let results: Vec<Vec<f64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = Threads::group(3)
                .into_iter()
                .map(|member| {
                    scope.spawn(move || {
                        let sum = |round: usize| {
                            let mut values = [(member.rank() + round) as f64];
                            member.sum_f64(&mut values).unwrap();
                            values[0]
                        };
                        (0..50).map(sum).collect::<Vec<f64>>()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let expected: Vec<f64> = (0..50).map(|round| (3 + 3 * round) as f64).collect();
        assert!(results.iter().all(|r| *r == expected));
    }

    #[test]
    fn a_lost_member_is_an_error_not_a_hang() {
        let mut group = Threads::group(2);
        let (second, first) = (group.pop(), group.pop());
        drop(second);
        assert!(first.unwrap().sum_f64(&mut [1.0]).is_err());
    }
}
