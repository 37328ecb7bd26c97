//! `--hu` and `--hu-source`: where Hounsfield units come from.

use clap::ValueEnum;
use uniferum_ct::batch::HuChoice;

/// Where Hounsfield units come from; it is said, never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HuArg {
    /// Slope and intercept of each file's header
    Header,
    /// Slope and intercept of a table, scan by scan
    Table,
    /// The stored numbers are HU already, whatever the header says
    #[value(aliases = ["already", "already_hu"])]
    AlreadyHu,
}

impl From<HuArg> for HuChoice {
    fn from(arg: HuArg) -> Self {
        match arg {
            HuArg::Header => HuChoice::Header,
            HuArg::Table => HuChoice::Table,
            HuArg::AlreadyHu => HuChoice::AlreadyHu,
        }
    }
}
