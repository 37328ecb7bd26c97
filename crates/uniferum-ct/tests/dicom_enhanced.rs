//! Enhanced multi-frame CT: files written here, element by element, and by another writer, read as volumes.

#[path = "dicom_writer/enhanced.rs"]
mod enhanced;
#[path = "dicom_writer/rle.rs"]
mod rle;

use std::path::PathBuf;

use enhanced::{COLUMNS, Compressed, FRAMES, File, ROWS, Table, slope, stored};
use rle::rle;
use uniferum_ct::io::dicom::find_series;
use uniferum_ct::{CtScan, Format, ReadOptions, read_ct};

fn on_disk(file: &File) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.dcm");
    std::fs::write(&path, file.encode()).unwrap();
    (folder, path)
}

fn read(file: &File) -> Result<CtScan, String> {
    let (_folder, path) = on_disk(file);
    let options = ReadOptions {
        hu_check: uniferum_ct::HuCheck::Off,
        ..ReadOptions::default()
    };
    read_ct(&path, &options).map_err(|e| e.to_string())
}

fn check(scan: &CtScan, file: &File) {
    assert_eq!(scan.format, Format::Dicom);
    assert_eq!(scan.volume.shape(), [COLUMNS, ROWS, FRAMES]);
    let spacing = scan.volume.spacing();
    for (found, expected) in spacing.into_iter().zip([0.7, 0.8, 2.5]) {
        assert!((found - expected).abs() < 1e-9, "{spacing:?}");
    }
    assert_eq!(scan.volume.affine.origin(), [10.0, 20.0, 0.0]);
    assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
    for ((x, y, k), &hu) in scan.volume.voxels.indexed_iter() {
        let z = k as f64 * 2.5;
        let frame = file.heights.iter().position(|&h| h == z).unwrap();
        let expected = f64::from(stored(x, y, z)) * slope(frame) - 1000.0;
        assert_eq!(f64::from(hu), expected, "{x} {y} {k}");
    }
}

#[test]
fn frames_are_slices_with_geometry_and_scaling_of_their_own() {
    for (implicit, big) in [(false, false), (true, false), (false, true)] {
        for lengths in [false, true] {
            let file = File {
                implicit,
                big,
                lengths,
                ..File::default()
            };
            check(&read(&file).unwrap(), &file);
        }
    }
}

/// Files of `data/make_enhanced.py`.
const WRITTEN_ELSEWHERE: [&str; 4] = ["big_endian", "jpeg_lossless", "jpeg_ls", "jpeg2000"];

fn data(codec: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    folder.join(format!("enhanced_{codec}.dcm"))
}

#[test]
fn files_of_another_writer_and_other_encoders_are_read() {
    for codec in WRITTEN_ELSEWHERE {
        let options = ReadOptions {
            hu_check: uniferum_ct::HuCheck::Off,
            ..ReadOptions::default()
        };
        let scan = read_ct(data(codec), &options).unwrap();
        check(&scan, &File::default());
    }
}

/// The streams of the frames, from a file of another writer.
fn streams(codec: &str) -> Vec<Vec<u8>> {
    let object = dicom_object::open_file(data(codec)).unwrap();
    let pixels = object.element_by_name("PixelData").unwrap();
    pixels.fragments().unwrap().to_vec()
}

/// All codecs, with frames cut into so many fragments.
fn compressed(table: Table, pieces: usize) -> Vec<Compressed> {
    let frames = File::default().frames();
    let codecs = [
        (
            "1.2.840.10008.1.2.5",
            frames.iter().map(|f| rle(f)).collect(),
        ),
        ("1.2.840.10008.1.2.4.70", streams("jpeg_lossless")),
        ("1.2.840.10008.1.2.4.80", streams("jpeg_ls")),
        ("1.2.840.10008.1.2.4.90", streams("jpeg2000")),
    ];
    let one = |(syntax, streams)| Compressed {
        syntax,
        streams,
        table,
        pieces,
    };
    codecs.into_iter().map(one).collect()
}

#[test]
fn compressed_frames_are_told_apart() {
    for (table, pieces) in [
        (Table::None, 1),
        (Table::Basic, 1),
        (Table::Extended, 1),
        (Table::Basic, 2),
    ] {
        for compressed in compressed(table, pieces) {
            let syntax = compressed.syntax;
            let file = File {
                compressed: Some(compressed),
                ..File::default()
            };
            let scan = read(&file).unwrap_or_else(|e| panic!("{syntax} {table:?} {pieces}: {e}"));
            check(&scan, &file);
        }
    }
}

#[test]
fn fragments_without_a_table_are_told_apart_by_the_marks_of_their_streams() {
    for compressed in compressed(Table::None, 2) {
        let syntax = compressed.syntax;
        let file = File {
            compressed: Some(compressed),
            ..File::default()
        };
        match read(&file) {
            Ok(scan) => check(&scan, &file),
            // Run-length encoded frames have no mark.
            Err(error) => assert!(
                syntax.ends_with(".5")
                    && error.contains("6 frames")
                    && error.contains("12 fragments"),
                "{syntax}: {error}"
            ),
        }
    }
}

#[test]
fn a_frame_whose_stream_is_cut_off_is_refused() {
    for mut compressed in compressed(Table::Basic, 1) {
        let syntax = compressed.syntax;
        let half = compressed.streams[3].len() / 2;
        compressed.streams[3].truncate(half);
        let file = File {
            compressed: Some(compressed),
            ..File::default()
        };
        let error = read(&file).unwrap_err();
        assert!(error.contains("a.dcm"), "{syntax}: {error}");
    }
}

#[test]
fn a_folder_with_an_enhanced_file_is_a_series() {
    let file = File::default();
    let (folder, _) = on_disk(&file);
    let series = find_series(folder.path()).unwrap();
    assert_eq!(series.len(), 1);
    assert_eq!((series[0].files, series[0].slices), (1, FRAMES));
    assert_eq!(series[0].kernel.as_deref(), Some("B30f"));
    let options = ReadOptions {
        hu_check: uniferum_ct::HuCheck::Off,
        ..ReadOptions::default()
    };
    check(&read_ct(folder.path(), &options).unwrap(), &file);
}

#[test]
fn several_stacks_of_a_file_are_series_to_choose_from() {
    let file = File {
        heights: vec![0.0, 0.0, 2.5, 2.5, 5.0, 5.0],
        stacks: Some(["1", "2"]),
        ..File::default()
    };
    let error = read(&file).unwrap_err();
    assert!(
        error.contains("1.2.3#2") && error.contains("3 slices in 1 files"),
        "{error}"
    );
    let (_folder, path) = on_disk(&file);
    let options = ReadOptions {
        hu_check: uniferum_ct::HuCheck::Off,
        series: Some("1.2.3#2".to_owned()),
        ..ReadOptions::default()
    };
    let scan = read_ct(&path, &options).unwrap();
    assert_eq!(scan.volume.shape(), [COLUMNS, ROWS, 3]);
    assert_eq!(scan.volume.voxels[[0, 0, 0]], -1000.0);
    assert_eq!(scan.volume.voxels[[1, 0, 0]], 150.0 - 1000.0);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let spoil = |change: &dyn Fn(&mut File)| {
        let mut file = File::default();
        change(&mut file);
        read(&file).unwrap_err()
    };
    let error = spoil(&|f| f.with_groups = false);
    assert!(error.contains("functional groups"), "{error}");
    let error = spoil(&|f| f.claimed_frames = 7);
    assert!(
        error.contains("PerFrameFunctionalGroups") && error.contains("7 items"),
        "{error}"
    );
    let error = spoil(&|f| f.claimed_frames = 5);
    assert!(
        error.contains("5 items") && error.contains("more"),
        "{error}"
    );
    let error = spoil(&|f| f.claimed_frames = 1_000_000);
    assert!(error.contains("NumberOfFrames"), "{error}");
    // Two phases at the same places.
    let error = spoil(&|f| f.heights = vec![0.0, 2.5, 5.0, 0.0, 2.5, 5.0]);
    assert!(
        error.contains("a place of its own") && error.contains("frame"),
        "{error}"
    );
    let error = spoil(&|f| f.heights[4] = 20.0);
    assert!(error.contains("even steps"), "{error}");
    // Every cut of the file is an error, never a panic.
    let whole = File::default().encode();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    for length in (132..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(read_ct(&path, &ReadOptions::default()).is_err(), "{length}");
    }
}
