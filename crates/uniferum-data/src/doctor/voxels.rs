//! What the voxels tell: damage, grey values, heads, duplicates, masks that do not fit.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use uniferum_ct::batch::map_scans;
use uniferum_ct::io::hu::{HuVerdict, judge};
use uniferum_ct::{
    CtVolume, HuCheck, ReadOptions, ScanFacts, Volume, read_ct, read_mask, read_organs,
};
use uniferum_tasks::totalsegmentator;

use super::{Check, Finding, Severity, finding};
use crate::loader::check_mask_grid;
use crate::manifest::{Manifest, Scan};

/// What is measured of a scan's voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct VoxelFacts {
    /// SHA-256 of shape and whole Hounsfield units.
    pub hash: [u8; 32],
    /// Volume of what has the density of lung (-900 to -550 HU), litres.
    pub lung_litres: f64,
    /// Whether the grey values can be Hounsfield units.
    pub verdict: HuVerdict,
    /// Voxel spacing along x, y, z of the array as stored, mm.
    pub spacing_mm: [f64; 3],
    /// What looks odd about grey values and geometry.
    pub warnings: Vec<String>,
}

/// Less than this is no chest: what of a head or of a table has the density of lung is less.
const NO_LUNG_LITRES: f64 = 0.3;
/// Less than this is worth a look: a child, a resection, a part of a chest.
const LITTLE_LUNG_LITRES: f64 = 0.8;

/// Measures a scan's voxels.
///
/// # Errors
/// Those of [`read_ct`], but not those about grey values: they are measured.
pub fn voxel_facts(scan: &Scan) -> uniferum_ct::Result<(VoxelFacts, CtVolume)> {
    let options = ReadOptions {
        hu: scan.hu,
        hu_check: HuCheck::Off,
        ..ReadOptions::default()
    };
    let read = read_ct(&scan.path, &options)?;
    let warnings = ScanFacts::of(&read).warnings;
    let volume = read.volume;
    let spacing = volume.spacing();
    let lung = volume
        .voxels
        .iter()
        .filter(|v| (-900.0..-550.0).contains(*v))
        .count();
    let facts = VoxelFacts {
        hash: hash(&volume),
        lung_litres: lung as f64 * spacing.iter().product::<f64>() / 1e6,
        verdict: judge(&volume),
        spacing_mm: spacing,
        warnings,
    };
    Ok((facts, volume))
}

fn hash(volume: &CtVolume) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for n in volume.shape() {
        hasher.update((n as u64).to_le_bytes());
    }
    let mut line = Vec::new();
    for plane in volume.voxels.outer_iter() {
        line.clear();
        let whole = |v: &f32| v.round().clamp(-32768.0, 32767.0) as i16;
        line.extend(plane.iter().flat_map(|v| whole(v).to_le_bytes()));
        hasher.update(&line);
    }
    hasher.finalize().into()
}

pub(super) fn examine(
    manifest: &Manifest,
    chosen: &[usize],
    progress: impl Fn(usize) + Sync,
) -> Vec<Finding> {
    let each = map_scans(chosen, |&index| {
        let (hash, findings) = one(&manifest.scans[index]);
        progress(chosen.len());
        (index, hash, findings)
    });
    let mut by_hash: BTreeMap<[u8; 32], Vec<usize>> = BTreeMap::new();
    for (index, hash, _) in &each {
        if let Some(hash) = hash {
            by_hash.entry(*hash).or_default().push(*index);
        }
    }
    let same = by_hash.into_values().filter(|scans| scans.len() > 1);
    let mut findings: Vec<Finding> = same.map(|scans| duplicates(manifest, &scans)).collect();
    findings.extend(each.into_iter().flat_map(|(_, _, f)| f));
    findings
}

fn duplicates(manifest: &Manifest, same: &[usize]) -> Finding {
    let scans: Vec<&Scan> = same.iter().map(|&i| &manifest.scans[i]).collect();
    let first = scans[0];
    let names: Vec<String> = scans.iter().map(|s| s.name()).collect();
    let (severity, why) = if scans.iter().any(|s| s.split != first.split) {
        (Severity::Error, "in different splits")
    } else if scans.iter().any(|s| s.patient != first.patient) {
        (Severity::Error, "of different patients")
    } else {
        (Severity::Warning, "of one patient")
    };
    Finding {
        scans: scans.iter().map(|s| s.path.clone()).collect(),
        ..finding(
            severity,
            Check::DuplicateVoxels,
            format!("equal voxels {why}: {}", names.join(", ")),
        )
    }
}

/// One scan's voxels, spacing and masks.
fn one(scan: &Scan) -> (Option<[u8; 32]>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut add = |severity, check, what: String| {
        findings.push(Finding {
            scans: vec![scan.path.clone()],
            ..finding(severity, check, what)
        });
    };
    let (facts, volume) = match voxel_facts(scan) {
        Ok(read) => read,
        Err(error) => {
            add(Severity::Error, Check::Unreadable, error.about(&scan.path));
            return (None, findings);
        }
    };
    let name = scan.name();
    let mistake = facts.verdict.mistake();
    if let Some(what) = mistake {
        let what = format!("{name}: {what}");
        add(Severity::Error, Check::ImplausibleHu, what);
    }
    if let HuVerdict::Unusual(what) = facts.verdict {
        let what = format!("{name}: {what}");
        add(Severity::Warning, Check::ImplausibleHu, what);
    }
    // Without Hounsfield units nothing has the density of lung.
    if mistake.is_none() {
        let litres = facts.lung_litres;
        let what = format!("{name}: {litres:.2} litres have the density of lung");
        if litres < NO_LUNG_LITRES {
            add(
                Severity::Error,
                Check::NoChest,
                format!("{what}: a head, an abdomen?"),
            );
        } else if litres < LITTLE_LUNG_LITRES {
            add(
                Severity::Warning,
                Check::NoChest,
                format!("{what}: is it a whole chest?"),
            );
        }
    }
    for warning in &facts.warnings {
        add(
            Severity::Warning,
            Check::Geometry,
            format!("{name}: {warning}"),
        );
    }
    if let Some(what) = spacing_differs(scan, facts.spacing_mm) {
        add(
            Severity::Warning,
            Check::Geometry,
            format!("{name}: {what}"),
        );
    }
    for (path, anatomy) in [(&scan.mask, true), (&scan.nodules, false)] {
        let Some(path) = path.as_deref().filter(|p| p.exists()) else {
            continue;
        };
        if let Err((check, what)) = mask(&volume, path, anatomy) {
            add(Severity::Error, check, format!("{name}: {what}"));
        }
    }
    (Some(facts.hash), findings)
}

fn spacing_differs(scan: &Scan, spacing: [f64; 3]) -> Option<String> {
    let stated = scan.spacing_mm?;
    // Tables name axes as the patient has them, files as they please: compare regardless of order.
    let sorted = |mut s: [f64; 3]| {
        s.sort_by(f64::total_cmp);
        s
    };
    let pairs = sorted(stated).into_iter().zip(sorted(spacing));
    let differ = pairs.into_iter().any(|(a, b)| (a / b - 1.0).abs() > 0.02);
    differ.then(|| format!("spacing {spacing:.3?} mm in the file, {stated:.3?} mm in the table"))
}

/// Whether a mask lies on its scan's grid and can be what it should be.
fn mask(volume: &CtVolume, path: &Path, anatomy: bool) -> Result<(), (Check, String)> {
    let read = match anatomy {
        true => read_organs(path, &totalsegmentator::classes()).map(|organs| organs.volume),
        false => read_mask(path),
    };
    let mask = read.map_err(|e| (Check::Unreadable, e.to_string()))?;
    let wrong = |what: String| (Check::Mask, format!("{}: {what}", path.display()));
    check_mask_grid(volume, &mask, "grid of the mask").map_err(|e| wrong(e.to_string()))?;
    let largest = mask.voxels.iter().copied().max().unwrap_or(0);
    if anatomy && largest > 117 {
        return Err(wrong(format!(
            "label {largest} is none of TotalSegmentator v2"
        )));
    }
    if largest == 0 && anatomy {
        return Err(wrong("the mask is empty".to_owned()));
    }
    if anatomy && lungs_swapped(&mask) {
        let what = "the left lung (10, 11) lies to the right of the right lung (12, 13, 14): \
                    the image is mirrored, or the labels are the release's";
        return Err(wrong(what.to_owned()));
    }
    Ok(())
}

/// In RAS+ coordinates the left lung has the smaller x.
fn lungs_swapped(mask: &Volume<u8>) -> bool {
    let mut sums = [(0.0f64, 0usize); 2];
    for ((i, j, k), &label) in mask.voxels.indexed_iter() {
        let side = match label {
            10 | 11 => 0,
            12..=14 => 1,
            _ => continue,
        };
        let at = mask.affine.apply([i as f64, j as f64, k as f64]);
        sums[side] = (sums[side].0 + at[0], sums[side].1 + 1);
    }
    let [left, right] = sums;
    // A few stray voxels say nothing.
    let enough = |n: usize| n >= 100;
    enough(left.1) && enough(right.1) && left.0 / left.1 as f64 > right.0 / right.1 as f64
}
