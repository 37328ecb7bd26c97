//! Folders labelled by TotalSegmentator: label maps, or a binary file a class.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use uniferum_ct::batch::map_scans;
use uniferum_ct::{read_mask_folder, write_nifti};
use uniferum_tasks::totalsegmentator;

use super::generic::hu_without_table;
use super::{Collected, HuChoice, files};
use crate::error::{Error, Result};
use crate::manifest::{Scan, SplitBy, SplitPlan, Table, split_cell};

/// Scans with TotalSegmentator masks.
///
/// Two layouts are known: files `scans/NAME.nii.gz` with `masks/NAME.nii.gz` or a folder `masks/NAME` of
/// classes; and TotalSegmentator's own data set, folders `NAME` with `ct.nii.gz` and `segmentations`, for
/// which `scans` and `masks` are the same folder.
#[derive(Debug, Clone)]
pub struct TotalSegmentatorFolder {
    /// The folder of scans.
    pub scans: PathBuf,
    /// The folder of masks.
    pub masks: PathBuf,
    /// Where folders of classes are put together as label maps. Those that are newer than what they are made
    /// from stay; the folder is for the masks of one collection.
    pub merged: PathBuf,
    /// The collection's name in the manifest.
    pub collection: String,
    /// Where Hounsfield units come from; the table setting is not available.
    pub hu: HuChoice,
    /// Draws the split by patient, where `meta.csv` has none.
    pub split: SplitPlan,
}

const ENDINGS: [&str; 6] = [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".npz"];

/// Where a scan's labels are.
enum Mask {
    Map(PathBuf),
    Classes(PathBuf),
}

impl TotalSegmentatorFolder {
    /// Two folders, and one for label maps put together from classes.
    pub fn new(
        scans: impl Into<PathBuf>,
        masks: impl Into<PathBuf>,
        merged: impl Into<PathBuf>,
    ) -> Self {
        TotalSegmentatorFolder {
            scans: scans.into(),
            masks: masks.into(),
            merged: merged.into(),
            collection: "totalsegmentator".to_owned(),
            hu: HuChoice::Header,
            split: SplitPlan {
                by: SplitBy::Shares {
                    val: 0.05,
                    test: 0.05,
                },
                seed: 0,
            },
        }
    }

    /// Finds scans and masks, and puts folders of classes together.
    ///
    /// `progress` is called after each scan with the number of all. A scan whose mask cannot be read is left out, and a note says so.
    ///
    /// # Errors
    /// [`Error::Table`] where a folder cannot be listed, or label maps of another collection would be taken for
    /// this one's; [`Error::Scan`] where no mask can be read.
    pub fn read(&self, progress: impl Fn(usize) + Sync) -> Result<Collected> {
        let mut out = Collected::default();
        let scans = self.find_scans()?;
        let mut pairs: Vec<(String, PathBuf, Mask)> = Vec::new();
        let mut without = Vec::new();
        for (name, path) in scans {
            match self.find_mask(&name) {
                Some(mask) => pairs.push((name, path, mask)),
                None => without.push(name),
            }
        }
        out.note_some("scans without a mask, left out", &without);
        if pairs.is_empty() {
            let what = format!("no scan with a mask in {}", self.masks.display());
            return Err(Error::table(&self.scans, None, what));
        }
        if pairs.iter().any(|(_, _, m)| matches!(m, Mask::Classes(_))) {
            files::claim(&self.merged, &self.masks)?;
        }
        let rows = map_scans(&pairs, |(name, path, mask)| {
            let scan = self.scan(name, path, mask);
            progress(pairs.len());
            scan
        });
        let rows = out.keep_read(rows)?;
        let (scans, warnings): (_, Vec<Vec<String>>) = rows.into_iter().unzip();
        out.manifest.scans = scans;
        out.note_some("files in folders of classes", &warnings.concat());
        self.split(&mut out)?;
        Ok(out)
    }

    fn find_scans(&self) -> Result<BTreeMap<String, PathBuf>> {
        let mut own = BTreeMap::new();
        let entries =
            std::fs::read_dir(&self.scans).map_err(|e| Error::table(&self.scans, None, e))?;
        for entry in entries {
            let folder = entry
                .map_err(|e| Error::table(&self.scans, None, e))?
                .path();
            let scan = folder.join("ct.nii.gz");
            if let Some(name) = folder.file_name().filter(|_| scan.is_file()) {
                own.insert(name.to_string_lossy().into_owned(), scan);
            }
        }
        if !own.is_empty() {
            return Ok(own);
        }
        files::by_name(&self.scans, &ENDINGS, &[&self.masks, &self.merged])
    }

    fn find_mask(&self, name: &str) -> Option<Mask> {
        let maps = ENDINGS
            .iter()
            .map(|e| self.masks.join(format!("{name}{e}")));
        if let Some(map) = maps.into_iter().find(|p| p.is_file()) {
            return Some(Mask::Map(map));
        }
        let folder = self.masks.join(name);
        // In the own data set this is the scan's folder, with the classes in one below it.
        let own = folder.join("ct.nii.gz").is_file();
        let below = folder.join("segmentations");
        let mut folders = std::iter::once(below).chain((!own).then_some(folder));
        folders.find(|f| f.is_dir()).map(Mask::Classes)
    }

    fn scan(&self, name: &str, path: &Path, mask: &Mask) -> Result<(Scan, Vec<String>)> {
        let mut warnings = Vec::new();
        let mask = match mask {
            Mask::Map(map) => map.clone(),
            Mask::Classes(folder) => {
                let merged = self.merged.join(format!("{name}.nii.gz"));
                if !files::is_current(&merged, &files::below(folder, &[".nii.gz", ".nii"])?) {
                    warnings = merge_classes(folder, &merged)?;
                }
                merged
            }
        };
        let scan = Scan {
            path: path.to_owned(),
            mask: Some(mask),
            patient: format!("{}:{name}", self.collection),
            collection: self.collection.clone(),
            hu: hu_without_table(self.hu)?,
            ..Scan::default()
        };
        Ok((scan, warnings))
    }

    fn split(&self, out: &mut Collected) -> Result<()> {
        let meta = self.scans.join("meta.csv");
        if !meta.is_file() {
            return self.split.apply(&mut out.manifest, |_| true);
        }
        let usual = Self::new("", "", "").split;
        self.split.check_usual(&usual, &meta)?;
        let table = Table::read(&meta)?;
        let (name, split) = (table.need(&["image_id"])?, table.need(&["split"])?);
        let rows: HashMap<&str, usize> =
            (0..table.len()).map(|r| (table.cell(r, name), r)).collect();
        for scan in &mut out.manifest.scans {
            let name = scan.patient.rsplit(':').next().unwrap_or_default();
            let row = *rows.get(name).ok_or_else(|| {
                Error::table(&meta, None, format!("no row with the image_id {name}"))
            })?;
            let split = split_cell(table.cell(row, split));
            scan.split = split.map_err(|e| table.error(row, e))?;
        }
        Ok(())
    }
}

/// Puts binary files named after version 2's classes together; where they overlap the later wins. Returns
/// which files were left out.
///
/// Names are what counts, so that version 1's folders work as far as the names are the same.
fn merge_classes(folder: &Path, to: &Path) -> Result<Vec<String>> {
    let named = |source| Error::Scan {
        scan: folder.display().to_string(),
        source,
    };
    let merged = read_mask_folder(folder, &totalsegmentator::classes()).map_err(named)?;
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|e| Error::table(parent, None, e))?;
    }
    write_nifti(to, &merged.volume).map_err(named)?;
    Ok(merged.warnings)
}
