//! Several processes that train one model on shares of each step.
//!
//! Gradients, losses and running statistics are summed over the processes; everything else is a
//! function of the seed and the step, so that all processes stay equal without being sent weights.
//!
//! # Batch normalisation
//! Each pass normalises by its own statistics, and the running statistics move once a step, by the mean
//! over the step's passes. Passes are cut alike for any number of processes
//! ([`Loader::passes_with`](uniferum_data::Loader::passes_with)), so that one process and several see the same
//! statistics and report the same losses up to rounding.

mod local;
#[cfg(any(feature = "nccl", test))]
mod meeting;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;

pub use local::{Alone, Threads};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// What processes that train one model have to tell each other.
///
/// It is not `Send`, and with it no trainer: only the thread that started MPI may call it
/// (`MPI_THREAD_FUNNELED`).
pub trait Communicator {
    /// Which process this is, from 0.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn world(&self) -> usize;

    /// Replaces the values by their sums over all processes.
    ///
    /// # Errors
    /// [`Error::Distributed`] when a process is gone.
    fn sum_f32(&self, values: &mut [f32]) -> Result<()>;

    /// As [`sum_f32`](Self::sum_f32) in double precision.
    ///
    /// # Errors
    /// As [`sum_f32`](Self::sum_f32).
    fn sum_f64(&self, values: &mut [f64]) -> Result<()>;

    /// Ends this process after an error, and the others where it can: they would wait for it in their next sum.
    fn abort(&self) -> ! {
        std::process::exit(1)
    }

    /// The sum of an `f32` tensor over all processes, where the tensor is; by way of the host where a
    /// communicator knows nothing better.
    ///
    /// # Errors
    /// As [`sum_f32`](Self::sum_f32), and for a tensor of another type.
    fn sum_tensor(&self, values: &Tensor) -> Result<Tensor> {
        let mut host = values.flatten_all()?.to_vec1::<f32>()?;
        self.sum_f32(&mut host)?;
        Ok(Tensor::from_vec(host, values.shape(), values.device())?)
    }
}

/// Place of a process as its launcher says: `mpirun`, `srun`, or `torchrun` and its like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which process this is, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world: usize,
    /// Which process of this machine, from 0: the number of its GPU.
    pub local_rank: usize,
}

/// Variables of rank, world and local rank, the most specific launcher first.
const LAUNCHERS: [[&str; 3]; 4] = [
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
    ],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"],
    ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"],
];

impl Launch {
    /// Reads the environment; a process that nobody launched is alone.
    ///
    /// # Errors
    /// [`Error::Distributed`] where the variables contradict themselves.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = get(name) else {
                return Ok(None);
            };
            let wrong = || Error::Distributed(format!("{name}: expected a number, got {text:?}"));
            text.trim().parse().map(Some).map_err(|_| wrong())
        };
        for [rank_name, world_name, local_name] in LAUNCHERS {
            let (Some(rank), Some(world)) = (number(rank_name)?, number(world_name)?) else {
                continue;
            };
            if rank >= world {
                return Err(Error::Distributed(format!(
                    "{rank_name} is {rank}, but {world_name} is {world}"
                )));
            }
            // Slurm's PMI names it by a variable of its own.
            let local_rank = match number(local_name)? {
                Some(local) => local,
                None => number("SLURM_LOCALID")?.unwrap_or(rank),
            };
            return Ok(Self {
                rank,
                world,
                local_rank,
            });
        }
        Ok(Self {
            rank: 0,
            world: 1,
            local_rank: 0,
        })
    }

    /// Joins the other processes: over NCCL where this one computes on a GPU and the build has it, else
    /// over MPI.
    ///
    /// # Errors
    /// [`Error::Distributed`] when there are several processes and this build cannot reach them.
    pub fn join(&self, device: &Device) -> Result<Box<dyn Communicator>> {
        if self.world == 1 {
            return Ok(Box::new(Alone));
        }
        #[cfg(feature = "nccl")]
        if device.is_cuda() {
            return Ok(Box::new(Nccl::new(self, device)?));
        }
        self.join_mpi(device)
    }

    #[cfg(feature = "mpi")]
    fn join_mpi(&self, _: &Device) -> Result<Box<dyn Communicator>> {
        Ok(Box::new(Mpi::new(self.world)?))
    }

    #[cfg(not(feature = "mpi"))]
    fn join_mpi(&self, device: &Device) -> Result<Box<dyn Communicator>> {
        let feature = if device.is_cuda() { "nccl" } else { "mpi" };
        Err(Error::Distributed(format!(
            "the launcher started {} processes, but this build speaks to no others; build with \
             --features {feature}",
            self.world
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(vars: &[(&str, &str)]) -> Result<Launch> {
        Launch::from_variables(|name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn launchers_are_recognised() {
        let of = |vars: &[(&str, &str)]| launch(vars).map(|l| (l.rank, l.world, l.local_rank));
        assert_eq!(of(&[]).unwrap(), (0, 1, 0));
        let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")];
        assert_eq!(of(&torchrun).unwrap(), (5, 8, 1));
        let mpirun = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "1"),
        ];
        assert_eq!(of(&mpirun).unwrap(), (1, 2, 1));
        let srun = [("SLURM_PROCID", "3"), ("SLURM_NTASKS", "4")];
        assert_eq!(of(&srun).unwrap(), (3, 4, 3));
        let pmi = [("PMI_RANK", "3"), ("PMI_SIZE", "4")];
        assert_eq!(of(&pmi).unwrap(), (3, 4, 3));
        let in_slurm = [pmi[0], pmi[1], ("SLURM_LOCALID", "1")];
        assert_eq!(of(&in_slurm).unwrap(), (3, 4, 1));
        assert!(of(&[("RANK", "2"), ("WORLD_SIZE", "2")]).is_err());
        let error = of(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err();
        assert!(error.to_string().contains("RANK"), "{error}");
    }

    #[test]
    #[cfg(not(feature = "mpi"))]
    fn a_build_without_mpi_says_so() {
        let several = launch(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap();
        let error = several.join(&Device::Cpu).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("--features mpi")));
    }
}
