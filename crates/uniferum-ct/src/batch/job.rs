//! What each scan becomes, and under which settings.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gather::{Input, stem};
use crate::error::{Error, Result};
use crate::io::cache::Hash;
use crate::io::{HuSource, ReadOptions};
use crate::prep::StandardiseConfig;

/// Raised whenever the same settings give other voxels than before: prepared files are then made anew.
const ALGORITHM: u32 = 2;

/// The files that a preparation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// This crate's cache: `scans/*.uct`, `masks/*.uct`, `nodules/*.uct`.
    #[default]
    Cache,
    /// NIfTI: `scans/*.nii.gz`, `masks/*.nii.gz`, `nodules/*.nii.gz`.
    Nifti,
    /// The public release's: `bin/*.bin`, and `seg/*.nii.gz`, `nodule_seg/*.nii.gz`.
    Bin,
}

impl OutputFormat {
    fn folders(self) -> [&'static str; 3] {
        match self {
            OutputFormat::Cache | OutputFormat::Nifti => ["scans", "masks", "nodules"],
            OutputFormat::Bin => ["bin", "seg", "nodule_seg"],
        }
    }

    fn ends(self) -> [&'static str; 2] {
        match self {
            OutputFormat::Cache => ["uct", "uct"],
            OutputFormat::Nifti => ["nii.gz", "nii.gz"],
            OutputFormat::Bin => ["bin", "nii.gz"],
        }
    }
}

/// Everything that decides about the voxels of a prepared collection.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrepareSettings {
    /// How scans are standardised.
    pub standardise: StandardiseConfig,
    /// What is written.
    pub format: OutputFormat,
}

impl PrepareSettings {
    /// The file beside prepared scans.
    pub const FILE_NAME: &'static str = "prepare.json";

    /// The hash that prepared files and ledger rows carry.
    pub fn hash(&self, hu: HuSource) -> Hash {
        let read = read_options(hu);
        let all = serde_json::json!({ "algorithm": ALGORITHM, "read": read, "prepare": self });
        Hash::of(all.to_string().as_bytes())
    }
}

/// How a scan of a collection is read.
pub(super) fn read_options(hu: HuSource) -> ReadOptions {
    ReadOptions {
        hu,
        ..ReadOptions::default()
    }
}

/// A part of a collection for one of several runs that share an output folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `count`.
    pub index: usize,
    /// How many runs there are.
    pub count: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Shard { index: 1, count: 1 }
    }
}

impl Shard {
    /// Whether number `job` of the whole plan is this shard's.
    pub fn has(self, job: usize) -> bool {
        job % self.count.max(1) + 1 == self.index
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    /// Reads `i/n`, with `i` from 1 to `n`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts = text.split_once('/');
        let numbers = parts.and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Shard { index, count }),
            _ => Err(format!(
                "expected i/n with i from 1 to n, such as 2/8, got {text:?}"
            )),
        }
    }
}

/// A scan and what it becomes; output paths are relative to the output folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The scan.
    pub input: Input,
    /// The standardised volume.
    pub scan: PathBuf,
    /// The standardised organ mask, if there is a mask.
    pub mask: Option<PathBuf>,
    /// The standardised nodule mask, if there is one.
    pub nodules: Option<PathBuf>,
}

/// Names the outputs of all inputs: by the scan's name, with `tree` also by its folders.
///
/// # Errors
/// [`Error::Volume`] where two scans would have the same name, [`Error::Config`] for a standardisation
/// that cannot work.
pub fn plan(inputs: Vec<Input>, settings: &PrepareSettings, tree: bool) -> Result<Vec<Job>> {
    settings.standardise.validate()?;
    let advice = match tree {
        true => "name the folder that holds all of them",
        false => "--tree keeps their folders",
    };
    let mut names: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut jobs = Vec::with_capacity(inputs.len());
    for input in inputs {
        let name = name_of(&input, tree);
        if let Some(other) = names.insert(name.clone(), input.scan.clone()) {
            let expected = format!("one scan a name ({advice})");
            let got = format!(
                "{} of {} and of {}",
                name.display(),
                other.display(),
                input.scan.display()
            );
            return Err(Error::volume("names of the prepared scans", expected, got));
        }
        jobs.push(job(input, &name, settings.format));
    }
    Ok(jobs)
}

fn name_of(input: &Input, tree: bool) -> PathBuf {
    let stem = stem(&input.scan);
    let tail = input.scan.strip_prefix(&input.root).unwrap_or(&input.scan);
    let folders = tail.parent().filter(|_| tree).unwrap_or(Path::new(""));
    // Only plain names: an absolute path or `..` must not lead out of the output folder.
    let folders = folders.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    folders.collect::<PathBuf>().join(stem)
}

fn job(input: Input, name: &Path, format: OutputFormat) -> Job {
    let [scans, masks, nodules] = format.folders();
    let [scan_end, mask_end] = format.ends();
    let output = |folder: &str, end: &str| {
        let mut path = Path::new(folder).join(name).into_os_string();
        path.push(".");
        path.push(end);
        PathBuf::from(path)
    };
    Job {
        scan: output(scans, scan_end),
        mask: input.mask.as_ref().map(|_| output(masks, mask_end)),
        nodules: input.nodules.as_ref().map(|_| output(nodules, mask_end)),
        input,
    }
}

#[cfg(test)]
mod tests {
    use super::super::gather::MaskClasses;
    use super::*;

    fn input(scan: &str, root: &str) -> Input {
        Input {
            scan: scan.into(),
            mask: Some("m.nii".into()),
            mask_classes: MaskClasses::default(),
            nodules: None,
            hu: HuSource::Header,
            root: root.into(),
            problem: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn names_are_flat_or_keep_their_folders() {
        let settings = PrepareSettings::default();
        let inputs = vec![input("/d/p1/a.nii.gz", "/d"), input("/d/p2/b.mha", "/d")];
        let flat = plan(inputs.clone(), &settings, false).unwrap();
        assert_eq!(flat[0].scan, Path::new("scans/a.uct"));
        assert_eq!(flat[0].mask.as_deref(), Some(Path::new("masks/a.uct")));
        let tree = plan(inputs, &settings, true).unwrap();
        assert_eq!(tree[1].scan, Path::new("scans/p2/b.uct"));
        let bin = PrepareSettings {
            format: OutputFormat::Bin,
            ..settings.clone()
        };
        let bin = plan(vec![input("../x/a.nii.gz", "")], &bin, true).unwrap();
        assert_eq!(bin[0].scan, Path::new("bin/x/a.bin"));
        assert_eq!(bin[0].mask.as_deref(), Some(Path::new("seg/x/a.nii.gz")));
        let same = vec![input("/d/p1/a.nii", "/d"), input("/d/p2/a.nii", "/d")];
        let error = plan(same.clone(), &settings, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("/d/p1/a.nii and of /d/p2/a.nii"), "{error}");
        assert!(plan(same, &settings, true).is_ok());
    }

    #[test]
    fn shards_share_all_jobs() {
        let shards: Vec<Shard> = (1..=3).map(|i| format!("{i}/3").parse().unwrap()).collect();
        for job in 0..10 {
            assert_eq!(shards.iter().filter(|s| s.has(job)).count(), 1);
        }
        for bad in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
        assert!(Shard::default().has(7));
    }

    #[test]
    fn the_hash_tells_settings_apart() {
        let a = PrepareSettings::default();
        let mut b = a.clone();
        b.standardise.lung_margin_mm = 6.0;
        assert_ne!(a.hash(HuSource::Header), b.hash(HuSource::Header));
        assert_ne!(a.hash(HuSource::Header), a.hash(HuSource::AlreadyHu));
        assert_eq!(a.hash(HuSource::Header), a.clone().hash(HuSource::Header));
    }
}
