//! Enhanced multi-frame CT, written element by element.

pub(crate) const COLUMNS: usize = 5;
pub(crate) const ROWS: usize = 4;
pub(crate) const FRAMES: usize = 6;

/// Where the frames' bytes are said to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// Nowhere: an empty offset table.
    None,
    Basic,
    /// Outside the pixel data, with 64 bits a frame.
    Extended,
}

/// Compressed frames.
#[derive(Debug, Clone)]
pub(crate) struct Compressed {
    pub(crate) syntax: &'static str,
    /// A stream a frame, in the order of the file.
    pub(crate) streams: Vec<Vec<u8>>,
    pub(crate) table: Table,
    /// Fragments a frame.
    pub(crate) pieces: usize,
}

#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) implicit: bool,
    pub(crate) big: bool,
    /// Sequences and items have lengths, not delimiters.
    pub(crate) lengths: bool,
    /// Otherwise the pixels are plain.
    pub(crate) compressed: Option<Compressed>,
    pub(crate) claimed_frames: usize,
    /// Heights of the frames, in the order of the file.
    pub(crate) heights: Vec<f64>,
    pub(crate) stacks: Option<[&'static str; 2]>,
    pub(crate) with_groups: bool,
}

impl Default for File {
    fn default() -> Self {
        File {
            implicit: false,
            big: false,
            lengths: false,
            compressed: None,
            claimed_frames: FRAMES,
            // Not in the order of the patient.
            heights: vec![10.0, 0.0, 2.5, 7.5, 12.5, 5.0],
            stacks: None,
            with_groups: true,
        }
    }
}

/// Stored value of a pixel of the frame at this height; slope and intercept depend on the frame.
pub(crate) fn stored(x: usize, y: usize, height: f64) -> i16 {
    (100 * x + 10 * y) as i16 + (height * 4.0) as i16
}

/// Rescale Slope of a frame; the intercept is -1000.
pub(crate) fn slope(frame: usize) -> f64 {
    1.0 + frame as f64 / 2.0
}

impl File {
    /// The stored values of each frame, columns fastest.
    pub(crate) fn frames(&self) -> Vec<Vec<i16>> {
        let frame = |&z: &f64| {
            let place = |i: usize| stored(i % COLUMNS, i / COLUMNS, z);
            (0..ROWS * COLUMNS).map(place).collect()
        };
        self.heights.iter().map(frame).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut meta = Writer {
            out: Vec::new(),
            implicit: false,
            big: false,
            lengths: true,
        };
        meta.text(0x0002_0002, b"UI", "1.2.840.10008.5.1.4.1.1.2.1");
        let syntax = match (&self.compressed, self.implicit, self.big) {
            (Some(compressed), ..) => compressed.syntax,
            (None, true, _) => "1.2.840.10008.1.2",
            (None, false, true) => "1.2.840.10008.1.2.2",
            (None, false, false) => "1.2.840.10008.1.2.1",
        };
        meta.text(0x0002_0010, b"UI", syntax);
        let mut set = Writer {
            out: Vec::new(),
            implicit: self.implicit,
            big: self.big,
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
        match &self.compressed {
            Some(compressed) => compressed.write(&mut set),
            None => self.write_plain(&mut set),
        }
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

    fn write_plain(&self, set: &mut Writer) {
        let pixels = self.frames().concat();
        set.head(0x7fe0_0010, b"OW", 2 * pixels.len() as u32);
        pixels.into_iter().for_each(|v| set.u16(v as u16));
    }
}

impl Compressed {
    fn write(&self, set: &mut Writer) {
        let (mut fragments, mut offsets) = (Vec::new(), Vec::new());
        for stream in &self.streams {
            offsets.push(fragments.len());
            let size = stream.len().div_ceil(self.pieces).next_multiple_of(2);
            for piece in stream.chunks(size) {
                let padded = piece.len().next_multiple_of(2);
                fragments.extend([0xfe, 0xff, 0x00, 0xe0]);
                fragments.extend((padded as u32).to_le_bytes());
                fragments.extend(piece);
                fragments.resize(fragments.len() + padded - piece.len(), 0);
            }
        }
        if self.table == Table::Extended {
            let lengths = self.streams.iter().map(Vec::len);
            set.long_numbers(0x7fe0_0001, &offsets);
            set.long_numbers(0x7fe0_0002, &lengths.collect::<Vec<_>>());
        }
        if self.table != Table::Basic {
            offsets.clear();
        }
        set.head(0x7fe0_0010, b"OB", u32::MAX);
        set.tag(0xfffe_e000);
        set.u32(4 * offsets.len() as u32);
        offsets.into_iter().for_each(|at| set.u32(at as u32));
        set.out.extend(fragments);
        set.tag(0xfffe_e0dd);
        set.u32(0);
    }
}

struct Writer {
    out: Vec<u8>,
    implicit: bool,
    big: bool,
    lengths: bool,
}

impl Writer {
    fn u16(&mut self, v: u16) {
        let big = self.big;
        self.out.extend(if big {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        });
    }

    fn u32(&mut self, v: u32) {
        let big = self.big;
        self.out.extend(if big {
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
        if matches!(vr, b"OB" | b"OW" | b"OV" | b"SQ") {
            self.u16(0);
            self.u32(length);
        } else {
            self.u16(length as u16);
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
        self.u16(value);
    }

    /// Little endian, as all syntaxes with compressed pixels are.
    fn long_numbers(&mut self, tag: u32, values: &[usize]) {
        self.head(tag, b"OV", 8 * values.len() as u32);
        for &value in values {
            self.out.extend((value as u64).to_le_bytes());
        }
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
            content.u32(self.length(&item));
            content.out.extend(item.out);
            if !self.lengths {
                content.tag(0xfffe_e00d);
                content.u32(0);
            }
        }
        self.head(tag, b"SQ", self.length(&content));
        self.out.extend(content.out);
        if !self.lengths {
            self.tag(0xfffe_e0dd);
            self.u32(0);
        }
    }

    fn length(&self, content: &Writer) -> u32 {
        if self.lengths {
            content.out.len() as u32
        } else {
            u32::MAX
        }
    }
}
