//! `--shard`: which part of the scans is this process's.

use uniferum_ct::batch::Shard;
use uniferum_train::distributed::Launch;

/// Reads `i/n`, or `rank`: the place that `mpirun`, `srun` or `torchrun` gave this process.
///
/// The launcher is asked only on request, since a batch script of Slurm has its variables as well and
/// would then do a part in silence.
pub(crate) fn parse(text: &str) -> Result<Shard, String> {
    if text != "rank" {
        return text.parse();
    }
    let launch = Launch::from_env().map_err(|error| error.to_string())?;
    Ok(of(launch))
}

fn of(launch: Launch) -> Shard {
    Shard {
        index: launch.rank + 1,
        count: launch.world,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_or_come_from_the_launcher() {
        let second = Shard { index: 2, count: 8 };
        assert_eq!(parse("2/8"), Ok(second));
        assert!(parse("9/8").is_err() && parse("ranks").is_err());
        let launch = Launch {
            rank: 1,
            world: 8,
            local_rank: 1,
        };
        assert_eq!(of(launch), second);
    }
}
