//! DICOM series: crafted slices for each trap, real files for codecs and odd writers.

mod dicom_writer;

use std::path::{Path, PathBuf};

use dicom_writer::{Encoding, SliceFile};
use uniferum_ct::batch::{Sources, gather};
use uniferum_ct::io::dicom::{self, Padding};
use uniferum_ct::{CtScan, Format, HuCheck, ReadOptions, read_ct};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, slice: &SliceFile) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, slice.encode()).unwrap();
        path
    }

    /// `n` slices 2.5 mm apart under names that run against their places.
    fn series(&self, uid: &str, n: usize) {
        for k in 0..n {
            let slice = SliceFile {
                series: uid.into(),
                ..SliceFile::at(-100.0 + 2.5 * k as f64)
            };
            self.put(&format!("{uid}/{:03}.dcm", n - k), &slice);
        }
    }

    fn read(&self) -> CtScan {
        read_ct(self.path(), &ReadOptions::default()).unwrap()
    }

    fn refused(&self) -> String {
        read_ct(self.path(), &ReadOptions::default())
            .unwrap_err()
            .to_string()
    }
}

#[test]
fn slices_are_sorted_by_place_and_spaced_by_it() {
    let folder = Folder::new();
    folder.series("1.2", 5);
    std::fs::write(folder.path().join("notes.txt"), "no DICOM").unwrap();
    let scan = folder.read();
    assert_eq!(scan.format, Format::Dicom);
    assert_eq!(
        scan.volume.shape(),
        [SliceFile::COLUMNS, SliceFile::ROWS, 5]
    );
    assert_eq!(scan.volume.orientation(), "LPS");
    // The header's SliceThickness is 5 mm.
    for (got, want) in scan.volume.spacing().into_iter().zip([0.7, 0.8, 2.5]) {
        assert!((got - want).abs() < 1e-9, "{got} {want}");
    }
    assert_eq!(scan.volume.affine.origin(), [10.0, 20.0, -100.0]);
    for ((x, y, z), &hu) in scan.volume.voxels.indexed_iter() {
        assert_eq!(
            hu,
            SliceFile::hu(x, y, -100.0 + 2.5 * z as f64),
            "{x} {y} {z}"
        );
    }
}

#[test]
fn every_uncompressed_encoding_gives_the_same_voxels() {
    let reference = Folder::new();
    reference.series("1.2", 3);
    let expected = reference.read();
    for encoding in [
        Encoding::ExplicitLittle,
        Encoding::ImplicitLittle,
        Encoding::ExplicitBig,
        Encoding::Deflated,
        Encoding::Rle,
        Encoding::NoPreamble,
    ] {
        let folder = Folder::new();
        for k in 0..3 {
            let slice = SliceFile {
                encoding,
                ..SliceFile::at(-100.0 + 2.5 * k as f64)
            };
            folder.put(&format!("{k}"), &slice);
        }
        let scan = folder.read();
        assert_eq!(scan.volume, expected.volume, "{encoding:?}");
    }
}

/// As some archives cut files off; what is cut off before the delimiter is damage.
#[test]
fn compressed_pixels_without_their_last_delimiter_are_read() {
    let folder = Folder::new();
    let slice = SliceFile {
        encoding: Encoding::Rle,
        ..SliceFile::at(0.0)
    };
    let path = folder.put("a.dcm", &slice);
    let read = || read_ct(&path, &ReadOptions::default());
    let whole = read().unwrap().volume;
    let bytes = slice.encode();
    // The delimiter is a tag and a length, eight bytes.
    std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    assert_eq!(read().unwrap().volume, whole);
    for (cut, what) in [(4, "cut off between fragments"), (10, "claims")] {
        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn slope_and_intercept_are_the_slices_own() {
    let folder = Folder::new();
    folder.put("a", &SliceFile::at(0.0));
    let other = SliceFile {
        slope: 0.5,
        intercept: -900.0,
        ..SliceFile::at(2.5)
    };
    folder.put("b", &other);
    let scan = folder.read();
    let stored = |z: f64| SliceFile::hu(3, 2, z) + 1024.0;
    assert_eq!(scan.volume.voxels[[3, 2, 0]], stored(0.0) - 1024.0);
    assert_eq!(scan.volume.voxels[[3, 2, 1]], stored(2.5) * 0.5 - 900.0);
}

#[test]
fn padding_becomes_air_unless_it_is_kept() {
    let folder = Folder::new();
    for k in 0..3 {
        let slice = SliceFile {
            padding: Some(-2000),
            ..SliceFile::at(2.5 * k as f64)
        };
        folder.put(&format!("{k}"), &slice);
    }
    assert_eq!(folder.read().volume.voxels[[0, 0, 1]], -1000.0);
    let keep = ReadOptions {
        padding: Padding::Keep,
        hu_check: HuCheck::Off,
        ..ReadOptions::default()
    };
    let scan = read_ct(folder.path(), &keep).unwrap();
    assert_eq!(scan.volume.voxels[[0, 0, 1]], -3024.0);
}

#[test]
fn gaps_and_uneven_steps_are_refused() {
    let folder = Folder::new();
    for z in [0.0, 2.5, 5.0, 10.0, 12.5] {
        folder.put(&format!("{z}"), &SliceFile::at(z));
    }
    let error = folder.refused();
    assert!(
        error.contains("even steps of 2.500 mm") && error.contains("5.000 mm between"),
        "{error}"
    );
    let jitter = Folder::new();
    for (k, off) in [0.0, 0.004, -0.004, 0.003].into_iter().enumerate() {
        jitter.put(&format!("{k}"), &SliceFile::at(2.5 * k as f64 + off));
    }
    assert_eq!(
        jitter.read().volume.shape()[2],
        4,
        "positions are rounded in practice"
    );
}

#[test]
fn copies_are_dropped_and_rivals_are_refused() {
    let folder = Folder::new();
    for k in 0..4 {
        let slice = SliceFile {
            instance: format!("1.2.3.{k}"),
            ..SliceFile::at(2.5 * k as f64)
        };
        folder.put(&format!("a{k}"), &slice);
        folder.put(&format!("copy/{k}"), &slice);
    }
    let scan = folder.read();
    assert_eq!(scan.volume.shape()[2], 4);
    assert!(
        scan.warnings
            .iter()
            .any(|w| w.contains("4 files are copies")),
        "{:?}",
        scan.warnings
    );
    folder.put(
        "rival",
        &SliceFile {
            instance: "1.2.3.9".into(),
            ..SliceFile::at(5.0)
        },
    );
    let error = folder.refused();
    assert!(
        error.contains("ImagePositionPatient") && error.contains("rival"),
        "{error}"
    );
}

#[test]
fn a_tilted_gantry_gives_a_sheared_affine_and_a_warning() {
    let folder = Folder::new();
    let (sin, cos) = 14f64.to_radians().sin_cos();
    for k in 0..4 {
        let slice = SliceFile {
            orientation: [1.0, 0.0, 0.0, 0.0, cos, -sin],
            ..SliceFile::at(5.0 * k as f64)
        };
        folder.put(&format!("{k}"), &slice);
    }
    let scan = folder.read();
    assert!(
        scan.warnings
            .iter()
            .any(|w| w.contains("tilted by 14.0 degrees")),
        "{:?}",
        scan.warnings
    );
    assert!((scan.volume.affine.shear() - sin).abs() < 1e-9);
    let step: [f64; 3] = std::array::from_fn(|row| scan.volume.affine.0[row][2]);
    assert_eq!(
        step,
        [0.0, 0.0, 5.0],
        "along the table, not along the normal"
    );
}

#[test]
fn oblique_series_are_no_tilt() {
    let folder = Folder::new();
    let (sin, cos) = 20f64.to_radians().sin_cos();
    for k in 0..3 {
        let mm = 2.0 * k as f64;
        let slice = SliceFile {
            orientation: [1.0, 0.0, 0.0, 0.0, cos, -sin],
            position: [-10.0, -20.0 + mm * sin, mm * cos],
            ..SliceFile::at(mm * cos)
        };
        folder.put(&format!("{k}"), &slice);
    }
    let scan = folder.read();
    assert!(scan.volume.affine.shear() < 1e-9, "{:?}", scan.warnings);
    assert!((scan.volume.spacing()[2] - 2.0).abs() < 1e-9);
}

#[test]
fn a_jump_to_the_side_is_refused() {
    let folder = Folder::new();
    for k in 0..4 {
        let z = 2.5 * k as f64;
        let x = if k == 2 { -30.0 } else { -10.0 };
        folder.put(
            &format!("{k}"),
            &SliceFile {
                position: [x, -20.0, z],
                ..SliceFile::at(z)
            },
        );
    }
    assert!(folder.refused().contains("straight line"));
}

#[test]
fn scouts_and_other_modalities_do_not_compete() {
    let folder = Folder::new();
    folder.series("1.2", 4);
    let scout = SliceFile {
        series: "1.2".into(),
        image_type: "ORIGINAL\\PRIMARY\\LOCALIZER".into(),
        orientation: [0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
        ..SliceFile::at(0.0)
    };
    folder.put("scout", &scout);
    let report = SliceFile {
        series: "1.9".into(),
        modality: "US".into(),
        ..SliceFile::at(0.0)
    };
    folder.put("ultrasound", &report);
    let scan = folder.read();
    assert_eq!(scan.volume.shape()[2], 4);
    assert!(
        scan.warnings.iter().any(|w| w.contains("2 other series")),
        "{:?}",
        scan.warnings
    );
    let series = dicom::find_series(folder.path()).unwrap();
    let ids: Vec<&str> = series.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["1.2", "1.2#2", "1.9"]);
    assert!(series[1].localizer && series[2].problem.is_some());
}

/// A folder a series is the usual layout, and one of them has the scout alone.
#[test]
fn a_scout_alone_is_no_scan_unless_it_is_named() {
    let folder = Folder::new();
    let scout = SliceFile {
        series: "1.2".into(),
        image_type: "ORIGINAL\\PRIMARY\\LOCALIZER".into(),
        ..SliceFile::at(0.0)
    };
    folder.put("scout", &scout);
    let error = folder.refused();
    assert!(
        error.contains("one chest CT") && error.contains("localizer"),
        "{error}"
    );
    let named = ReadOptions {
        series: Some("1.2".into()),
        ..ReadOptions::default()
    };
    let scan = read_ct(folder.path(), &named).unwrap();
    let refused = uniferum_ct::io::hu::check_chest(&scan.volume);
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("several slices"), "{refused}");
}

#[test]
fn directions_that_differ_in_the_last_decimal_are_one_series() {
    let folder = Folder::new();
    for (i, cosine) in [0.994_999, 0.995_001, 0.994_999, 0.995_001]
        .into_iter()
        .enumerate()
    {
        let sine = f64::sqrt(1.0 - cosine * cosine);
        let slice = SliceFile {
            series: "1.2".into(),
            orientation: [cosine, sine, 0.0, -sine, cosine, 0.0],
            ..SliceFile::at(2.0 * i as f64)
        };
        folder.put(&format!("{i}"), &slice);
    }
    assert_eq!(folder.read().volume.shape()[2], 4);
}

#[test]
fn several_series_are_named_and_one_can_be_chosen() {
    let folder = Folder::new();
    folder.series("1.2.1", 3);
    folder.series("1.2.2", 4);
    let error = folder.refused();
    for part in [
        "ReadOptions::series",
        "1.2.1",
        "1.2.2",
        "3 files",
        "4 files",
        "kernel B70f",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let choose = |id: &str| {
        let options = ReadOptions {
            series: Some(id.into()),
            ..ReadOptions::default()
        };
        read_ct(folder.path(), &options)
    };
    assert_eq!(choose("1.2.2").unwrap().volume.shape()[2], 4);
    assert!(choose("1.2.3").unwrap_err().to_string().contains("1.2.1"));
    // The only one long enough for a chest needs no choosing.
    folder.series("1.2.3", 60);
    let scan = folder.read();
    assert_eq!(scan.volume.shape()[2], 60);
}

#[test]
fn a_series_of_two_sizes_is_two_stacks() {
    let folder = Folder::new();
    folder.series("1.2", 3);
    for k in 0..2 {
        let slice = SliceFile {
            series: "1.2".into(),
            crop: true,
            ..SliceFile::at(50.0 + 2.5 * k as f64)
        };
        folder.put(&format!("crop{k}"), &slice);
    }
    assert!(folder.refused().contains("1.2#2"));
    let options = ReadOptions {
        series: Some("1.2#2".into()),
        ..ReadOptions::default()
    };
    assert_eq!(
        read_ct(folder.path(), &options).unwrap().volume.shape()[2],
        2
    );
}

#[test]
fn lists_of_files_and_single_files_are_read() {
    let folder = Folder::new();
    let files: Vec<PathBuf> = (0..3)
        .map(|k| folder.put(&format!("{k}"), &SliceFile::at(2.5 * k as f64)))
        .collect();
    let scan = dicom::read_files(&files[1..], &ReadOptions::default()).unwrap();
    assert_eq!(scan.volume.shape()[2], 2);
    let single = read_ct(&files[0], &ReadOptions::default()).unwrap();
    assert_eq!(single.volume.shape()[2], 1);
    assert!(
        single.warnings.iter().any(|w| w.contains("single slice")),
        "{:?}",
        single.warnings
    );
    let empty = Folder::new();
    assert!(empty.refused().contains("DICOM images"));
}

#[test]
fn no_patient_text_leaves_the_reader_unless_asked_for() {
    let folder = Folder::new();
    for z in [0.0, 2.5, 20.0] {
        folder.put(&format!("{z}"), &SliceFile::at(z));
    }
    let mut said = folder.refused();
    folder.put(
        "more",
        &SliceFile {
            series: "1.7".into(),
            ..SliceFile::at(9.0)
        },
    );
    said += &folder.refused();
    said += &format!("{:?}", dicom::find_series(folder.path()).unwrap());
    let scan = read_ct(folder.path().join("more"), &ReadOptions::default()).unwrap();
    said += &format!("{:?} {:?}", scan.warnings, scan.format);
    for secret in ["DOE", "JANE", "SECRET-ID", "19700102", "20200304"] {
        assert!(!said.contains(secret), "{secret}: {said}");
    }
    let identity = dicom::identity(folder.path().join("more")).unwrap();
    assert_eq!(identity.patient_name.as_deref(), Some("DOE^JANE"));
    assert_eq!(identity.patient_id.as_deref(), Some("SECRET-ID"));
    assert_eq!(identity.birth_date.as_deref(), Some("19700102"));
    assert_eq!(identity.study_date.as_deref(), Some("20200304"));
}

#[test]
fn faults_name_their_element() {
    let spoil = |change: &dyn Fn(&mut SliceFile)| {
        let folder = Folder::new();
        let mut slice = SliceFile::at(0.0);
        change(&mut slice);
        folder.put("bad.dcm", &slice);
        let error = read_ct(folder.path().join("bad.dcm"), &ReadOptions::default());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("bad.dcm"), "{error}");
        error
    };
    assert!(spoil(&|s| s.modality = "MR".into()).contains("Modality"));
    assert!(spoil(&|s| s.samples = 3).contains("SamplesPerPixel"));
    assert!(spoil(&|s| s.frames = "20".into()).contains("20 frames"));
    assert!(spoil(&|s| s.bits_stored = 17).contains("BitsStored"));
    assert!(spoil(&|s| s.slope = 0.0).contains("RescaleSlope"));
    assert!(spoil(&|s| s.slope = f64::NAN).contains("RescaleSlope"));
    assert!(spoil(&|s| s.orientation = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]).contains("Orientation"));
    assert!(spoil(&|s| s.claimed_rows = Some(60_000)).contains("Rows"));
    assert!(spoil(&|s| s.claimed_rows = Some(4_000)).contains("Rows"));
    assert!(
        spoil(&|s| s.syntax = Some("1.2.840.10008.1.2.4.201".into())).contains("transfer syntax")
    );
}

#[test]
fn the_small_ct_of_pydicom_is_read() {
    // 128 x 128, signed 16 bits; the sums were computed independently of this crate.
    let keep = ReadOptions {
        padding: Padding::Keep,
        ..ReadOptions::default()
    };
    let scan = read_ct(data("CT_small.dcm"), &keep).unwrap();
    assert_eq!(scan.volume.shape(), [128, 128, 1]);
    let sum: f64 = scan.volume.voxels.iter().map(|&v| f64::from(v)).sum();
    assert_eq!(sum, CT_SMALL_SUM);
}

const CT_SMALL_SUM: f64 = -1_950_906.0;

/// A general DICOM library is the oracle of the walk over elements.
#[test]
fn dicom_object_finds_the_same_header_and_pixels() {
    let keep = ReadOptions {
        padding: Padding::Keep,
        ..ReadOptions::default()
    };
    for name in ["CT_small.dcm", "codec_none.dcm"] {
        let volume = read_ct(data(name), &keep).unwrap().volume;
        let object = dicom_object::open_file(data(name)).unwrap();
        let element = |name: &str| object.element_by_name(name).unwrap();
        let numbers = |name: &str| element(name).to_multi_float64().unwrap();
        let [x, y, z] = volume.affine.origin();
        assert_eq!(numbers("ImagePositionPatient"), [-x, -y, z]);
        assert_eq!(numbers("PixelSpacing"), volume.spacing()[..2]);
        let stored = element("PixelData").to_bytes().unwrap();
        let hu = stored
            .chunks_exact(2)
            .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) - 1024.0);
        assert!(hu.eq(volume.voxels.t().iter().copied()), "{name}");
    }
}

/// The centre of `CT_small.dcm` in every codec, made by `make_dicom.py`.
#[test]
fn all_codecs_give_the_same_voxels() {
    let keep = ReadOptions {
        padding: Padding::Keep,
        ..ReadOptions::default()
    };
    let reference = read_ct(data("codec_none.dcm"), &keep).unwrap().volume;
    for codec in ["rle", "jpeg_lossless", "jpeg2000", "jpeg_ls"] {
        let scan = read_ct(data(&format!("codec_{codec}.dcm")), &keep).unwrap();
        assert_eq!(scan.volume, reference, "{codec}");
    }
    let near = read_ct(data("codec_jpeg_ls_near.dcm"), &keep)
        .unwrap()
        .volume;
    let most = ndarray::Zip::from(&near.voxels)
        .and(&reference.voxels)
        .fold(0f32, |most, a, b| most.max((a - b).abs()));
    assert!(most > 0.0 && most <= 3.0, "near-lossless by 3: {most}");
}

/// A study has reports, segmentations and localizers beside its scans.
#[test]
fn folders_without_a_ct_are_left_out_of_a_search() {
    let folder = Folder::new();
    folder.series("1.2", 5);
    let report = SliceFile {
        modality: "SR".into(),
        ..SliceFile::at(0.0)
    };
    folder.put("report/1.dcm", &report);
    let search = |input: PathBuf| {
        let sources = Sources {
            inputs: vec![input],
            ..Sources::default()
        };
        gather(&sources).unwrap()
    };
    let found = search(folder.path().to_owned());
    assert_eq!(found.inputs.len(), 1);
    assert!(found.inputs[0].scan.ends_with("1.2"));
    assert!(found.left_out[0].contains("report") && found.left_out[0].contains("no CT"));
    // Named by a person it is read, and what is wrong is told.
    let named = search(folder.path().join("report"));
    assert_eq!(named.inputs.len(), 1);
    assert!(read_ct(&named.inputs[0].scan, &ReadOptions::default()).is_err());
}
