//! Every file of the folder named by `UNIFERUM_TEST_DATA`, against its known answer.
//!
//! `UNIFERUM_TEST_DATA=… cargo test -p uniferum-ct --test real_files`. Without the variable the tests
//! say so on standard error and pass.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uniferum_ct::io::dicom::{self, Padding};
use uniferum_ct::{CtScan, HuCheck, ReadOptions, ScanFacts, read_ct, read_mask};

fn root() -> Option<PathBuf> {
    let root = std::env::var_os("UNIFERUM_TEST_DATA");
    if root.is_none() {
        eprintln!("skipped: UNIFERUM_TEST_DATA is not set");
    }
    root.map(PathBuf::from)
}

fn read(path: &Path) -> CtScan {
    read_ct(path, &ReadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn as_stored(path: &Path) -> CtScan {
    let options = ReadOptions {
        padding: Padding::Keep,
        hu_check: HuCheck::Warn,
        ..ReadOptions::default()
    };
    read_ct(path, &options).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(path: &Path) -> String {
    let error = read_ct(path, &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&*path.file_name().unwrap().to_string_lossy()),
        "{error}"
    );
    error
}

fn sum(scan: &CtScan) -> f64 {
    scan.volume.voxels.iter().map(|&v| f64::from(v)).sum()
}

fn close(a: [f64; 3], b: [f64; 3]) {
    assert!(
        a.iter().zip(b).all(|(x, y)| (x - y).abs() < 1e-4),
        "{a:?} {b:?}"
    );
}

#[test]
fn the_full_resolution_chest_and_its_lesion() {
    let Some(root) = root() else { return };
    let scan = read(&root.join("chest/lung2_image.nrrd"));
    assert_eq!(scan.volume.shape(), [512, 512, 61]);
    close(scan.volume.spacing(), [0.6269531, 0.6269531, 5.0]);
    assert_eq!(scan.volume.orientation(), "LPS");
    assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
    let facts = ScanFacts::of(&scan);
    assert_eq!((facts.hu.min, facts.hu.max), (-1024.0, 1671.0));
    let mask = read_mask(root.join("chest/lung2_label.nrrd")).unwrap();
    scan.volume.check_same_grid(&mask, "lesion").unwrap();
    assert_eq!(mask.voxels.iter().filter(|&&v| v == 1).count(), 24_644);
    assert!(mask.voxels.iter().all(|&v| v < 2));
}

#[test]
fn the_small_chests_and_metaimage_of_the_same_voxels() {
    let Some(root) = root() else { return };
    let whole = read(&root.join("chest_small/lung1_4x_ct.nii.gz")).volume;
    assert_eq!(
        (whole.shape(), whole.orientation().as_str()),
        ([128, 128, 48], "LPS")
    );
    close(whole.spacing(), [2.28125, 2.28125, 5.0]);
    let lesion = read_mask(root.join("chest_small/lung1_4x_lesion.nii.gz")).unwrap();
    whole.check_same_grid(&lesion, "lesion").unwrap();
    let part = whole.voxels.slice_each_axis(|axis| {
        let whole = axis.axis.index() < 2;
        ndarray::Slice::from(if whole { 0..128 } else { 16..32 })
    });
    for name in [
        "lung1_4x_z16.mhd",
        "lung1_4x_z16_zraw.mhd",
        "lung1_4x_z16.mha",
    ] {
        let scan = read(&root.join("metaimage").join(name)).volume;
        assert_eq!(scan.voxels, part, "{name}");
        close(scan.affine.origin(), whole.affine.apply([0.0, 0.0, 16.0]));
        close(
            scan.affine.apply([1.0, 2.0, 3.0]),
            whole.affine.apply([1.0, 2.0, 19.0]),
        );
    }
    let flipped = read(&root.join("metaimage/lung1_4x_z16_flipped.mhd")).volume;
    assert_eq!(
        (&flipped.voxels.view(), flipped.orientation().as_str()),
        (&part, "RAS")
    );
    let cptac = read(&root.join("chest_small/cptac_c3n00247_4x_ct.nii.gz"));
    assert_eq!(cptac.volume.shape(), [128, 128, 99]);
    let facts = ScanFacts::of(&cptac);
    assert_eq!((facts.hu.min, facts.hu.max), (-1024.0, 3068.0));
}

#[test]
fn a_series_whose_names_run_against_its_places() {
    let Some(root) = root() else { return };
    let scan = read(&root.join("dicom_cptac_chest")).volume;
    assert_eq!(
        (scan.shape(), scan.orientation().as_str()),
        ([512, 512, 12], "LPS")
    );
    close(scan.spacing(), [0.564453125, 0.564453125, 3.0]);
    assert_eq!(scan.affine.origin()[2], -132.0);
    // The same patient averaged 4 x 4 by another reader: z = -132 is its slice at that height.
    let small = read(&root.join("chest_small/cptac_c3n00247_4x_ct.nii.gz")).volume;
    for k in [0, 5, 11] {
        let place = small.affine.inverse().unwrap();
        // The centre of the first 4 x 4 block.
        let at = place
            .apply(scan.affine.apply([1.5, 1.5, k as f64]))
            .map(|c| c.round() as usize);
        for (i, j) in [(20, 30), (64, 64), (100, 40)] {
            let block = (0..16)
                .map(|n| scan.voxels[[4 * i + n % 4, 4 * j + n / 4, k]])
                .sum::<f32>();
            let other = small.voxels[[at[0] + i, at[1] + j, at[2]]];
            assert!(
                (block / 16.0 - other).abs() <= 0.51,
                "{k} {i} {j}: {} {other}",
                block / 16.0
            );
        }
    }
}

#[test]
fn jpeg_2000_series_with_overlapping_slices() {
    let Some(root) = root() else { return };
    let folder = root.join("totalsegmentator");
    let scan = read(&folder.join("example_ct_dicom")).volume;
    assert_eq!(scan.shape(), [512, 512, 20]);
    close(scan.spacing(), [0.9765625, 0.9765625, 2.0]);
    let mask = read_mask(folder.join("example_seg_dicom.nii.gz")).unwrap();
    assert_eq!(mask.orientation(), "LAS");
    scan.to_ras()
        .check_same_grid(&mask.to_ras(), "segmentation")
        .unwrap();
}

#[test]
fn totalsegmentator_pairs() {
    let Some(root) = root() else { return };
    let folder = root.join("totalsegmentator");
    let scan = read(&folder.join("example_ct.nii.gz"));
    assert_eq!(
        (scan.volume.shape(), scan.volume.orientation().as_str()),
        ([122, 101, 112], "RAS")
    );
    let facts = ScanFacts::of(&scan);
    assert_eq!((facts.hu.min, facts.hu.max), (-1207.0, 3382.0));
    let mask = read_mask(folder.join("example_seg_fast_force_split.nii.gz")).unwrap();
    scan.volume.check_same_grid(&mask, "segmentation").unwrap();
    let lungs: BTreeSet<usize> = mask
        .voxels
        .indexed_iter()
        .filter(|(_, label)| (10..=14).contains(*label))
        .map(|((_, _, z), _)| z)
        .collect();
    assert_eq!(lungs, (101..=111).collect());
    let small = read(&folder.join("example_ct_sm.nii.gz")).volume;
    let labels = read_mask(folder.join("example_seg.nii.gz")).unwrap();
    small.check_same_grid(&labels, "segmentation").unwrap();
    let distinct: BTreeSet<u8> = labels.voxels.iter().copied().collect();
    assert_eq!(distinct.len(), 42, "background among them");
}

#[test]
fn every_codec_gives_the_sums_of_the_uncompressed_slices() {
    let Some(root) = root() else { return };
    let folder = root.join("dicom_codecs");
    let plain = tempfile::tempdir().unwrap();
    for (name, expected) in [("CT1", -228_407_043.0), ("CT2", -197_733_355.0)] {
        let zst = std::fs::read(folder.join(format!("{name}_UNC.zst"))).unwrap();
        let path = plain.path().join(name);
        std::fs::write(&path, zstd::decode_all(&zst[..]).unwrap()).unwrap();
        let reference = as_stored(&path);
        assert_eq!(sum(&reference), expected, "{name} UNC");
        for codec in ["RLE", "JPLL", "J2KR", "JLSL"] {
            let scan = as_stored(&folder.join(format!("{name}_{codec}")));
            assert_eq!(
                scan.volume.voxels, reference.volume.voxels,
                "{name} {codec}"
            );
        }
        for codec in ["J2KI", "JLSN"] {
            let scan = as_stored(&folder.join(format!("{name}_{codec}")));
            let off: f32 = ndarray::Zip::from(&scan.volume.voxels)
                .and(&reference.volume.voxels)
                .fold(0.0, |sum, a, b| sum + (a - b).abs());
            let mean = off / scan.volume.voxels.len() as f32;
            eprintln!("{name} {codec}: {mean:.2} HU mean absolute difference");
            assert!(mean > 0.0 && mean < 30.0, "{name} {codec}: {mean}");
        }
    }
    assert!(refused(&folder.join("ExplVR_BigEnd.dcm")).contains("Modality"));
    assert_eq!(
        read(&folder.join("CT_small.dcm")).volume.shape(),
        [128, 128, 1]
    );
}

#[test]
fn odd_dicom_writers() {
    let Some(root) = root() else { return };
    let folder = root.join("dicom_edge");
    let minimal = read(&folder.join("lungmask_min_tags"));
    assert_eq!(minimal.volume.shape(), [512, 512, 2]);
    close(minimal.volume.spacing(), [0.625, 0.625, 1.0]);
    assert_eq!(ScanFacts::of(&minimal).hu.min, -2048.0);
    let padded = folder.join("padding_ge");
    assert_eq!(ScanFacts::of(&as_stored(&padded)).hu.min, -3024.0);
    let scan = read(&padded);
    assert!(ScanFacts::of(&scan).hu.min >= -1024.0);
    assert_eq!(scan.volume.voxels[[0, 0, 0]], -1000.0);
    let tilted = as_stored(&folder.join("gantry_tilt"));
    assert!(
        tilted.warnings.iter().any(|w| w.contains("14.0 degrees")),
        "{:?}",
        tilted.warnings
    );
    assert!((tilted.volume.affine.shear() - 0.2419).abs() < 1e-3);
    let error = refused(&folder.join("missing_slice"));
    assert!(
        error.contains("5.000 mm") && error.contains("10.000 mm"),
        "{error}"
    );
    // All four are told apart in the tree above them.
    let series = dicom::find_series(&folder).unwrap();
    assert_eq!(series.iter().map(|s| s.files).sum::<usize>(), 9);
    assert_eq!(series.len(), 4, "{series:#?}");
    let error = read_ct(&folder, &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(series.iter().all(|s| error.contains(&s.id)), "{error}");
}

#[test]
fn real_nifti_of_every_kind() {
    let Some(root) = root() else { return };
    let folder = root.join("nifti_odd");
    let big = read(&folder.join("real_bigendian_int16.nii")).volume;
    assert_eq!(
        (big.shape(), big.orientation().as_str()),
        ([33, 41, 25], "LAS")
    );
    for name in [
        "real_4d_oblique_2ext.nii.gz",
        "real_nifti2_4d.nii.gz",
        "real_4d_scaled_slope.nii",
    ] {
        assert!(refused(&folder.join(name)).contains("dim[4]"), "{name}");
    }
    assert!(refused(&folder.join("real_rgb24.nii.gz")).contains("RGB"));
    let sheared = read(&folder.join("real_ct_head_gantry_shear_scl.nii.gz"));
    assert_eq!(sheared.volume.shape(), [306, 422, 54]);
    assert_eq!(ScanFacts::of(&sheared).hu.min, -1024.0);
    assert!(
        sheared.warnings.iter().any(|w| w.contains("sheared")),
        "{:?}",
        sheared.warnings
    );
    let rotated = read(&folder.join("real_ct_head_rotated_uint8.nii.gz")).volume;
    assert!(rotated.affine.obliqueness_degrees() > 5.0 && rotated.affine.shear() < 1e-3);
}

#[test]
fn npz_of_the_rad_chestct_author() {
    let Some(root) = root() else { return };
    for name in ["FAKE000", "FAKE444", "FAKE555"] {
        let scan = read(&root.join(format!("npz/{name}.npz"))).volume;
        assert_eq!(
            (scan.shape(), scan.orientation().as_str()),
            ([10, 10, 10], "IPL")
        );
    }
}

/// Each file is one int16 volume 4x5x6 with a single oddity.
#[test]
fn crafted_nifti_is_read_right_or_refused() {
    let Some(root) = root() else { return };
    let folder = root.join("nifti_odd/synthetic");
    let base = read(&folder.join("base.nii")).volume.voxels;
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        seen += 1;
        let expected = match name.split('.').next().unwrap() {
            "base" | "be" | "n2" | "nan_slope" | "zero_slope" | "dim4_1" | "neg_pixdim"
            | "vox416" | "vox0" | "multi" | "notgz" | "gz_named" | "ext0" | "extneg" => {
                Some(base.clone())
            }
            "half_slope" => Some(base.mapv(|v| v * 0.5 - 10.0)),
            _ => None,
        };
        match (expected, read_ct(&path, &ReadOptions::default())) {
            (Some(expected), Ok(scan)) => assert_eq!(scan.volume.voxels, expected, "{name}"),
            (Some(_), Err(error)) => panic!("{name}: {error}"),
            (None, Ok(scan)) => panic!("{name} was read: {:?}", scan.volume.shape()),
            (None, Err(error)) => assert!(error.to_string().contains(&name), "{name}: {error}"),
        }
    }
    assert!(seen > 30, "only {seen} files in {}", folder.display());
}

/// Whatever the walk over elements finds, a general DICOM library finds too, with the same bytes.
#[test]
fn dicom_object_is_the_oracle_of_the_headers() {
    let Some(root) = root() else { return };
    let mut seen = 0;
    for folder in ["dicom_cptac_chest", "totalsegmentator/example_ct_dicom"] {
        let scan = read(&root.join(folder)).volume;
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let object = dicom_object::open_file(&path).unwrap();
            let text = |name: &str| {
                object
                    .element_by_name(name)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .into_owned()
            };
            let position: Vec<f64> = text("ImagePositionPatient")
                .split('\\')
                .map(|word| word.trim().parse().unwrap())
                .collect();
            // Its place is a slice of the volume.
            let index =
                scan.affine
                    .inverse()
                    .unwrap()
                    .apply([-position[0], -position[1], position[2]]);
            assert!(
                index.iter().all(|c| (c - c.round()).abs() < 1e-6),
                "{index:?}"
            );
            let slice = read(&path).volume;
            let k = index[2].round() as usize;
            assert_eq!(
                slice.voxels.index_axis(ndarray::Axis(2), 0),
                scan.voxels.index_axis(ndarray::Axis(2), k)
            );
            assert_eq!(text("Columns").trim().parse(), Ok(scan.shape()[0]));
            seen += 1;
        }
    }
    assert_eq!(seen, 32);
}
