//! The subcommands, one file each: `Args` (what clap reads) and `run`.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod demo;
pub(crate) mod evaluate;
pub(crate) mod experiment;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod predict;
pub(crate) mod tasks;
pub(crate) mod train;
