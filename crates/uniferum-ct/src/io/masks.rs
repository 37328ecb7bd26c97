//! Label maps: which numbers they carry, and folders with one binary file a class.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::cache;
use super::hu::HuSource;
use super::nifti::{self, Extension};
use super::read::{Kind, read_file, sniff};
use crate::Volume;
use crate::error::{Error, Result};

/// Which numbers a label map carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Labels {
    /// TotalSegmentator v2. A map whose own label table says otherwise is refused.
    #[default]
    TotalSegmentatorV2,
    /// Whatever they are; nobody looks.
    AsStored,
    /// Other numbers, turned into these: pairs of (stored, wanted). What is not listed becomes 0.
    Mapped(Vec<(u8, u8)>),
}

/// Reads a label map of TotalSegmentator v2 numbers from NIfTI, NRRD, MetaImage or npy.
///
/// # Errors
/// As [`read_ct`](crate::read_ct); also where a value is not a whole number from 0 to 255, and where
/// the label table in the file is version 1's.
pub fn read_mask(path: impl AsRef<Path>) -> Result<Volume<u8>> {
    read_mask_with(path, &Labels::default())
}

/// Reads a label map of other numbers.
///
/// # Errors
/// As [`read_mask`].
pub fn read_mask_with(path: impl AsRef<Path>, labels: &Labels) -> Result<Volume<u8>> {
    let path = path.as_ref();
    let mut volume = match cache::read_mask(path)? {
        Some(mask) => mask,
        None => read_stored(path, labels)?,
    };
    if let Labels::Mapped(pairs) = labels {
        let mut table = [0; 256];
        for &(stored, wanted) in pairs {
            table[usize::from(stored)] = wanted;
        }
        volume.voxels.mapv_inplace(|v| table[usize::from(v)]);
    }
    Ok(volume)
}

/// A map that is no cache, with the numbers that it stores.
fn read_stored(path: &Path, labels: &Labels) -> Result<Volume<u8>> {
    let header = nifti::header_of_image(path);
    let nifti_path = header.as_deref().unwrap_or(path);
    if header.is_some() || sniff(path)? == Kind::Nifti {
        let file = nifti::read_nifti(nifti_path)?;
        if *labels == Labels::TotalSegmentatorV2 {
            check_version(nifti_path, &file.extensions)?;
        }
        let voxels = file.voxels(nifti_path, file.header.scaling)?;
        Ok(Volume::new(voxels, file.header.affine))
    } else {
        Ok(read_file(path, HuSource::Header)?.volume)
    }
}

/// Names that version 1 and version 2 number differently, with version 2's numbers.
const MARKERS: [(&str, u32); 6] = [
    ("pancreas", 7),
    ("lung_upper_lobe_left", 10),
    ("lung_lower_lobe_left", 11),
    ("lung_upper_lobe_right", 12),
    ("lung_middle_lobe_right", 13),
    ("lung_lower_lobe_right", 14),
];

/// TotalSegmentator writes its table of labels into a header extension; version 1 numbers otherwise.
fn check_version(path: &Path, extensions: &[Extension]) -> Result<()> {
    for extension in extensions {
        let text = String::from_utf8_lossy(&extension.data);
        for (number, name) in label_table(&text) {
            let marker = MARKERS.iter().find(|(marker, _)| *marker == name);
            if let Some(&(_, wanted)) = marker.filter(|(_, wanted)| *wanted != number) {
                return Err(Error::field(
                    path,
                    "label table",
                    format!("TotalSegmentator version 2 ({name} = {wanted})"),
                    format!("{name} = {number} (version 1?): map its numbers with Labels::Mapped"),
                ));
            }
        }
    }
    Ok(())
}

/// The `(key, name)` pairs of a CaretExtension's `<Label Key="1" …><![CDATA[spleen]]></Label>`.
fn label_table(text: &str) -> impl Iterator<Item = (u32, &str)> {
    text.split("<Label ").skip(1).filter_map(|label| {
        let number = label.split_once("Key=\"")?.1.split_once('"')?.0;
        let name = label.split_once("[CDATA[")?.1.split_once("]]")?.0;
        Some((number.parse().ok()?, name))
    })
}

/// A label map put together, and what a user should know of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Organs {
    /// Label numbers.
    pub volume: Volume<u8>,
    /// What was left out, and why.
    pub warnings: Vec<String>,
}

/// Where TotalSegmentator's own data set has a case's classes, below the case's folder.
pub(crate) const SUBFOLDER: &str = "segmentations";

/// Reads an organ mask as TotalSegmentator v2 writes it: a label map as [`read_mask`] reads it, or a folder
/// with one file a class as [`read_mask_folder`] does, the classes in it or in `segmentations` below it.
///
/// # Errors
/// As [`read_mask`] and [`read_mask_folder`].
pub fn read_organs(path: impl AsRef<Path>, classes: &[(&str, u8)]) -> Result<Organs> {
    let path = path.as_ref();
    if !path.is_dir() {
        let volume = read_mask(path)?;
        let warnings = Vec::new();
        return Ok(Organs { volume, warnings });
    }
    let below = path.join(SUBFOLDER);
    match class_files(&below, classes) {
        files if files.is_empty() => read_mask_folder(path, classes),
        files => read_classes(&below, &files, classes),
    }
}

/// Reads a folder with one binary file a class, as TotalSegmentator writes without `--ml`.
///
/// `classes` pairs file names without their ending (`lung_upper_lobe_left`) with label numbers; images of
/// other names are left out with a warning that names them, classes without a file are absent. Where classes
/// overlap the later wins.
///
/// # Errors
/// As [`read_mask`]; [`Error::Field`] where no file matches or a file is not binary;
/// [`Error::Volume`] where files lie on different grids.
pub fn read_mask_folder(folder: impl AsRef<Path>, classes: &[(&str, u8)]) -> Result<Organs> {
    let folder = folder.as_ref();
    read_classes(folder, &class_files(folder, classes), classes)
}

/// The files of the classes that have one, with the classes' numbers.
fn class_files(folder: &Path, classes: &[(&str, u8)]) -> Vec<(PathBuf, u8)> {
    let found = |&(name, number): &(&str, u8)| Some((class_file(folder, name)?, number));
    classes.iter().filter_map(found).collect()
}

fn read_classes(folder: &Path, files: &[(PathBuf, u8)], classes: &[(&str, u8)]) -> Result<Organs> {
    let unknown = unknown_classes(folder, classes)?;
    let mut out: Option<Volume<u8>> = None;
    // A few at a time: a class takes as much memory as the map.
    for batch in files.chunks(rayon::current_num_threads().min(4)) {
        let read: Result<Vec<_>> = batch.par_iter().map(|(path, _)| read_class(path)).collect();
        for (class, &(_, number)) in read?.into_iter().zip(batch) {
            add_class(&mut out, class, number)?;
        }
    }
    let volume = out.ok_or_else(|| {
        let expected = "files named after classes, such as lung_upper_lobe_left.nii.gz";
        let got = match unknown.len() {
            0 => "no image".to_owned(),
            _ => some_of(&unknown),
        };
        Error::field(folder, "folder of masks", expected, got)
    })?;
    let mut warnings = Vec::new();
    if !unknown.is_empty() {
        warnings.push(format!(
            "{}: named after no known class and left out: {}",
            folder.display(),
            some_of(&unknown)
        ));
    }
    Ok(Organs { volume, warnings })
}

/// Endings of the files of classes, in the order in which they are looked for.
const CLASS_ENDS: [&str; 5] = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd"];

/// The file of a class, in the first format that is there.
fn class_file(folder: &Path, name: &str) -> Option<PathBuf> {
    CLASS_ENDS
        .into_iter()
        .map(|end| folder.join(format!("{name}{end}")))
        .find(|path| path.is_file())
}

/// Names of images in the folder, without their ending, that are no class's; sorted.
fn unknown_classes(folder: &Path, classes: &[(&str, u8)]) -> Result<Vec<String>> {
    let fail = |source| Error::io(folder, source);
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let name = CLASS_ENDS.iter().find_map(|end| file.strip_suffix(end));
        if let Some(name) = name
            && classes.iter().all(|(class, _)| *class != name)
            && entry.path().is_file()
        {
            out.push(name.to_owned());
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}

/// The first names of a list and how many more there are, for messages.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len() - names.len().min(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn read_class(path: &Path) -> Result<Volume<u8>> {
    let class = read_mask_with(path, &Labels::AsStored)?;
    match class.voxels.iter().find(|&&v| v > 1) {
        None => Ok(class),
        Some(value) => Err(Error::field(path, "voxels", "0 and 1 (one class)", value)),
    }
}

/// Writes a class's number over the map where the class is.
fn add_class(map: &mut Option<Volume<u8>>, mut class: Volume<u8>, number: u8) -> Result<()> {
    let Some(map) = map else {
        class.voxels.mapv_inplace(|v| v * number);
        *map = Some(class);
        return Ok(());
    };
    map.check_same_grid(&class, "masks of one folder")?;
    let put = |label: &mut u8, &inside: &u8| {
        if inside == 1 {
            *label = number;
        }
    };
    ndarray::Zip::from(&mut map.voxels)
        .and(&class.voxels)
        .for_each(put);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u32, &str)]) -> Vec<Extension> {
        let labels: String = entries
            .iter()
            .map(|(n, name)| format!("<Label Key=\"{n}\" Red=\"0\"><![CDATA[{name}]]></Label>\n"))
            .collect();
        let data = format!("<CaretExtension><LabelTable>\n{labels}</LabelTable>").into_bytes();
        vec![Extension { code: 0, data }]
    }

    #[test]
    fn a_prepared_mask_is_mapped_as_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.uct");
        let voxels = ndarray::arr3(&[[[0u8, 3, 4]]]);
        let mask = Volume::new(voxels, crate::Affine::IDENTITY);
        cache::write_cache(&path, &mask, cache::Hash::of(b"")).unwrap();
        let mapped = read_mask_with(&path, &Labels::Mapped(vec![(3, 10)])).unwrap();
        assert_eq!(mapped.voxels, ndarray::arr3(&[[[0u8, 10, 0]]]));
    }

    #[test]
    fn version_1_tables_are_told_from_version_2() {
        let path = Path::new("m.nii.gz");
        let two = table(&[(1, "spleen"), (7, "pancreas"), (10, "lung_upper_lobe_left")]);
        assert!(check_version(path, &two).is_ok());
        let one = table(&[
            (1, "spleen"),
            (10, "pancreas"),
            (13, "lung_upper_lobe_left"),
        ]);
        let error = check_version(path, &one).unwrap_err().to_string();
        assert!(
            error.contains("version 2") && error.contains("pancreas = 10"),
            "{error}"
        );
        assert!(check_version(path, &[]).is_ok());
    }
}
