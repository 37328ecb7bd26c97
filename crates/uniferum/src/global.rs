//! What every subcommand shares: threads, quietness, progress bars.

use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

    /// A bar on standard error with rate and time left; hidden when quiet or not on a terminal.
    pub(crate) fn bar(&self, length: u64, what: &str) -> ProgressBar {
        let template =
            "{prefix:>12} [{bar:30}] {pos}/{len} {elapsed_precise} ETA {eta_precise} {msg}";
        self.styled(Some(length), what, template)
    }

    /// As [`bar`](Self::bar), for a download.
    pub(crate) fn bytes(&self, length: Option<u64>, what: &str) -> ProgressBar {
        let template = "{prefix:>12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
        self.styled(length, what, template)
    }

    fn styled(&self, length: Option<u64>, what: &str, template: &str) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
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
