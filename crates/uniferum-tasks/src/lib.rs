#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod task;

pub mod prompt;

mod catalogue;
mod error;
mod explain;
mod related;
mod tables;

pub mod totalsegmentator;
pub mod trained;
pub mod user;

pub use catalogue::{Catalogue, GROUPS};
pub use error::{Error, Result};
pub use task::{Relation, Task, TaskKind, slug};
