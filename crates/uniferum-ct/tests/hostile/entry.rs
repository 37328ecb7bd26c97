//! What the fuzz targets and the bounded smoke have in common: bytes in, a volume or an error out.

use std::path::Path;

use uniferum_ct::io::dicom::{self, Padding};
use uniferum_ct::io::nifti::read_nifti;
use uniferum_ct::{
    HuCheck, Labels, ReadOptions, ScanFacts, read_ct, read_mask_with, read_prepared,
};

/// Puts the files into a folder of their own and reads the first by every door there is.
///
/// Returns whether it was read as a scan.
pub(crate) fn read(files: &[(&str, &[u8])]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a temporary file");
    }
    let first = folder.path().join(files[0].0);
    let _ = read_mask_with(&first, &Labels::TotalSegmentatorV2);
    let _ = read_prepared(&first);
    let _ = read_nifti(&first);
    let _ = dicom::identity(&first);
    scan(&first)
}

/// Puts the files into a folder and reads that as a DICOM series.
pub(crate) fn series(files: &[&[u8]]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (index, bytes) in files.iter().enumerate() {
        std::fs::write(folder.path().join(index.to_string()), bytes).expect("a temporary file");
    }
    let _ = dicom::find_series(folder.path());
    scan(folder.path())
}

fn scan(path: &Path) -> bool {
    // Nothing is held back by doubts about its grey values.
    let options = ReadOptions {
        hu_check: HuCheck::Off,
        padding: Padding::Air,
        ..ReadOptions::default()
    };
    match read_ct(path, &options) {
        Ok(scan) => {
            assert!(scan.volume.voxels.iter().all(|v| v.is_finite()));
            assert!(scan.volume.affine.inverse().is_some());
            let facts = ScanFacts::of(&scan);
            assert!(facts.hu.min <= facts.hu.max);
            true
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 1 << 16, "an endless message");
            false
        }
    }
}
