//! Labels from radiology reports by a language model, as the paper makes them for INSPECT.
//!
//! Reports that mention a finding by keyword, and as many that do not, are asked about one by one. The
//! prompt is the paper's; any server that speaks OpenAI's chat completions may answer. Every answer is
//! appended to a log, so that an interrupted run goes on where it stopped.
//!
//! # Reference
//! Paper, section 3.4.3, and supplement.

mod answer;
mod audit;
#[cfg(feature = "reports")]
mod client;
mod keywords;
mod log;
mod run;

pub use answer::{Answer, parse_answer, prompt};
pub use audit::{AuditRow, agreement, audit_sample, write_audit};
#[cfg(feature = "reports")]
pub use client::{Endpoint, HttpModel};
pub use keywords::{Keywords, PAPER_KEYWORDS};
pub use log::{LogLine, write_labels};
pub use run::{Failure, LanguageModel, Question, RunSettings, RunSummary, run, select};
