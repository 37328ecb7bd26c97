//! Splits by patient, for collections that come without.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Manifest, Scan, Split};
use crate::error::{Error, Result};

/// How much of a collection is held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SplitBy {
    /// Shares of the patients for validation and test, of at least one patient each unless they are 0; the
    /// rest is trained on.
    Shares {
        /// 0 to 1.
        val: f64,
        /// 0 to 1.
        test: f64,
    },
    /// Numbers of patients for validation and test.
    Patients {
        /// Patients.
        val: usize,
        /// Patients.
        test: usize,
    },
    /// Numbers of scans for validation and test: patients are added until there are at least so many.
    Scans {
        /// Scans.
        val: usize,
        /// Scans.
        test: usize,
    },
}

/// A split by patient that depends on nothing but the patients' names and the seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SplitPlan {
    /// How much is held out.
    pub by: SplitBy,
    /// The seed of the order in which patients are taken.
    pub seed: u64,
}

impl std::fmt::Display for SplitPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seed = self.seed;
        match self.by {
            SplitBy::Shares { val, test } => {
                write!(
                    f,
                    "shares of {val} for validation and {test} for test, seed {seed}"
                )
            }
            SplitBy::Patients { val, test } => {
                write!(
                    f,
                    "{val} patients for validation and {test} for test, seed {seed}"
                )
            }
            SplitBy::Scans { val, test } => {
                write!(
                    f,
                    "{val} scans for validation and {test} for test, seed {seed}"
                )
            }
        }
    }
}

impl SplitPlan {
    /// Refuses another plan than the `usual` one where a collection's own table says the split.
    pub(crate) fn check_usual(&self, usual: &SplitPlan, own: &Path) -> Result<()> {
        if self.by == usual.by {
            return Ok(());
        }
        let what = "the collection has an official split; expected no other, got shares or numbers";
        Err(Error::table(own, None, what))
    }

    /// Splits those scans of a manifest that `among` accepts; the others stay as they are.
    ///
    /// The order of the scans does not matter. Test patients are drawn first, then validation patients.
    ///
    /// # Errors
    /// [`Error::Config`] where shares are no shares, or no patient would be left to train on.
    pub fn apply(&self, manifest: &mut Manifest, among: impl Fn(&Scan) -> bool) -> Result<()> {
        let mut scans_of: BTreeMap<String, usize> = BTreeMap::new();
        for scan in manifest.scans.iter().filter(|s| among(s)) {
            *scans_of.entry(scan.patient.clone()).or_default() += 1;
        }
        let mut patients: Vec<(String, usize)> = scans_of.into_iter().collect();
        patients.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        let sizes: Vec<usize> = patients.iter().map(|(_, scans)| *scans).collect();
        let (test, val) = self.counts(&sizes)?;
        let split = |place: usize| match place {
            p if p < test => Split::Test,
            p if p < test + val => Split::Val,
            _ => Split::Train,
        };
        let split_of: HashMap<String, Split> = patients
            .into_iter()
            .enumerate()
            .map(|(place, (patient, _))| (patient, split(place)))
            .collect();
        for scan in manifest.scans.iter_mut().filter(|s| among(s)) {
            scan.split = split_of.get(&scan.patient).copied().unwrap_or_default();
        }
        Ok(())
    }

    /// How many patients go to test and to validation.
    fn counts(&self, sizes: &[usize]) -> Result<(usize, usize)> {
        let (test, val) = match self.by {
            SplitBy::Shares { val, test } => {
                let share = |s: f64| (0.0..1.0).contains(&s);
                if !share(val) || !share(test) || val + test >= 1.0 {
                    let got = format!("{val} and {test}");
                    return Err(Error::config(
                        "split",
                        "shares of 0 to 1 whose sum is below 1",
                        got,
                    ));
                }
                let of = |share: f64| match share {
                    0.0 => 0,
                    _ => ((share * sizes.len() as f64).round() as usize).max(1),
                };
                (of(test), of(val))
            }
            SplitBy::Patients { val, test } => (test, val),
            SplitBy::Scans { val, test } => {
                let test = enough(sizes, test);
                (test, enough(&sizes[test..], val))
            }
        };
        if test + val >= sizes.len() && test + val > 0 {
            let got = format!("{test} for test and {val} for validation");
            let expected = format!(
                "fewer held-out patients than the {} there are: ask for fewer, or for shares of a part of a \
                 collection",
                sizes.len()
            );
            return Err(Error::config("split", expected, got));
        }
        Ok((test, val))
    }
}

/// How many patients have at least `scans` scans together.
fn enough(sizes: &[usize], scans: usize) -> usize {
    let mut sum = 0;
    sizes
        .iter()
        .take_while(|size| {
            let more = sum < scans;
            sum += **size;
            more
        })
        .count()
}
