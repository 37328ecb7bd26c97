//! `--shard`: which part of the scans is this process's.

use uniferum_ct::batch::Shard;
use uniferum_train::distributed::Launch;

/// A process's part of the scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Part {
    pub(crate) shard: Shard,
    /// Which process of this machine it is, from 0, where the launcher was asked: the number of its GPU.
    pub(crate) process: usize,
}

/// Reads `i/n`, or `rank`: the place that `mpirun`, `srun` or `torchrun` gave this process.
///
/// The launcher is asked only on request, since a batch script of Slurm has its variables as well and
/// would then do a part in silence.
pub(crate) fn parse(text: &str) -> Result<Part, String> {
    if text != "rank" {
        let shard = text.parse()?;
        return Ok(Part { shard, process: 0 });
    }
    let launch = Launch::from_env().map_err(|error| error.to_string())?;
    Ok(of(launch))
}

fn of(launch: Launch) -> Part {
    let shard = Shard {
        index: launch.rank + 1,
        count: launch.world,
    };
    Part {
        shard,
        process: launch.local_rank,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_or_come_from_the_launcher() {
        let shard = Shard { index: 2, count: 8 };
        assert_eq!(parse("2/8"), Ok(Part { shard, process: 0 }));
        assert!(parse("9/8").is_err() && parse("ranks").is_err());
        let launch = Launch {
            rank: 1,
            world: 8,
            local_rank: 3,
        };
        assert_eq!(of(launch), Part { shard, process: 3 });
    }
}
