//! Small DICOM slices with one oddity each.

pub(crate) mod rle;

use rle::rle;

/// How the elements and pixels of a slice are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    ExplicitLittle,
    ImplicitLittle,
    ExplicitBig,
    Deflated,
    Rle,
    NoPreamble,
}

/// A slice file to be.
#[derive(Debug, Clone)]
pub(crate) struct SliceFile {
    pub(crate) encoding: Encoding,
    pub(crate) syntax: Option<String>,
    pub(crate) series: String,
    pub(crate) instance: String,
    pub(crate) modality: String,
    pub(crate) image_type: String,
    pub(crate) position: [f64; 3],
    pub(crate) orientation: [f64; 6],
    pub(crate) slope: f64,
    pub(crate) intercept: f64,
    /// Stored at the first pixel, and declared.
    pub(crate) padding: Option<i16>,
    pub(crate) samples: u16,
    pub(crate) frames: String,
    pub(crate) bits_stored: u16,
    pub(crate) claimed_rows: Option<u16>,
    /// Two rows fewer.
    pub(crate) crop: bool,
}

impl SliceFile {
    pub(crate) const COLUMNS: usize = 7;
    pub(crate) const ROWS: usize = 6;

    /// A slice at this height: `PixelSpacing` 0.8 (rows) and 0.7 (columns), thickness 5 mm.
    pub(crate) fn at(z: f64) -> Self {
        SliceFile {
            encoding: Encoding::ExplicitLittle,
            syntax: None,
            series: "1.2".into(),
            instance: String::new(),
            modality: "CT".into(),
            image_type: "ORIGINAL\\PRIMARY\\AXIAL".into(),
            position: [-10.0, -20.0, z],
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            slope: 1.0,
            intercept: -1024.0,
            padding: None,
            samples: 1,
            frames: "1".into(),
            bits_stored: 16,
            claimed_rows: None,
            crop: false,
        }
    }

    /// What the pixel at column `x`, row `y` is worth at slope 1, intercept -1024.
    pub(crate) fn hu(x: usize, y: usize, z: f64) -> f32 {
        (x as f32 * 200.0 - 1000.0) + y as f32 + (z as f32).round() * 2.0
    }

    fn rows(&self) -> usize {
        Self::ROWS - if self.crop { 2 } else { 0 }
    }

    fn stored(&self) -> Vec<i16> {
        let mut out = Vec::new();
        for y in 0..self.rows() {
            for x in 0..Self::COLUMNS {
                out.push((Self::hu(x, y, self.position[2]) + 1024.0) as i16);
            }
        }
        if let Some(padding) = self.padding {
            out[0] = padding;
        }
        out
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut meta = Writer {
            out: Vec::new(),
            implicit: false,
            big: false,
        };
        meta.text(0x0002_0002, b"UI", "1.2.840.10008.5.1.4.1.1.2");
        let syntax = self
            .syntax
            .clone()
            .unwrap_or_else(|| self.encoding.syntax().into());
        meta.text(0x0002_0010, b"UI", &syntax);
        let mut set = Writer {
            out: Vec::new(),
            implicit: self.encoding == Encoding::ImplicitLittle,
            big: self.encoding == Encoding::ExplicitBig,
        };
        self.data_set(&mut set);
        let set = if self.encoding == Encoding::Deflated {
            deflate(&set.out)
        } else {
            set.out
        };
        if self.encoding == Encoding::NoPreamble {
            return set;
        }
        [&[0; 128][..], b"DICM", &meta.out, &set].concat()
    }

    fn data_set(&self, set: &mut Writer) {
        let join = |v: &[f64]| {
            v.iter()
                .map(|c| format!("{c}"))
                .collect::<Vec<_>>()
                .join("\\")
        };
        set.text(0x0008_0008, b"CS", &self.image_type);
        set.text(0x0008_0016, b"UI", "1.2.840.10008.5.1.4.1.1.2");
        set.text(0x0008_0018, b"UI", &self.instance);
        set.text(0x0008_0020, b"DA", "20200304");
        set.text(0x0008_0060, b"CS", &self.modality);
        set.nested_sequence(0x0008_1140);
        set.text(0x0010_0010, b"PN", "DOE^JANE");
        set.text(0x0010_0020, b"LO", "SECRET-ID");
        set.text(0x0010_0030, b"DA", "19700102");
        set.text(0x0018_0050, b"DS", "5.0");
        set.text(0x0018_1210, b"SH", "B70f");
        set.text(0x0020_000e, b"UI", &self.series);
        set.text(0x0020_0032, b"DS", &join(&self.position));
        set.text(0x0020_0037, b"DS", &join(&self.orientation));
        set.number(0x0028_0002, self.samples);
        set.text(0x0028_0008, b"IS", &self.frames);
        set.number(0x0028_0010, self.claimed_rows.unwrap_or(self.rows() as u16));
        set.number(0x0028_0011, Self::COLUMNS as u16);
        set.text(0x0028_0030, b"DS", "0.8\\0.7");
        set.number(0x0028_0100, 16);
        set.number(0x0028_0101, self.bits_stored);
        set.number(0x0028_0102, self.bits_stored.saturating_sub(1));
        set.number(0x0028_0103, 1);
        if let Some(padding) = self.padding {
            set.number(0x0028_0120, padding as u16);
        }
        set.text(0x0028_1052, b"DS", &format!("{}", self.intercept));
        set.text(0x0028_1053, b"DS", &format!("{}", self.slope));
        let stored = self.stored();
        if self.encoding == Encoding::Rle {
            set.encapsulated(&rle(&stored));
        } else {
            let big = set.big;
            let bytes = |v: i16| {
                if big {
                    v.to_be_bytes()
                } else {
                    v.to_le_bytes()
                }
            };
            let pixels: Vec<u8> = stored.into_iter().flat_map(bytes).collect();
            set.element(0x7fe0_0010, b"OW", &pixels);
        }
    }
}

impl Encoding {
    fn syntax(self) -> &'static str {
        match self {
            Encoding::ExplicitLittle | Encoding::NoPreamble => "1.2.840.10008.1.2.1",
            Encoding::ImplicitLittle => "1.2.840.10008.1.2",
            Encoding::ExplicitBig => "1.2.840.10008.1.2.2",
            Encoding::Deflated => "1.2.840.10008.1.2.1.99",
            Encoding::Rle => "1.2.840.10008.1.2.5",
        }
    }
}

struct Writer {
    out: Vec<u8>,
    implicit: bool,
    big: bool,
}

impl Writer {
    fn u16(&mut self, v: u16) {
        self.out.extend(if self.big {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        });
    }

    fn u32(&mut self, v: u32) {
        self.out.extend(if self.big {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        });
    }

    fn tag(&mut self, tag: u32) {
        self.u16((tag >> 16) as u16);
        self.u16(tag as u16);
    }

    fn head(&mut self, tag: u32, vr: &[u8; 2], length: u32) {
        self.tag(tag);
        if self.implicit {
            return self.u32(length);
        }
        self.out.extend(vr);
        if matches!(vr, b"OB" | b"OW" | b"SQ") {
            self.u16(0);
            self.u32(length);
        } else {
            self.u16(length as u16);
        }
    }

    fn element(&mut self, tag: u32, vr: &[u8; 2], value: &[u8]) {
        self.head(tag, vr, value.len() as u32);
        self.out.extend(value);
    }

    fn text(&mut self, tag: u32, vr: &[u8; 2], text: &str) {
        let mut value = text.as_bytes().to_vec();
        if value.len() % 2 == 1 {
            value.push(if vr == b"UI" { 0 } else { b' ' });
        }
        self.element(tag, vr, &value);
    }

    fn number(&mut self, tag: u32, value: u16) {
        self.head(tag, b"US", 2);
        self.u16(value);
    }

    /// A sequence of undefined length, with an item of undefined length that names a patient too.
    fn nested_sequence(&mut self, tag: u32) {
        self.head(tag, b"SQ", u32::MAX);
        self.tag(0xfffe_e000);
        self.u32(u32::MAX);
        self.text(0x0010_0010, b"PN", "DOE^JANE");
        self.tag(0xfffe_e00d);
        self.u32(0);
        self.tag(0xfffe_e0dd);
        self.u32(0);
    }

    /// An empty offset table and one fragment.
    fn encapsulated(&mut self, frame: &[u8]) {
        self.head(0x7fe0_0010, b"OB", u32::MAX);
        self.tag(0xfffe_e000);
        self.u32(0);
        self.tag(0xfffe_e000);
        self.u32(frame.len() as u32);
        self.out.extend(frame);
        self.tag(0xfffe_e0dd);
        self.u32(0);
    }
}

fn deflate(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}
