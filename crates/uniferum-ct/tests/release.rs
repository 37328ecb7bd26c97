//! `compat = release` against what the public release makes of the same files.

use std::path::PathBuf;

use sha2::{Digest, Sha256};
use uniferum_ct::{
    Compat, ReadOptions, StandardiseConfig, Standardised, Volume, read_ct, read_mask, standardise,
};

fn run(image: PathBuf, mask: Option<PathBuf>) -> Standardised {
    let image = read_ct(image, &ReadOptions::default()).unwrap().volume;
    let mask = mask.map(|mask| read_mask(mask).unwrap());
    standardise(&image, mask.as_ref(), &StandardiseConfig::release()).unwrap()
}

fn sha256(volume: &Volume<i16>) -> String {
    let mut hash = Sha256::new();
    volume
        .voxels
        .iter()
        .for_each(|v| hash.update(v.to_le_bytes()));
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The public release's crop box, shape, affine and voxels (as SHA-256) on two real scans.
#[test]
fn real_scans_equal_the_release_voxel_for_voxel() {
    let Some(data) = std::env::var_os("UNIFERUM_TEST_DATA").map(PathBuf::from) else {
        eprintln!("skipped: UNIFERUM_TEST_DATA names no folder of real scans");
        return;
    };
    let golden = std::fs::read_to_string(data.join("reference_golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let cases = [
        ("cptac_4x", "chest_small/cptac_c3n00247_4x_ct.nii.gz", None),
        (
            "ts_example",
            "totalsegmentator/example_ct.nii.gz",
            Some("totalsegmentator/example_seg_fast_force_split.nii.gz"),
        ),
    ];
    for (name, image, mask) in cases {
        let golden = &golden[name];
        let done = run(data.join(image), mask.map(|mask| data.join(mask)));
        assert_eq!(done.report.compat, Compat::Release);
        assert_eq!(
            serde_json::json!(done.volume.shape()),
            golden["out_shape"],
            "{name}"
        );
        assert_eq!(
            done.report.body_voxels,
            golden["lcc_voxels"].as_u64().unwrap(),
            "{name}"
        );
        for row in 0..3 {
            for column in 0..4 {
                let expected = golden["out_affine"][row][column].as_f64().unwrap();
                let found = done.volume.affine.0[row][column];
                assert!(
                    (found - expected).abs() < 1e-4,
                    "{name}: {found} and {expected}"
                );
            }
        }
        let lungs = &golden["lung_z"];
        for a in 0..3 {
            // The golden box is the body's, in the file's axes, before the lungs cut it.
            let n = done.report.input_shape[a] as u64;
            let (first, past) = (&golden["bbox"][a][0], &golden["bbox"][a][1]);
            let (mut first, mut past) = (first.as_u64().unwrap(), past.as_u64().unwrap());
            if golden["axcodes"] == "LPS" && a < 2 {
                (first, past) = (n - past, n - first);
            }
            if a == 2 && lungs.is_array() {
                first = first.max(lungs[0].as_u64().unwrap());
                past = past.min(lungs[1].as_u64().unwrap());
            }
            assert_eq!(
                done.report.crop_box[a].map(|v| v as u64),
                [first, past],
                "{name}"
            );
        }
        if let Some(mask) = &done.mask {
            assert_eq!(
                serde_json::json!(mask.shape()),
                golden["mask_shape"],
                "{name}"
            );
            let mut labels: Vec<u8> = mask.voxels.iter().copied().collect();
            labels.sort_unstable();
            labels.dedup();
            assert_eq!(serde_json::json!(labels), golden["mask_labels"], "{name}");
        }
        assert_eq!(
            sha256(&done.volume),
            golden["sha256_int16_c"].as_str().unwrap(),
            "{name}"
        );
    }
}

/// Written by `golden/release.py`: nilearn's resampling of a small drawn thorax.
#[test]
fn a_small_scan_equals_the_release_voxel_for_voxel() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let done = run(
        golden.join("release_ct.nii.gz"),
        Some(golden.join("release_seg.nii.gz")),
    );
    let image = read_ct(
        golden.join("release_ct_out.nii.gz"),
        &ReadOptions::default(),
    )
    .unwrap();
    let labels = read_mask(golden.join("release_seg_out.nii.gz")).unwrap();
    assert_eq!(done.volume.shape(), image.volume.shape());
    let differ = done.volume.voxels.iter().zip(&image.volume.voxels);
    let differ = differ.filter(|(a, b)| f32::from(**a) != **b).count();
    assert_eq!(
        differ, 0,
        "voxels differ; the golden files come from golden/release.py"
    );
    assert_eq!(done.mask.unwrap().voxels, labels.voxels);
    for (a, b) in done
        .volume
        .affine
        .0
        .iter()
        .flatten()
        .zip(image.volume.affine.0.iter().flatten())
    {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
}

/// A common size, which the release leaves to its transforms, is padded with air on request.
#[test]
fn a_size_is_cropped_and_padded_about_the_centre() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let image = read_ct(golden.join("release_ct.nii.gz"), &ReadOptions::default())
        .unwrap()
        .volume;
    let free = standardise(&image, None, &StandardiseConfig::release())
        .unwrap()
        .volume;
    let size = [20, 60, 33];
    let config = StandardiseConfig {
        size: Some(size),
        ..StandardiseConfig::release()
    };
    let sized = standardise(&image, None, &config).unwrap().volume;
    assert_eq!(sized.shape(), size);
    let inverse = free.affine.inverse().unwrap();
    for ((x, y, z), &hu) in sized.voxels.indexed_iter() {
        let at = inverse.apply(sized.affine.apply([x as f64, y as f64, z as f64]));
        let at = at.map(|v| usize::try_from(v.round() as isize).unwrap_or(usize::MAX));
        let expected = free.voxels.get(at).copied().unwrap_or(-1000);
        assert_eq!(hu, expected, "{x} {y} {z}");
    }
}
