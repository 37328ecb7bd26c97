//! What every subcommand shares: threads, quietness, progress bars.

use std::io::IsTerminal;

use anyhow::Context;
use indicatif::ProgressBar;

use crate::progress::{self, Show};

/// Options of every subcommand.
#[derive(Debug, clap::Args)]
pub(crate) struct GlobalArgs {
    /// Print no progress and no hints, only results, warnings and errors
    #[arg(long, short, global = true)]
    quiet: bool,

    /// Worker threads [default: one a core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// The validated global options.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) quiet: bool,
    pub(crate) threads: usize,
}

impl Global {
    /// Sizes the thread pool once for the whole process.
    pub(crate) fn new(args: &GlobalArgs) -> anyhow::Result<Self> {
        uniferum_kernels::simd::Simd::requested()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = args.threads.map_or(cores, usize::from);
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .context("could not start the worker threads")?;
        Ok(Self {
            quiet: args.quiet,
            threads,
        })
    }

    /// A bar on standard error with the time left; where that is a file, a line now and then. Hidden when
    /// quiet.
    pub(crate) fn bar(&self, length: u64, what: &str) -> ProgressBar {
        self.shown(Some(length), what, Show::Count)
    }

    /// As [`bar`](Self::bar), for steps that take long and whose message tells the time left.
    pub(crate) fn steps(&self, length: u64, what: &str) -> ProgressBar {
        self.shown(Some(length), what, Show::Steps)
    }

    /// As [`bar`](Self::bar), for a download.
    pub(crate) fn bytes(&self, length: Option<u64>, what: &str) -> ProgressBar {
        self.shown(length, what, Show::Bytes)
    }

    fn shown(&self, length: Option<u64>, what: &str, show: Show) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        progress::bar(length, what, show, std::io::stderr().is_terminal())
    }

    /// A remark on standard error that `--quiet` silences.
    pub(crate) fn hint(&self, text: impl AsRef<str>) {
        if !self.quiet {
            eprintln!("{}", text.as_ref());
        }
    }

    /// A warning on standard error, also when quiet.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        eprintln!("warning: {}", text.as_ref());
    }
}
