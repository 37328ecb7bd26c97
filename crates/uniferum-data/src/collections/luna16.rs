//! LUNA16: scans in ten subsets, nodules as a list of spheres.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use uniferum_ct::batch::map_scans;
use uniferum_ct::{ReadOptions, read_ct, write_nifti};

use super::{Collected, Nodule, draw_nodules, files};
use crate::error::{Error, Result};
use crate::manifest::{Scan, Split, Table, base_name, number};

/// LUNA16 as it is downloaded: `subset0` to `subset9` with `<seriesuid>.mhd`, and `annotations.csv`.
///
/// # Reference
/// Paper, section 3.3: 601 masks, all for training.
#[derive(Debug, Clone)]
pub struct Luna16 {
    /// The folder with the subsets.
    pub root: PathBuf,
    /// The annotations; `annotations.csv` in the folder where not given.
    pub annotations: Option<PathBuf>,
    /// Where masks are written, a NIfTI file a scan with nodules. Those that are newer than what they are made from stay.
    pub masks: PathBuf,
    /// Subsets for validation.
    pub val_subsets: Vec<u8>,
    /// Subsets for test.
    pub test_subsets: Vec<u8>,
}

const ENDINGS: [&str; 4] = [".mhd", ".mha", ".nii.gz", ".nii"];

impl Luna16 {
    /// A folder; masks go to another one.
    pub fn new(root: impl Into<PathBuf>, masks: impl Into<PathBuf>) -> Self {
        Luna16 {
            root: root.into(),
            annotations: None,
            masks: masks.into(),
            val_subsets: Vec::new(),
            test_subsets: Vec::new(),
        }
    }

    /// Reads the annotations, draws the masks, and lists the scans that have nodules.
    ///
    /// `progress` is called after each scan with the number of all. A scan that cannot be read is left out, and a note says so.
    ///
    /// # Errors
    /// [`Error::Table`] with file and row; [`Error::Scan`] where no scan can be read.
    pub fn read(&self, progress: impl Fn(usize) + Sync) -> Result<Collected> {
        let own = self.root.join("annotations.csv");
        let table = self.annotations.clone().unwrap_or(own);
        let nodules = annotations(&table)?;
        let scans = self.find_scans()?;
        std::fs::create_dir_all(&self.masks).map_err(|e| Error::table(&self.masks, None, e))?;
        let mut out = Collected::default();
        let without: Vec<String> = scans
            .keys()
            .filter(|s| !nodules.contains_key(*s))
            .cloned()
            .collect();
        let absent: Vec<String> = nodules
            .keys()
            .filter(|s| !scans.contains_key(*s))
            .cloned()
            .collect();
        out.note_some("scans without nodules, left out", &without);
        out.note_some("annotated scans that have no file, left out", &absent);
        let rows: Vec<(&String, &PathBuf, &Vec<Nodule>)> = scans
            .iter()
            .filter_map(|(name, path)| Some((name, path, nodules.get(name)?)))
            .collect();
        let drawn = map_scans(&rows, |(name, path, nodules)| {
            let drawn = self.scan(name, path, nodules, &table);
            progress(rows.len());
            drawn
        });
        let drawn = out.keep_read(drawn)?;
        let strays: Vec<String> = drawn
            .iter()
            .filter_map(|(scan, outside)| Some((scan, outside.filter(|n| *n > 0)?)))
            .map(|(scan, outside)| format!("{outside} of {}", scan.name()))
            .collect();
        out.note_some("scans with nodules outside the image, not drawn", &strays);
        let kept = drawn.iter().filter(|(_, outside)| outside.is_none());
        let kept: Vec<String> = kept.map(|(scan, _)| scan.name()).collect();
        out.note_some("masks are newer than scan and annotations, and stay", &kept);
        out.manifest.scans = drawn.into_iter().map(|(scan, _)| scan).collect();
        Ok(out)
    }

    /// The subsets alone where there are some: LUNA16's lung masks have the names of its scans.
    fn find_scans(&self) -> Result<BTreeMap<String, PathBuf>> {
        let subsets: Vec<PathBuf> = (0..10)
            .map(|n| self.root.join(format!("subset{n}")))
            .filter(|f| f.is_dir())
            .collect();
        if subsets.is_empty() {
            return files::by_name(&self.root, &ENDINGS, &[&self.masks]);
        }
        let mut scans = BTreeMap::new();
        for subset in subsets {
            scans.extend(files::by_name(&subset, &ENDINGS, &[&self.masks])?);
        }
        Ok(scans)
    }

    /// The scan, and how many of its nodules lie outside of it; `None` where its mask was there before.
    fn scan(
        &self,
        name: &str,
        path: &Path,
        nodules: &[Nodule],
        table: &Path,
    ) -> Result<(Scan, Option<usize>)> {
        let mask = self.masks.join(format!("{name}.nii.gz"));
        let named = |source| Error::Scan {
            scan: path.display().to_string(),
            source,
        };
        let mut outside = None;
        if !files::is_current(&mask, &[path.to_owned(), table.to_owned()]) {
            let scan = read_ct(path, &ReadOptions::default()).map_err(named)?;
            let (drawn, strays) = draw_nodules(scan.volume.shape(), scan.volume.affine, nodules);
            outside = Some(strays.len());
            write_nifti(&mask, &drawn).map_err(named)?;
        }
        let scan = Scan {
            path: path.to_owned(),
            nodules: Some(mask),
            patient: format!("luna16:{name}"),
            study: format!("luna16:{name}"),
            collection: "luna16".to_owned(),
            split: self.split(path),
            ..Scan::default()
        };
        Ok((scan, outside))
    }

    fn split(&self, path: &Path) -> Split {
        let subset = path.components().rev().find_map(|part| {
            let number = part.as_os_str().to_str()?.strip_prefix("subset")?;
            number.parse::<u8>().ok()
        });
        match subset {
            Some(n) if self.test_subsets.contains(&n) => Split::Test,
            Some(n) if self.val_subsets.contains(&n) => Split::Val,
            _ => Split::Train,
        }
    }
}

fn annotations(path: &Path) -> Result<BTreeMap<String, Vec<Nodule>>> {
    let table = Table::read(path)?;
    let series = table.need(&["seriesuid"])?;
    let columns = ["coordX", "coordY", "coordZ", "diameter_mm"];
    let columns: Result<Vec<usize>> = columns.iter().map(|c| table.need(&[c])).collect();
    let columns = columns?;
    let mut nodules: BTreeMap<String, Vec<Nodule>> = BTreeMap::new();
    for row in 0..table.len() {
        let value = |c: usize| {
            let name = &table.head()[columns[c]];
            number(name, table.cell(row, columns[c])).map_err(|e| table.error(row, e))
        };
        let nodule = Nodule {
            centre_lps_mm: [value(0)?, value(1)?, value(2)?],
            diameter_mm: value(3)?,
        };
        if nodule.diameter_mm <= 0.0 {
            return Err(table.error(row, "diameter_mm: expected more than 0"));
        }
        let name = base_name(Path::new(table.cell(row, series)));
        nodules.entry(name).or_default().push(nodule);
    }
    Ok(nodules)
}
