//! One scan of a collection: read, standardise, write; and whether that was done before.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::gather::Input;
use super::job::{Job, OutputFormat, PrepareSettings, read_options};
use super::ledger::LedgerRow;
use crate::error::{Error, Result};
use crate::io::cache::{CacheVoxel, Hash, write_cache, write_release_bin};
use crate::io::hu::{check_chest, check_not_constant};
use crate::io::nifti::{NiftiVoxel, write_nifti};
use crate::io::{Organs, dicom, read_ct, read_mask, read_organs};
use crate::prep::standardise_with;
use crate::volume::Volume;

/// Prepares a scan; whatever goes wrong, even a panic, ends in the row.
pub(super) fn prepare_one(job: &Job, settings: &PrepareSettings, folder: &Path) -> LedgerRow {
    let start = Instant::now();
    let attempt = || attempt(job, settings, folder);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt));
    let mut row = match outcome {
        Ok(Ok(row)) => row,
        Ok(Err(error)) => LedgerRow {
            error: error.about(&job.input.scan),
            ..row_of(job)
        },
        Err(panic) => LedgerRow {
            error: format!(
                "{}: a fault of this program: {}",
                job.input.scan.display(),
                message(panic.as_ref())
            ),
            ..row_of(job)
        },
    };
    (row.input_bytes, row.input_modified) = fingerprint(job);
    // What is known before the scan is read is looked at anew in every run: such a row is of no settings.
    if job.input.problem.is_none() {
        row.settings = settings.hash(job.input.hu).to_string();
    }
    row.seconds = (start.elapsed().as_secs_f64() * 1e3).round() / 1e3;
    row.finished = seconds_since_1970(SystemTime::now());
    row
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic")
}

fn attempt(job: &Job, settings: &PrepareSettings, folder: &Path) -> Result<LedgerRow> {
    let input = &job.input;
    if let Some(problem) = &input.problem {
        return Err(Error::unsupported(&input.scan, problem));
    }
    // Decompression is one thread's work: the masks are read beside the scan.
    let nodules = || input.nodules.as_ref().map(read_mask).transpose();
    let (scan, masks) = rayon::join(
        || read_ct(&input.scan, &read_options(input.hu)),
        || (organs(input), nodules()),
    );
    let (scan, organs, nodules) = (scan?, masks.0?, masks.1?);
    check_chest(&scan.volume)?;
    let (mask, mask_warnings) = organs.map(|o| (o.volume, o.warnings)).unzip();
    let others: Vec<&Volume<u8>> = nodules.iter().collect();
    let (done, others) =
        standardise_with(&scan.volume, mask.as_ref(), &others, &settings.standardise)?;
    check_not_constant(&done.volume.voxels, "standardised volume", f32::from)?;
    let mut warnings = input.warnings.clone();
    warnings.extend(scan.warnings);
    warnings.extend(mask_warnings.unwrap_or_default());
    drop((scan.volume, mask, nodules));
    warnings.extend(done.report.warnings.iter().cloned());
    let settings_hash = settings.hash(input.hu);
    let labels = |path: &Option<PathBuf>, volume: Option<&Volume<u8>>| match (path, volume) {
        (Some(path), Some(volume)) => {
            write_labels(&folder.join(path), volume, settings, settings_hash)
        }
        _ => Ok(String::new()),
    };
    let mask_hash = labels(&job.mask, done.mask.as_ref())?;
    let nodules_hash = labels(&job.nodules, others.first())?;
    let hash = write_scan(
        &folder.join(&job.scan),
        &done.volume,
        settings,
        settings_hash,
    )?;
    let mut row = LedgerRow {
        hash,
        mask_hash,
        nodules_hash,
        warnings: warnings.join("; "),
        report: serde_json::to_string(&done.report).unwrap_or_default(),
        ..row_of(job)
    };
    row.output_bytes = row
        .outputs()
        .map(|(path, _)| bytes_of(&folder.join(path)))
        .sum();
    Ok(row)
}

/// The organ mask, from a label map or from a folder of classes.
fn organs(input: &Input) -> Result<Option<Organs>> {
    let classes = input.mask_classes.iter();
    let classes: Vec<_> = classes.map(|(name, n)| (name.as_str(), *n)).collect();
    let read = |path| read_organs(path, &classes);
    input.mask.as_ref().map(read).transpose()
}

fn row_of(job: &Job) -> LedgerRow {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let maybe = |path: &Option<PathBuf>| path.as_deref().map(text).unwrap_or_default();
    LedgerRow {
        input: text(&job.input.scan),
        output: text(&job.scan),
        mask: maybe(&job.input.mask),
        mask_output: maybe(&job.mask),
        nodules: maybe(&job.input.nodules),
        nodules_output: maybe(&job.nodules),
        ..LedgerRow::default()
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(|source| Error::io(folder, source))
}

fn write_scan(
    path: &Path,
    volume: &Volume<i16>,
    settings: &PrepareSettings,
    hash: Hash,
) -> Result<String> {
    make_folder(path)?;
    match settings.format {
        OutputFormat::Cache => cached(path, volume, hash),
        OutputFormat::Nifti => nifti(path, volume),
        OutputFormat::Bin => {
            write_release_bin(path, volume, true)?;
            Ok(Hash::of_file(path)?.to_string())
        }
    }
}

fn write_labels(
    path: &Path,
    volume: &Volume<u8>,
    settings: &PrepareSettings,
    hash: Hash,
) -> Result<String> {
    make_folder(path)?;
    match settings.format {
        OutputFormat::Cache => cached(path, volume, hash),
        OutputFormat::Nifti | OutputFormat::Bin => nifti(path, volume),
    }
}

fn cached<T: CacheVoxel>(path: &Path, volume: &Volume<T>, settings: Hash) -> Result<String> {
    Ok(write_cache(path, volume, settings)?.to_string())
}

fn nifti<T: NiftiVoxel>(path: &Path, volume: &Volume<T>) -> Result<String> {
    write_nifti(path, volume)?;
    Ok(Hash::of_file(path)?.to_string())
}

/// Whether a row's preparation is the job's, of the inputs as they are now, and its files are there and
/// unchanged; with `trust_sizes` their content is not read.
pub(super) fn is_done(
    row: &LedgerRow,
    job: &Job,
    settings: &PrepareSettings,
    folder: &Path,
    trust_sizes: bool,
) -> bool {
    if row.failed() || !is_current(row, job, settings) {
        return false;
    }
    let size: u64 = row
        .outputs()
        .map(|(path, _)| bytes_of(&folder.join(path)))
        .sum();
    size == row.output_bytes
        && (trust_sizes
            || row.outputs().all(|(path, hash)| {
                Hash::of_file(&folder.join(path)).is_ok_and(|found| found.to_string() == hash)
            }))
}

/// Whether a row is about these settings and the inputs as they are now.
pub(super) fn is_current(row: &LedgerRow, job: &Job, settings: &PrepareSettings) -> bool {
    let expected = row_of(job);
    job.input.problem.is_none()
        && has_settings(row, job, settings)
        && (row.input_bytes, row.input_modified) == fingerprint(job)
        && row.mask_output == expected.mask_output
        && row.nodules_output == expected.nodules_output
}

/// Whether these settings made what a row tells of.
pub(super) fn has_settings(row: &LedgerRow, job: &Job, settings: &PrepareSettings) -> bool {
    row.settings == settings.hash(job.input.hu).to_string()
}

/// Bytes of all input files and the time of the youngest; folders count with the files in them and below,
/// headers with the files of their voxels.
fn fingerprint(job: &Job) -> (u64, u64) {
    let input = &job.input;
    let paths = [&input.mask, &input.nodules].into_iter().flatten();
    let files = paths.chain([&input.scan]).flat_map(|path| files_of(path));
    files.fold((0, 0), |(bytes, youngest), file| {
        match std::fs::metadata(file) {
            Ok(meta) if meta.is_file() => {
                let modified = meta.modified().map_or(0.0, seconds_since_1970);
                (bytes + meta.len(), youngest.max(modified as u64))
            }
            _ => (bytes, youngest),
        }
    })
}

/// Ends of the names of files that are read together with another of the same name.
const PAIRED: [&str; 9] = [
    ".mhd", ".nhdr", ".hdr.gz", ".hdr", ".img.gz", ".img", ".raw.gz", ".raw", ".zraw",
];

/// The files that an input may be read from, whether they exist or not.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        return dicom::files(path).unwrap_or_default();
    }
    let mut files = vec![path.to_owned()];
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lower = name.to_ascii_lowercase();
    if let Some(end) = PAIRED.iter().find(|end| lower.ends_with(**end)) {
        let stem = &name[..name.len() - end.len()];
        let others = PAIRED.iter().filter(|other| *other != end);
        files.extend(others.map(|end| path.with_file_name(format!("{stem}{end}"))));
    }
    files
}

fn bytes_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |meta| meta.len())
}

fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voxels_beside_a_header_and_below_a_folder_are_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let fingerprint = |scan: &str| {
            let input = Input {
                scan: dir.path().join(scan),
                ..Input::default()
            };
            let job = Job {
                input,
                scan: PathBuf::new(),
                mask: None,
                nodules: None,
            };
            fingerprint(&job).0
        };
        let pairs = [
            ("a.mhd", "a.raw"),
            ("b.mhd", "b.zraw"),
            ("c.hdr", "c.img.gz"),
            ("d.img", "d.hdr"),
            ("e.v1.nhdr", "e.v1.raw.gz"),
            ("f", "f/g/h/1.dcm"),
        ];
        for (scan, voxels) in pairs {
            let file = dir.path().join(voxels);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            if scan != "f" {
                std::fs::write(dir.path().join(scan), b"head").unwrap();
            }
            let before = fingerprint(scan);
            std::fs::write(file, b"voxels").unwrap();
            assert_eq!(fingerprint(scan), before + 6, "{scan}");
        }
    }
}
