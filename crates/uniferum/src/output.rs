//! Results on standard output.

use std::io::{StdoutLock, Write};

use clap::ValueEnum;
use serde::Serialize;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// JSON with every number and field
    Json,
}

impl Format {
    /// Prints a result as JSON, or as `text` writes it.
    pub(crate) fn print<T: Serialize>(
        self,
        result: &T,
        text: impl FnOnce(&mut StdoutLock<'static>, &T) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self {
            Format::Text => text(&mut out, result)?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut out, result)?;
                writeln!(out)?;
            }
        }
        Ok(())
    }
}
