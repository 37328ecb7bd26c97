//! Three phantom collections that know different things.

use std::path::Path;

use anyhow::Context;
use uniferum_data::{Dataset, Manifest, Scan, Split};
use uniferum_phantom::PhantomConfig;
use uniferum_tasks::{Catalogue, Task, TaskKind};

use super::plan::Plan;
use super::rows::Row;
use crate::commands::phantoms::{ORGANS, Site, cohort, standardised};

/// Bytes of test scans that are kept from row to row.
const TEST_CACHE: usize = 256 << 20;

/// What a collection knows of its scans.
#[derive(Debug)]
pub(super) struct Collection {
    pub(super) name: &'static str,
    /// Labels that collection A has as well.
    pub(super) shared: &'static [&'static str],
    /// Labels of its own.
    pub(super) unique: &'static [&'static str],
    /// Whether the shared labels are trained, or only tested as INSPECT's are in the paper.
    trains_shared: bool,
    prevalence: f64,
    scanner_variation: f64,
    manifest: Manifest,
}

/// The three collections.
#[derive(Debug)]
pub(super) struct Collections {
    pub(super) all: Vec<Collection>,
}

/// A has many labels; B few patients with findings, an outcome and one finding of its
/// own; C many findings, two of its own.
fn described() -> [Collection; 3] {
    let empty = Manifest::default;
    [
        Collection {
            name: "A",
            shared: &[
                "phantom.pleural-effusion",
                "phantom.lung-nodule",
                "phantom.consolidation",
                "phantom.cardiomegaly",
                "phantom.emphysema",
                "phantom.coronary-artery-wall-calcification",
            ],
            unique: &[],
            trains_shared: true,
            prevalence: 0.4,
            scanner_variation: 0.3,
            manifest: empty(),
        },
        Collection {
            name: "B",
            shared: &[
                "phantom.pleural-effusion",
                "phantom.consolidation",
                "phantom.cardiomegaly",
            ],
            unique: &["phantom.pericardial-effusion", "phantom.mortality-6m"],
            trains_shared: false,
            prevalence: 0.3,
            scanner_variation: 0.2,
            manifest: empty(),
        },
        Collection {
            name: "C",
            shared: &["phantom.pleural-effusion", "phantom.emphysema"],
            unique: &[
                "phantom.pacemaker-or-defibrillator",
                "phantom.hiatal-hernia",
            ],
            trains_shared: true,
            prevalence: 0.5,
            scanner_variation: 0.4,
            manifest: empty(),
        },
    ]
}

impl Collection {
    /// All its labels.
    fn labels(&self) -> impl Iterator<Item = &'static str> {
        self.shared.iter().chain(self.unique).copied()
    }

    /// The labels that a row trained on it learns.
    pub(super) fn trained(&self) -> impl Iterator<Item = &'static str> {
        let shared = self.shared.iter().filter(|_| self.trains_shared);
        shared.chain(self.unique).copied()
    }

    /// Its table, with the labels that it knows and `validation` patients kept aside.
    fn read(
        &self,
        table: &Path,
        validation: usize,
        catalogue: &Catalogue,
    ) -> anyhow::Result<Manifest> {
        let mut manifest = Manifest::read(table, catalogue, "phantom")?;
        choose_validation(&mut manifest, validation);
        let known: Vec<&str> = self.labels().collect();
        for id in &known {
            catalogue.get(id).with_context(|| format!("no task {id}"))?;
        }
        for scan in &mut manifest.scans {
            scan.labels.retain(|id, _| known.contains(&id.as_str()));
        }
        Ok(manifest)
    }

    fn scans<'a>(&'a self, splits: &'a [Split]) -> impl Iterator<Item = &'a Scan> {
        let all = self.manifest.scans.iter();
        all.filter(|scan| splits.contains(&scan.split))
    }
}

impl Collections {
    /// Writes and standardises the phantoms that are not there yet, and reads their tables.
    pub(super) fn write(folder: &Path, plan: &Plan, site: &Site<'_>) -> anyhow::Result<Self> {
        let mut all = described();
        for (i, collection) in all.iter_mut().enumerate() {
            let [train, val, test] = plan.scans[i];
            let total = train + val + test;
            let phantom = PhantomConfig {
                prevalence: collection.prevalence,
                scanner_variation: collection.scanner_variation,
                test_fraction: test as f64 / total as f64,
                ..plan.phantom.clone()
            };
            let folder = folder.join(collection.name);
            let what = |what: &str| format!("{what} {}", collection.name);
            let seed = plan.seed.wrapping_mul(16).wrapping_add(i as u64);
            let phantoms = what("phantoms");
            let table = cohort(&folder, total, seed, &phantom, &phantoms, site.global)?;
            let settings = &plan.input.standardise;
            let prepared = folder.join("standardised");
            let table = standardised(
                &table,
                &prepared,
                settings,
                &what("standardise"),
                site.global,
            )?;
            collection.manifest = collection.read(&table, val, site.catalogue)?;
        }
        Ok(Self { all: all.into() })
    }

    fn of<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a Collection> {
        let all = self.all.iter();
        all.filter(|c| row.collections.contains(&c.name))
    }

    /// Training and validation scans of a row, with what the row may know of them.
    pub(super) fn training(&self, row: &Row) -> Manifest {
        let mut manifest = Manifest::default();
        for collection in self.of(row) {
            let trained: Vec<&str> = collection.trained().collect();
            for scan in collection.scans(&[Split::Train, Split::Val]) {
                let mut scan = scan.clone();
                scan.labels.retain(|id, _| trained.contains(&id.as_str()));
                // Patients of different collections are different people.
                scan.patient = format!("{}-{}", collection.name, scan.patient);
                if !row.masks {
                    scan.mask = None;
                    scan.nodules = None;
                }
                manifest.scans.push(scan);
            }
        }
        manifest
    }

    /// Ids of the tasks that a row is trained on.
    pub(super) fn task_ids(&self, row: &Row) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        let masks = ORGANS.iter().filter(|_| row.masks).copied();
        let labels = self.of(row).flat_map(Collection::trained);
        for id in labels.chain(masks) {
            if !ids.iter().any(|known| known == id) {
                ids.push(id.to_owned());
            }
        }
        if row.masks {
            ids.push("nodule".to_owned());
        }
        ids
    }

    /// The tasks that a row is trained on.
    pub(super) fn tasks_of(&self, row: &Row, catalogue: &Catalogue) -> Vec<Task> {
        let ids = self.task_ids(row);
        let named = ids.iter().flat_map(|id| match catalogue.get(id) {
            Some(task) => vec![task],
            None => catalogue.group(id),
        });
        named.cloned().collect()
    }
}

impl Collection {
    /// Its test scans with all its labels as tasks.
    pub(super) fn test(&self, plan: &Plan, catalogue: &Catalogue) -> anyhow::Result<Dataset> {
        let scans = self.scans(&[Split::Test]).cloned().collect();
        let tasks: Vec<Task> = self
            .labels()
            .filter_map(|id| catalogue.get(id))
            .filter(|task| task.kind != TaskKind::Segmentation)
            .cloned()
            .collect();
        let transform = plan.input.transform.clone();
        let manifest = Manifest { scans };
        Ok(Dataset::new(
            manifest,
            tasks,
            transform,
            plan.model.patch,
            TEST_CACHE,
        )?)
    }
}

/// The last training patients become validation patients.
fn choose_validation(manifest: &mut Manifest, count: usize) {
    let training = manifest.scans.iter_mut().rev();
    let training = training.filter(|scan| scan.split == Split::Train);
    for scan in training.take(count) {
        scan.split = Split::Val;
    }
}
