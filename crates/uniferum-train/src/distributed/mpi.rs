//! Processes started by `mpirun` or `srun`.

use mpi::Threading;
use mpi::collective::{CommunicatorCollectives, SystemOperation};
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};

use super::Communicator;
use crate::error::{Error, Result};

/// All processes of an MPI job.
pub struct Mpi {
    world: SimpleCommunicator,
    /// MPI ends when this is dropped.
    _universe: Universe,
}

impl Mpi {
    /// Joins the `expected` processes that the launcher has announced.
    ///
    /// # Errors
    /// [`Error::Distributed`] when MPI runs already or counts the processes differently.
    pub fn new(expected: usize) -> Result<Self> {
        // Loader threads run beside, but only the training thread calls MPI.
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Funneled)
        else {
            return Err(Error::Distributed("MPI was started before".to_owned()));
        };
        if threading < Threading::Funneled {
            let what = "this MPI cannot be used beside threads (needs MPI_THREAD_FUNNELED)";
            return Err(Error::Distributed(what.to_owned()));
        }
        let world = universe.world();
        if world.size() as usize != expected {
            return Err(Error::Distributed(format!(
                "the launcher announces {expected} processes, MPI knows {}; was the program built \
                 with the MPI that launches it?",
                world.size()
            )));
        }
        Ok(Self {
            world,
            _universe: universe,
        })
    }
}

impl Drop for Mpi {
    /// A process that panics would end MPI, which waits for the others, and these for this one.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.world.abort(101);
        }
    }
}

impl Communicator for Mpi {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn world(&self) -> usize {
        self.world.size() as usize
    }

    fn abort(&self) -> ! {
        self.world.abort(1)
    }

    fn sum_f32(&self, values: &mut [f32]) -> Result<()> {
        let own = values.to_vec();
        self.world
            .all_reduce_into(&own[..], values, SystemOperation::sum());
        Ok(())
    }

    fn sum_f64(&self, values: &mut [f64]) -> Result<()> {
        let own = values.to_vec();
        self.world
            .all_reduce_into(&own[..], values, SystemOperation::sum());
        Ok(())
    }
}
