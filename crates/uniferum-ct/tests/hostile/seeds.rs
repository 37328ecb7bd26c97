//! Small valid files of every format, and how much memory a damaged copy may take.

use std::io::Write;
use std::path::Path;

use ndarray::Array3;
use uniferum_ct::io::cache::{Hash, write_cache, write_release_bin};
use uniferum_ct::{Affine, Volume, write_nifti};

use crate::dicom_writer::rle::rle;
use crate::dicom_writer::{Encoding, SliceFile};
use crate::enhanced::{self, Compressed, Table};
use crate::entry;

/// What the damaged bytes become before they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrap {
    /// A file of their own.
    Plain,
    /// A gzip file with a right checksum.
    Gzip,
    /// The array `ct` of a zip archive with a right checksum.
    Npz,
    /// A header beside undamaged voxels, `scan.img` or `scan.raw`.
    Detached(&'static str),
    /// A cache file whose last 32 bytes are made right.
    Hashed,
    /// A slice of a series of three.
    Series,
}

/// A valid file.
pub(crate) struct Seed {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    wrap: Wrap,
    /// Bytes of memory a byte of file.
    multiple: f64,
}

/// Threads, paths, and what a small file takes anyway.
const FREE: f64 = 4.0 * 1024.0 * 1024.0;
/// Plain files: their bytes, and voxels of four bytes for stored ones of one, read by several doors.
const PLAIN: f64 = 16.0;
/// Deflate makes at most 1032 bytes of one, a growing buffer twice as much, and voxels come on top.
const DEFLATE: f64 = 1032.0 * 8.0;
/// The caches' own bound on what zstd makes of a byte, and voxels in single precision on top.
const ZSTD: f64 = 32_768.0 * 4.0;
/// A compressed slice: 1024 pixels a byte, up to 64 bytes each while it is decoded.
const CODEC: f64 = 1024.0 * 64.0;
/// A compressed slice may have a megapixel, however small its file.
const SLICE: f64 = 64.0 * 1024.0 * 1024.0;

impl Seed {
    /// Reads damaged bytes; whether they gave a scan.
    pub(crate) fn read(&self, bytes: &[u8]) -> bool {
        match self.wrap {
            Wrap::Plain => entry::read(&[("scan", bytes)]),
            Wrap::Gzip => entry::read(&[("scan", &gzip(bytes))]),
            Wrap::Npz => entry::read(&[("scan", &zip(bytes))]),
            Wrap::Detached(end) => {
                let data = stored();
                entry::read(&[("scan.hdr", bytes), (&format!("scan{end}"), &data)])
            }
            Wrap::Hashed => {
                let body = &bytes[..bytes.len().saturating_sub(32)];
                entry::read(&[("scan", &[body, &Hash::of(body).0].concat())])
            }
            Wrap::Series => {
                let others = [5.0, 7.5].map(|z| SliceFile::at(z).encode());
                entry::series(&[bytes, &others[0], &others[1]])
            }
        }
    }

    /// Bytes of the file that is read.
    pub(crate) fn size(&self, bytes: &[u8]) -> usize {
        match self.wrap {
            Wrap::Gzip => gzip(bytes).len(),
            Wrap::Npz => zip(bytes).len(),
            _ => bytes.len(),
        }
    }

    /// The fuzz target that it is a seed of.
    pub(crate) fn target(&self) -> &'static str {
        match (self.wrap, self.name) {
            (Wrap::Series, _) => "dicom_series",
            (_, "nifti pair") => "nifti_pair",
            (_, "release bin") => "cache",
            (_, name) if name.contains("nifti") => "nifti",
            (_, name) if name.starts_with("npy") => "npz",
            (_, name) => name.split(' ').next().unwrap_or(name),
        }
    }

    /// The bytes that the target takes: the file that is read, or the files of a series one after another.
    pub(crate) fn for_fuzzing(&self) -> Vec<u8> {
        match self.wrap {
            Wrap::Gzip => gzip(&self.bytes),
            Wrap::Npz => zip(&self.bytes),
            Wrap::Series => [2.5, 5.0, 7.5].map(|z| SliceFile::at(z).encode()).concat(),
            _ => self.bytes.clone(),
        }
    }

    pub(crate) fn allowed(&self, size: usize) -> f64 {
        let slice = if self.multiple == CODEC { SLICE } else { 0.0 };
        FREE + slice + self.multiple * size as f64
    }
}

const SHAPE: [usize; 3] = [5, 4, 3];

fn volume() -> Volume<i16> {
    let voxels = Array3::from_shape_fn(SHAPE, |(x, y, z)| (x * 50 + y * 10 + z) as i16 - 100);
    Volume::new(
        voxels,
        Affine::from_spacing([0.7, 0.8, 2.0], [-1.0, -1.0, 1.0], [1.0, 2.0, 3.0]),
    )
}

fn stored() -> Vec<u8> {
    volume()
        .voxels
        .t()
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut out = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated);
    out.start_file("ct.npy", options).unwrap();
    out.write_all(bytes).unwrap();
    out.finish().unwrap().into_inner()
}

/// What a writer makes of the volume.
fn written(name: &str, write: impl FnOnce(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    write(&path);
    std::fs::read(path).unwrap()
}

fn nifti() -> Vec<u8> {
    written("a.nii", |path| write_nifti(path, &volume()).unwrap())
}

/// A NIfTI-2 header with the voxels.
fn nifti2() -> Vec<u8> {
    let one = nifti();
    let mut h = vec![0; 544];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &540i32.to_le_bytes());
    put(4, b"n+2\0\r\n\x1a\n");
    put(12, &4i16.to_le_bytes());
    put(14, &16i16.to_le_bytes());
    for (axis, n) in [3i64, 5, 4, 3, 1, 1, 1, 1].into_iter().enumerate() {
        put(16 + 8 * axis, &n.to_le_bytes());
    }
    put(168, &544i64.to_le_bytes());
    put(176, &1f64.to_le_bytes());
    put(348, &1i32.to_le_bytes());
    for (cell, value) in volume().affine.0.iter().take(3).flatten().enumerate() {
        put(400 + 8 * cell, &value.to_le_bytes());
    }
    h.extend_from_slice(&one[352..]);
    h
}

/// The header of a pair, with an extension.
fn pair() -> Vec<u8> {
    let mut h = nifti()[..348].to_vec();
    h[344..348].copy_from_slice(b"ni1\0");
    h[108..112].copy_from_slice(&0f32.to_le_bytes());
    h.extend_from_slice(&[1, 0, 0, 0]);
    h.extend_from_slice(&16i32.to_le_bytes());
    h.extend_from_slice(&6i32.to_le_bytes());
    h.extend_from_slice(b"comment\0");
    h
}

fn metaimage(compressed: bool, file: &str) -> String {
    format!(
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
         CompressedData = {}\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\n\
         ElementSpacing = 0.7 0.8 2\nDimSize = 5 4 3\nElementType = MET_SHORT\n\
         ElementDataFile = {file}\n",
        if compressed { "True" } else { "False" }
    )
}

fn nrrd(encoding: &str, extra: &str) -> String {
    format!(
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 3\n\
         space directions: (0.7,0,0) (0,0.8,0) (0,0,2)\nendian: little\nencoding: {encoding}\n\
         space origin: (1,2,3)\n{extra}\n"
    )
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

fn npy() -> Vec<u8> {
    let dict = "{'descr': '<i2', 'fortran_order': False, 'shape': (5, 4, 3), }            \n";
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(dict.len() as u16).to_le_bytes());
    out.extend_from_slice(dict.as_bytes());
    out.extend_from_slice(&stored());
    out
}

fn data(name: &str) -> Vec<u8> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    std::fs::read(data.join(name)).unwrap()
}

fn codec(name: &str) -> Vec<u8> {
    data(&format!("codec_{name}.dcm"))
}

fn enhanced_file(name: &str) -> Vec<u8> {
    data(&format!("enhanced_{name}.dcm"))
}

fn slice(encoding: Encoding) -> Vec<u8> {
    let plain = SliceFile::at(2.5);
    SliceFile {
        encoding,
        padding: Some(-2000),
        ..plain
    }
    .encode()
}

/// An enhanced file of six frames, plain.
fn frames(implicit: bool, lengths: bool) -> Vec<u8> {
    enhanced::File {
        implicit,
        lengths,
        ..enhanced::File::default()
    }
    .encode()
}

/// The same, each frame run-length encoded.
fn frames_rle(table: Table, pieces: usize) -> Vec<u8> {
    let file = enhanced::File::default();
    let compressed = Compressed {
        syntax: "1.2.840.10008.1.2.5",
        streams: file.frames().iter().map(|f| rle(f)).collect(),
        table,
        pieces,
    };
    enhanced::File {
        compressed: Some(compressed),
        ..file
    }
    .encode()
}

/// A seed of every reader.
pub(crate) fn seeds() -> Vec<Seed> {
    let seed = |name, bytes, wrap, multiple| Seed {
        name,
        bytes,
        wrap,
        multiple,
    };
    let local = |text: String, data: &[u8]| [text.as_bytes(), data].concat();
    use Wrap::{Detached, Gzip, Hashed, Npz, Plain, Series};
    vec![
        seed("nifti-1", nifti(), Plain, PLAIN),
        seed("nifti-1 in gzip", nifti(), Gzip, DEFLATE),
        seed("gzip of nifti-1", gzip(&nifti()), Plain, DEFLATE),
        seed("nifti-2", nifti2(), Plain, PLAIN),
        seed("nifti pair", pair(), Detached(".img"), PLAIN),
        seed(
            "metaimage",
            local(metaimage(false, "LOCAL"), &stored()),
            Plain,
            PLAIN,
        ),
        seed(
            "metaimage zlib",
            local(metaimage(true, "LOCAL"), &zlib(&stored())),
            Plain,
            DEFLATE,
        ),
        seed(
            "metaimage header",
            metaimage(false, "scan.raw").into(),
            Detached(".raw"),
            PLAIN,
        ),
        seed("nrrd", local(nrrd("raw", ""), &stored()), Plain, PLAIN),
        seed(
            "nrrd gzip",
            local(nrrd("gzip", ""), &gzip(&stored())),
            Plain,
            DEFLATE,
        ),
        seed(
            "nrrd header",
            nrrd("raw", "data file: scan.raw\n").into(),
            Detached(".raw"),
            PLAIN,
        ),
        seed("npy", npy(), Plain, PLAIN),
        seed("npy in npz", npy(), Npz, DEFLATE),
        seed("npz", zip(&npy()), Plain, DEFLATE),
        seed(
            "dicom explicit",
            slice(Encoding::ExplicitLittle),
            Plain,
            PLAIN,
        ),
        seed(
            "dicom implicit",
            slice(Encoding::ImplicitLittle),
            Plain,
            PLAIN,
        ),
        seed(
            "dicom big endian",
            slice(Encoding::ExplicitBig),
            Plain,
            PLAIN,
        ),
        seed(
            "dicom without preamble",
            slice(Encoding::NoPreamble),
            Plain,
            PLAIN,
        ),
        seed("dicom deflated", slice(Encoding::Deflated), Plain, DEFLATE),
        seed(
            "dicom series",
            slice(Encoding::ExplicitLittle),
            Series,
            PLAIN,
        ),
        seed("dicom rle", codec("rle"), Plain, CODEC),
        seed("dicom jpeg", codec("jpeg_lossless"), Plain, CODEC),
        seed("dicom jpeg-ls", codec("jpeg_ls"), Plain, CODEC),
        seed("dicom jpeg-ls near", codec("jpeg_ls_near"), Plain, CODEC),
        seed("dicom jpeg 2000", codec("jpeg2000"), Plain, CODEC),
        seed("dicom frames", frames(false, false), Plain, PLAIN),
        seed("dicom frames implicit", frames(true, true), Plain, PLAIN),
        seed(
            "dicom frames big endian",
            enhanced_file("big_endian"),
            Plain,
            PLAIN,
        ),
        seed(
            "dicom frames rle",
            frames_rle(Table::Extended, 1),
            Plain,
            CODEC,
        ),
        seed(
            "dicom frames rle in two",
            frames_rle(Table::Basic, 2),
            Plain,
            CODEC,
        ),
        seed(
            "dicom frames jpeg",
            enhanced_file("jpeg_lossless"),
            Plain,
            CODEC,
        ),
        seed(
            "dicom frames jpeg 2000",
            enhanced_file("jpeg2000"),
            Plain,
            CODEC,
        ),
        seed("cache", cache(), Plain, ZSTD),
        seed("cache with a right checksum", cache(), Hashed, ZSTD),
        seed("release bin", release_bin(), Plain, ZSTD),
    ]
}

fn cache() -> Vec<u8> {
    written("a.uct", |path| {
        write_cache(path, &volume(), Hash::of(b"settings")).unwrap();
    })
}

fn release_bin() -> Vec<u8> {
    written("a.bin", |path| {
        write_release_bin(path, &volume(), true).unwrap()
    })
}
