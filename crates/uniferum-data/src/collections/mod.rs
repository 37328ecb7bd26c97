//! Public collections, each from its own tables and folders, and tables of one's own.
//!
//! Every adapter is a struct of settings with a `read` that gives a [`Collected`]: the manifest, remarks
//! about what was left out and why, and the reports where the collection has some. Nothing is guessed
//! that changes a label or a Hounsfield unit: missing labels stay missing, the source of Hounsfield units
//! is a setting, and patients are named so that two collections never share one.

mod ct_rate;
mod files;
mod generic;
mod inspect;
mod luna16;
mod rad_chest;
mod release;
mod release_config;
mod spheres;
mod totalsegmentator;

use uniferum_tasks::Task;

use crate::manifest::{Manifest, Scan};

pub use ct_rate::{CtRate, CtRateVersion};
pub use generic::{ColumnNames, TableSettings};
pub use inspect::Inspect;
pub use luna16::Luna16;
pub use rad_chest::RadChest;
pub use release::{ReleaseTable, write_tasks};
pub use release_config::ReleaseConfig;
pub use spheres::{Nodule, draw_nodules};
pub use totalsegmentator::TotalSegmentatorFolder;
pub use uniferum_ct::batch::HuChoice;

/// What to do with a row whose scan has no file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Absent {
    /// Leave it out and say how many there are: a partial download.
    #[default]
    Drop,
    /// Keep it, for a manifest that is made before the files arrive.
    Keep,
    /// Refuse the collection.
    Stop,
}

/// A text about a scan or a study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The volume, or the impression, that it is about.
    pub id: String,
    /// The patient, as in the manifest.
    pub patient: String,
    /// The text.
    pub text: String,
}

/// A collection as it was found.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// The scans.
    pub manifest: Manifest,
    /// What was left out, and other things to know; a line each.
    pub notes: Vec<String>,
    /// The reports, where the collection has some.
    pub reports: Vec<Report>,
    /// Tasks that the catalogue does not have.
    pub tasks: Vec<Task>,
}

impl Collected {
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// A remark about several things, with the first of them; none where there are none.
    fn note_some(&mut self, what: &str, names: &[String]) {
        if !names.is_empty() {
            let first: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
            let more = if names.len() > 3 { ", …" } else { "" };
            self.note(format!(
                "{}: {what} ({}{more})",
                names.len(),
                first.join(", ")
            ));
        }
    }

    /// The scans that could be read, with a remark about the others; their first error where there is none.
    fn keep_read<T>(&mut self, each: Vec<crate::Result<T>>) -> crate::Result<Vec<T>> {
        let (mut read, mut failed) = (Vec::new(), Vec::new());
        for result in each {
            match result {
                Ok(one) => read.push(one),
                Err(error) => failed.push(error),
            }
        }
        let reasons: Vec<String> = failed.iter().map(ToString::to_string).collect();
        self.note_some("scans that cannot be read, left out", &reasons);
        match failed.into_iter().next() {
            Some(first) if read.is_empty() => Err(first),
            _ => Ok(read),
        }
    }

    /// Enters scans, leaving out those without a file as `absent` says.
    fn keep(&mut self, scans: Vec<Scan>, absent: Absent) -> crate::Result<()> {
        let mut missing = Vec::new();
        for scan in scans {
            if absent == Absent::Keep || scan.path.exists() {
                self.manifest.scans.push(scan);
                continue;
            }
            if absent == Absent::Stop {
                return Err(crate::Error::table(
                    &scan.path,
                    None,
                    "no such file or folder",
                ));
            }
            missing.push(scan.name());
        }
        self.note_some("scans of the tables that have no file, left out", &missing);
        Ok(())
    }
}
