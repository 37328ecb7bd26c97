//! Enhanced multi-frame CT: files written here, element by element, and read as volumes.

#[path = "dicom_writer/rle.rs"]
mod rle;

use std::path::PathBuf;

use rle::rle;
use uniferum_ct::io::dicom::find_series;
use uniferum_ct::{CtScan, Format, ReadOptions, read_ct};

const COLUMNS: usize = 5;
const ROWS: usize = 4;
const FRAMES: usize = 6;

/// How the file is written.
#[derive(Clone, Copy, PartialEq)]
enum Pixels {
    Native,
    /// RLE, with an offset table or without.
    Rle {
        table: bool,
    },
    /// RLE cut into two fragments a frame, which only the table puts together.
    RleInTwo {
        table: bool,
    },
}

#[derive(Clone)]
struct File {
    implicit: bool,
    /// Sequences and items have lengths, not delimiters.
    lengths: bool,
    pixels: Pixels,
    claimed_frames: usize,
    /// Heights of the frames, in the order of the file.
    heights: Vec<f64>,
    stacks: Option<[&'static str; 2]>,
    with_groups: bool,
}

impl Default for File {
    fn default() -> Self {
        File {
            implicit: false,
            lengths: false,
            pixels: Pixels::Native,
            claimed_frames: FRAMES,
            // Not in the order of the patient.
            heights: vec![10.0, 0.0, 2.5, 7.5, 12.5, 5.0],
            stacks: None,
            with_groups: true,
        }
    }
}

struct Writer {
    out: Vec<u8>,
    implicit: bool,
    lengths: bool,
}

impl Writer {
    fn tag(&mut self, tag: u32) {
        self.out.extend(((tag >> 16) as u16).to_le_bytes());
        self.out.extend((tag as u16).to_le_bytes());
    }

    fn head(&mut self, tag: u32, vr: &[u8; 2], length: u32) {
        self.tag(tag);
        if self.implicit {
            self.out.extend(length.to_le_bytes());
            return;
        }
        self.out.extend(vr);
        if matches!(vr, b"OB" | b"OW" | b"SQ") {
            self.out.extend([0, 0]);
            self.out.extend(length.to_le_bytes());
        } else {
            self.out.extend((length as u16).to_le_bytes());
        }
    }

    fn text(&mut self, tag: u32, vr: &[u8; 2], text: &str) {
        let mut value = text.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            value.push(b' ');
        }
        self.head(tag, vr, value.len() as u32);
        self.out.extend(value);
    }

    fn number(&mut self, tag: u32, value: u16) {
        self.head(tag, b"US", 2);
        self.out.extend(value.to_le_bytes());
    }

    fn inner(&self) -> Self {
        Writer {
            out: Vec::new(),
            ..*self
        }
    }

    /// A sequence of items, each written by `fill`.
    fn sequence(&mut self, tag: u32, items: usize, fill: impl Fn(&mut Writer, usize)) {
        let mut content = self.inner();
        for index in 0..items {
            let mut item = self.inner();
            fill(&mut item, index);
            content.tag(0xfffe_e000);
            let length = if self.lengths {
                item.out.len() as u32
            } else {
                u32::MAX
            };
            content.out.extend(length.to_le_bytes());
            content.out.extend(item.out);
            if !self.lengths {
                content.tag(0xfffe_e00d);
                content.out.extend([0; 4]);
            }
        }
        let length = if self.lengths {
            content.out.len() as u32
        } else {
            u32::MAX
        };
        self.head(tag, b"SQ", length);
        self.out.extend(content.out);
        if !self.lengths {
            self.tag(0xfffe_e0dd);
            self.out.extend([0; 4]);
        }
    }
}

/// Stored value of a pixel of the frame at this height; slope and intercept depend on the frame.
fn stored(x: usize, y: usize, height: f64) -> i16 {
    (100 * x + 10 * y) as i16 + (height * 4.0) as i16
}

fn slope(frame: usize) -> f64 {
    1.0 + frame as f64 / 2.0
}

impl File {
    fn encode(&self) -> Vec<u8> {
        let rle = self.pixels != Pixels::Native;
        let mut meta = Writer {
            out: Vec::new(),
            implicit: false,
            lengths: true,
        };
        meta.text(0x0002_0002, b"UI", "1.2.840.10008.5.1.4.1.1.2.1");
        let syntax = match (rle, self.implicit) {
            (true, _) => "1.2.840.10008.1.2.5",
            (false, true) => "1.2.840.10008.1.2",
            (false, false) => "1.2.840.10008.1.2.1",
        };
        meta.text(0x0002_0010, b"UI", syntax);
        let mut set = Writer {
            out: Vec::new(),
            implicit: self.implicit,
            lengths: self.lengths,
        };
        set.text(0x0008_0008, b"CS", "ORIGINAL\\PRIMARY\\VOLUME\\NONE");
        set.text(0x0008_0018, b"UI", "1.2.3.4");
        set.text(0x0008_0060, b"CS", "CT");
        set.text(0x0020_000e, b"UI", "1.2.3");
        set.number(0x0028_0002, 1);
        set.text(0x0028_0008, b"IS", &self.claimed_frames.to_string());
        set.number(0x0028_0010, ROWS as u16);
        set.number(0x0028_0011, COLUMNS as u16);
        for (tag, value) in [(0x0100, 16), (0x0101, 16), (0x0102, 15), (0x0103, 1)] {
            set.number(0x0028_0000 | tag, value);
        }
        if self.with_groups {
            self.groups(&mut set);
        }
        self.write_pixels(&mut set);
        [&[0; 128][..], b"DICM", &meta.out, &set.out].concat()
    }

    fn groups(&self, set: &mut Writer) {
        set.sequence(0x5200_9229, 1, |item, _| {
            item.sequence(0x0018_9314, 1, |w, _| w.text(0x0018_1210, b"SH", "B30f"));
            item.sequence(0x0020_9116, 1, |w, _| {
                w.text(0x0020_0037, b"DS", "1\\0\\0\\0\\1\\0");
            });
            item.sequence(0x0028_9110, 1, |w, _| {
                w.text(0x0018_0050, b"DS", "3");
                w.text(0x0028_0030, b"DS", "0.8\\0.7");
            });
        });
        set.sequence(0x5200_9230, self.heights.len(), |item, frame| {
            item.sequence(0x0020_9111, 1, |w, _| {
                if let Some(stacks) = self.stacks {
                    w.text(0x0020_9056, b"SH", stacks[frame % 2]);
                }
            });
            item.sequence(0x0020_9113, 1, |w, _| {
                let position = format!("-10\\-20\\{}", self.heights[frame]);
                w.text(0x0020_0032, b"DS", &position);
            });
            item.sequence(0x0028_9145, 1, |w, _| {
                w.text(0x0028_1052, b"DS", "-1000");
                w.text(0x0028_1053, b"DS", &slope(frame).to_string());
                w.text(0x0028_1054, b"LO", "HU");
            });
        });
    }

    fn write_pixels(&self, set: &mut Writer) {
        let frames: Vec<Vec<i16>> = self
            .heights
            .iter()
            .map(|&z| {
                let place = |i: usize| stored(i % COLUMNS, i / COLUMNS, z);
                (0..ROWS * COLUMNS).map(place).collect()
            })
            .collect();
        let (table, pieces) = match self.pixels {
            Pixels::Native => {
                let bytes: Vec<u8> = frames
                    .concat()
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect();
                set.head(0x7fe0_0010, b"OW", bytes.len() as u32);
                set.out.extend(bytes);
                return;
            }
            Pixels::Rle { table } => (table, 1),
            Pixels::RleInTwo { table } => (table, 2),
        };
        let mut fragments = Vec::new();
        let mut offsets = Vec::new();
        for frame in &frames {
            offsets.extend((fragments.len() as u32).to_le_bytes());
            let bytes = rle(frame);
            for piece in bytes.chunks(bytes.len().div_ceil(pieces).next_multiple_of(2)) {
                fragments.extend([0xfe, 0xff, 0x00, 0xe0]);
                fragments.extend((piece.len() as u32).to_le_bytes());
                fragments.extend(piece);
            }
        }
        let offsets = if table { offsets } else { Vec::new() };
        set.head(0x7fe0_0010, b"OB", u32::MAX);
        set.tag(0xfffe_e000);
        set.out.extend((offsets.len() as u32).to_le_bytes());
        set.out.extend(offsets);
        set.out.extend(fragments);
        set.tag(0xfffe_e0dd);
        set.out.extend([0; 4]);
    }
}

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
    for implicit in [false, true] {
        for lengths in [false, true] {
            let file = File {
                implicit,
                lengths,
                ..File::default()
            };
            check(&read(&file).unwrap(), &file);
        }
    }
}

#[test]
fn compressed_frames_are_told_apart() {
    for pixels in [
        Pixels::Rle { table: false },
        Pixels::Rle { table: true },
        Pixels::RleInTwo { table: true },
    ] {
        let file = File {
            pixels,
            ..File::default()
        };
        check(&read(&file).unwrap(), &file);
    }
    let file = File {
        pixels: Pixels::RleInTwo { table: false },
        ..File::default()
    };
    let error = read(&file).unwrap_err();
    assert!(
        error.contains("6 frames") && error.contains("12 fragments"),
        "{error}"
    );
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
