//! The `uniferum` command: parses the arguments, sets up threads and progress, runs one subcommand.

mod cli;
mod commands;
mod dtype;
mod global;
mod hu;
mod output;
mod progress;
mod shape;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: uniferum_kernels::HugePages = uniferum_kernels::HugePages;

/// Exit codes: 0 success, 1 the work failed, 2 the command line was wrong (clap's own).
fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: cli::Cli) -> anyhow::Result<()> {
    let global = global::Global::new(&cli.global)?;
    cli.command.run(&global)
}

/// The whole chain of causes on one line, each cause once: libraries often repeat their source.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = one_line_of(&cause);
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// The lines of a message behind one another, without the arrows below a quoted line.
fn one_line_of(message: &str) -> String {
    let says = |line: &&str| line.chars().any(|c| c.is_alphanumeric());
    let lines: Vec<&str> = message.lines().map(str::trim).filter(says).collect();
    lines.join("; ")
}

/// `uniferum tasks | head` closes our standard output early; that is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        let json = cause.downcast_ref::<serde_json::Error>();
        let kind = io.map(std::io::Error::kind);
        let kind = kind.or_else(|| json.and_then(serde_json::Error::io_error_kind));
        kind == Some(std::io::ErrorKind::BrokenPipe)
    })
}
