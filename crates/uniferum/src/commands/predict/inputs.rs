//! Which scans are asked about.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use uniferum_ct::batch::{Gathered, Input, Sources, gather};

use crate::commands::{mask_classes, tell_left_out};
use crate::global::Global;

/// The scans of files, folders, lists and tables, each once. `masks`, where there are some, are theirs in
/// order; `out` is not searched, nor are other results where scans are asked for as they come (`raw`).
pub(crate) fn find(
    inputs: &[PathBuf],
    masks: &[PathBuf],
    out: Option<&Path>,
    raw: bool,
    global: &Global,
) -> anyhow::Result<Vec<Input>> {
    let sources = Sources {
        inputs: inputs.to_vec(),
        exclude: out.map(Path::to_owned),
        pass_over_results: raw,
        mask_classes: mask_classes(),
        ..Sources::default()
    };
    let Gathered {
        inputs: mut found,
        left_out,
    } = gather(&sources)?;
    tell_left_out(&left_out, global);
    // DICOM whose files do not say that they are: reading the folder tells what is wrong if anything is.
    if let ([folder], true) = (inputs, found.is_empty()) {
        found.push(Input {
            scan: folder.clone(),
            ..Input::default()
        });
    }
    ensure!(
        !found.is_empty(),
        "no scan in the inputs: expected files, or folders with some"
    );
    ensure!(
        masks.is_empty() || masks.len() == found.len(),
        "--mask: expected one for each of the {} scans, got {}",
        found.len(),
        masks.len()
    );
    for (input, mask) in found.iter_mut().zip(masks) {
        input.mask = Some(mask.clone());
    }
    Ok(found)
}
