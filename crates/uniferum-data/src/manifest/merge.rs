//! Several collections in one manifest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Label, Manifest, Scan, plain};
use crate::error::{Error, Result};

impl Manifest {
    /// Puts manifests together. A scan that stands in several gets the labels and masks of all.
    ///
    /// # Errors
    /// [`Error::Table`] with the scan where two manifests contradict each other about its patient, split,
    /// Hounsfield source, masks or a label.
    pub fn merge(parts: impl IntoIterator<Item = Manifest>) -> Result<Manifest> {
        let mut all = Gathered::default();
        for scan in parts.into_iter().flat_map(|m| m.scans) {
            let path = scan.path.clone();
            all.add(scan).map_err(|what| {
                let what = format!("two manifests disagree about {what}");
                Error::table(&path, None, what)
            })?;
        }
        Ok(Manifest { scans: all.scans })
    }
}

/// Scans of rows, in the order of the first row about each.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) scans: Vec<Scan>,
    at: HashMap<PathBuf, usize>,
}

impl Gathered {
    /// Enters a row. Of a scan that has one already it takes over what is new; the error says what the rows
    /// disagree about.
    pub(crate) fn add(&mut self, scan: Scan) -> std::result::Result<(), String> {
        let key = key(&scan.path);
        if let Some(&index) = self.at.get(&key) {
            return self.scans[index].absorb(scan);
        }
        self.at.insert(key, self.scans.len());
        self.scans.push(scan);
        Ok(())
    }
}

/// A path whatever the folder that it was named from, and however it is spelled.
fn key(path: &Path) -> PathBuf {
    plain(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

impl Scan {
    /// Takes over what another row, or another manifest, says of the same scan; the error says what they
    /// disagree about.
    fn absorb(&mut self, other: Scan) -> std::result::Result<(), String> {
        fn same<T: PartialEq + std::fmt::Debug>(
            what: &str,
            a: &T,
            b: &T,
        ) -> std::result::Result<(), String> {
            if a == b {
                return Ok(());
            }
            Err(format!("its {what}: {a:?} and {b:?}"))
        }
        same("patient", &self.patient, &other.patient)?;
        same("split", &self.split, &other.split)?;
        same("Hounsfield source", &self.hu, &other.hu)?;
        for (what, mine, theirs) in [
            ("mask", &mut self.mask, other.mask),
            ("nodule mask", &mut self.nodules, other.nodules),
        ] {
            match (&*mine, theirs) {
                (Some(a), Some(b)) if key(a) == key(&b) => {}
                (Some(a), Some(b)) => same(what, a, &b)?,
                (None, Some(b)) => *mine = Some(b),
                (_, None) => {}
            }
        }
        for (mine, theirs) in [
            (&mut self.study, other.study),
            (&mut self.collection, other.collection),
        ] {
            if mine.is_empty() {
                *mine = theirs;
            }
        }
        self.spacing_mm = self.spacing_mm.or(other.spacing_mm);
        self.censored.extend(other.censored);
        for (task, value) in other.labels {
            let label = if value {
                Label::Positive
            } else {
                Label::Negative
            };
            if !self.set_label(&task, label) {
                return Err(task);
            }
        }
        let both = self.censored.iter().find(|t| self.labels.contains_key(*t));
        match both {
            Some(task) => Err(format!("{task}: labelled and censored")),
            None => Ok(()),
        }
    }
}
