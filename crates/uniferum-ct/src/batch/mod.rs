//! Preparing whole collections: from files, folders, lists or tables of scans to a folder of
//! standardised volumes.
//!
//! [`gather`] finds the scans, [`plan`] says what each becomes, [`prepare`] does it: several scans at
//! a time, each in bounded memory, with a ledger that says for every scan what came of it. A run that
//! was killed goes on where it was; several runs may share a folder, each with a [`Shard`] of its own.

mod gather;
mod job;
mod ledger;
mod masks;
mod one;
mod run;
mod table;
mod work;

pub use gather::{Gathered, HuChoice, Input, MaskClasses, Sources, gather};
pub use job::{Job, OutputFormat, PrepareSettings, Shard, plan};
pub use ledger::{LedgerRow, has_writer, read_ledgers};
pub use run::{Event, RunOptions, Summary, check_apart, prepare};
pub use table::write_table;
pub use work::{map_scans, scans_at_once};
