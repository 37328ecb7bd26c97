//! MetaImage, NRRD, npz, NIfTI pairs and label maps: every header field that matters, both ways.

use std::io::Write;
use std::path::{Path, PathBuf};

use ndarray::Array3;
use uniferum_ct::io::nifti::read_nifti;
use uniferum_ct::{
    Affine, CtScan, Format, HuSource, Labels, ReadOptions, Volume, read_ct, read_mask,
    read_mask_folder, read_mask_with, read_organs, write_nifti,
};

const SHAPE: [usize; 3] = [4, 3, 2];

fn expected() -> Array3<f32> {
    Array3::from_shape_fn(SHAPE, |(x, y, z)| (x + 10 * y + 100 * z) as f32 - 1000.0)
}

/// The same voxels as the files store them: x fastest.
fn stored(big_endian: bool) -> Vec<u8> {
    let voxels = expected();
    let value = |v: f32| {
        let v = v as i16;
        if big_endian {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        }
    };
    voxels.t().iter().copied().flat_map(value).collect()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn read(path: &Path) -> CtScan {
    read_ct(path, &ReadOptions::default()).unwrap()
}

fn refused(path: &Path) -> String {
    let error = read_ct(path, &ReadOptions::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(path.file_name().unwrap().to_str().unwrap()),
        "{error}"
    );
    error
}

const MHD: &str = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n\
    CompressedData = False\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -10 -20 30\n\
    AnatomicalOrientation = RAI\nElementSpacing = 0.7 0.8 1.5\nDimSize = 4 3 2\n\
    ElementType = MET_SHORT\nElementDataFile = a.raw\n";

/// LPS in the file: right to left and front to back, hence negative in RAS.
const LPS_AFFINE: Affine = Affine([
    [-0.7, 0.0, 0.0, 10.0],
    [0.0, -0.8, 0.0, 20.0],
    [0.0, 0.0, 1.5, 30.0],
    [0.0, 0.0, 0.0, 1.0],
]);

#[test]
fn metaimage_raw_compressed_local_and_big_endian() {
    let folder = Folder::new();
    folder.put("a.raw", &stored(false));
    folder.put("b.raw", &stored(true));
    folder.put("a.zraw", &zlib(&stored(false)));
    let with_gap = [b"gap!".as_slice(), &stored(false)].concat();
    folder.put("gap.raw", &with_gap);
    let local = [MHD.replace("a.raw", "LOCAL").as_bytes(), &stored(false)].concat();
    let local_zlib = [
        MHD.replace("a.raw", "LOCAL")
            .replace("CompressedData = False", "CompressedData = True")
            .as_bytes(),
        &zlib(&stored(false)),
    ]
    .concat();
    let big = MHD
        .replace("a.raw", "b.raw")
        .replace("MSB = False", "MSB = True");
    let element_big = big.replace("BinaryDataByteOrderMSB", "ElementByteOrderMSB");
    let compressed = MHD
        .replace("a.raw", "a.zraw")
        .replace("CompressedData = False", "CompressedData = True");
    let skip = |n: &str| {
        MHD.replace("a.raw", "gap.raw")
            .replace("NDims", &format!("HeaderSize = {n}\nNDims"))
    };
    for bytes in [
        MHD.as_bytes(),
        MHD.trim_end().as_bytes(),
        MHD.replace('\n', "\r\n").as_bytes(),
        big.as_bytes(),
        element_big.as_bytes(),
        compressed.as_bytes(),
        skip("4").as_bytes(),
        skip("-1").as_bytes(),
        &local,
        &local_zlib,
    ] {
        // The name says nothing: the content does.
        let scan = read(&folder.put("scan.dat", bytes));
        assert_eq!(scan.format, Format::MetaImage);
        assert_eq!(scan.volume.voxels, expected());
        assert_eq!(scan.volume.affine, LPS_AFFINE);
    }
}

#[test]
fn a_flipped_metaimage_matrix_turns_the_axes() {
    let folder = Folder::new();
    folder.put("a.raw", &stored(false));
    let flipped = MHD.replace("= 1 0 0 0 1 0 0 0 1", "= -1 0 0 0 -1 0 0 0 1");
    let scan = read(&folder.put("flipped.mhd", flipped.as_bytes()));
    assert_eq!(scan.volume.orientation(), "RAS");
    // Rows are the directions of the array axes: x runs to the patient's superior here.
    let turned = MHD.replace("= 1 0 0 0 1 0 0 0 1", "= 0 0 1 1 0 0 0 1 0");
    let scan = read(&folder.put("turned.mhd", turned.as_bytes()));
    assert_eq!(scan.volume.orientation(), "SLP");
    assert_eq!(scan.volume.spacing(), [0.7, 0.8, 1.5]);
}

#[test]
fn metaimage_faults_are_named() {
    let folder = Folder::new();
    folder.put("a.raw", &stored(false));
    let spoil =
        |from: &str, to: &str| refused(&folder.put("bad.mhd", MHD.replace(from, to).as_bytes()));
    assert!(spoil("NDims = 3", "NDims = 4").contains("NDims"));
    assert!(spoil("DimSize = 4 3 2", "DimSize = 4 -3 2").contains("DimSize"));
    assert!(spoil("MET_SHORT", "MET_SHORT_ARRAY").contains("ElementType"));
    assert!(spoil("ElementSpacing = 0.7", "ElementSpacing = nan").contains("TransformMatrix"));
    assert!(spoil("0.7 0.8 1.5", "0.7 0.8").contains("ElementSpacing"));
    assert!(spoil("a.raw", "../a.raw").contains("ElementDataFile"));
    assert!(spoil("a.raw", "LIST").contains("list"));
    assert!(spoil("ElementDataFile", "Other").contains("ElementDataFile"));
    assert!(spoil("NDims", "ElementNumberOfChannels = 3\nNDims").contains("Channels"));
    folder.put("a.raw", &stored(false)[2..]);
    let error = read_ct(folder.put("m.mhd", MHD.as_bytes()), &ReadOptions::default());
    assert!(error.unwrap_err().to_string().contains("48 bytes"));
}

const NRRD: &str = "NRRD0004\n# a comment: with a colon\ntype: short\ndimension: 3\n\
    space: left-posterior-superior\nsizes: 4 3 2\nspace directions: (0.7,0,0) (0,0.8,0) (0,0,1.5)\n\
    kinds: domain domain domain\nendian: little\nencoding: raw\nspace origin: (-10,-20,30)\n";

fn nrrd(header: &str, data: &[u8]) -> Vec<u8> {
    [header.as_bytes(), b"\n", data].concat()
}

#[test]
fn nrrd_raw_gzip_detached_and_every_space() {
    let folder = Folder::new();
    folder.put("a.raw", &stored(false));
    let packed = NRRD.replace("encoding: raw", "encoding: gzip");
    let big = NRRD.replace("little", "big");
    let ras = NRRD
        .replace("left-posterior-superior", "right-anterior-superior")
        .replace("(0.7,0,0) (0,0.8,0)", "(-0.7,0,0) (0,-0.8,0)")
        .replace("(-10,-20,30)", "(10,20,30)");
    let las = NRRD
        .replace("left-posterior-superior", "LAS")
        .replace("(0,0.8,0)", "(0,-0.8,0)")
        .replace("(-10,-20,30)", "(-10,20,30)");
    let detached = format!("{NRRD}data file: a.raw\n");
    let skipping = NRRD.replace("encoding: raw", "byte skip: 3\nencoding: raw");
    let from_end = NRRD.replace("encoding: raw", "byte skip: -1\nencoding: raw");
    for bytes in [
        nrrd(NRRD, &stored(false)),
        nrrd(
            &NRRD.replace('\n', "\r\n"),
            &[b"\r\n".as_slice(), &stored(false)].concat()[2..],
        ),
        nrrd(&packed, &gzip(&stored(false))),
        nrrd(&big, &stored(true)),
        nrrd(&ras, &stored(false)),
        nrrd(&las, &stored(false)),
        detached.into_bytes(),
        nrrd(&skipping, &[b"abc".as_slice(), &stored(false)].concat()),
        nrrd(&from_end, &[b"abcd".as_slice(), &stored(false)].concat()),
    ] {
        let scan = read(&folder.put("scan.dat", &bytes));
        assert_eq!(scan.format, Format::Nrrd);
        assert_eq!(scan.volume.voxels, expected());
        assert_eq!(scan.volume.affine, LPS_AFFINE);
        assert_eq!(
            scan.warnings.len(),
            1,
            "only the lack of tissue: {:?}",
            scan.warnings
        );
    }
}

#[test]
fn nrrd_faults_are_named() {
    let folder = Folder::new();
    let spoil = |from: &str, to: &str| {
        let bytes = nrrd(&NRRD.replace(from, to), &stored(false));
        refused(&folder.put("bad.nrrd", &bytes))
    };
    assert!(spoil("dimension: 3", "dimension: 4").contains("dimension"));
    assert!(spoil("type: short", "type: block").contains("type"));
    assert!(spoil("encoding: raw", "encoding: bzip2").contains("bzip2"));
    assert!(spoil("endian: little\n", "").contains("endian"));
    assert!(spoil("sizes: 4 3 2", "sizes: 4 3 2 1").contains("sizes"));
    assert!(spoil("sizes: 4 3 2", "sizes: 400000 300000 2").contains("bytes"));
    assert!(spoil("space: left", "space: scanner-xyz-left").contains("space"));
    assert!(spoil("(0,0,1.5)", "(0,0,0)").contains("space directions"));
    assert!(spoil("(0,0,1.5)", "none").contains("space directions"));
    assert!(spoil("encoding: raw", "encoding: raw\ndata file: /etc/passwd").contains("data file"));
    let mut bomb = gzip(&vec![0; 1 << 20]);
    bomb.truncate(bomb.len() - 4);
    let bytes = nrrd(&NRRD.replace("encoding: raw", "encoding: gzip"), &bomb);
    refused(&folder.put("bomb.nrrd", &bytes));
}

#[test]
fn nrrd_without_orientation_says_so() {
    let folder = Folder::new();
    let bare = "NRRD0001\ntype: short\ndimension: 3\nsizes: 4 3 2\nspacings: 0.7 0.8 1.5\n\
        endian: little\nencoding: raw\n";
    let scan = read(&folder.put("bare.nrrd", &nrrd(bare, &stored(false))));
    assert_eq!(scan.volume.orientation(), "LPS");
    assert!(
        scan.warnings.iter().any(|w| w.contains("LPS is assumed")),
        "{:?}",
        scan.warnings
    );
}

#[test]
fn npz_of_the_rad_chestct_author() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rad_chestct_fake.npz");
    let scan = read(&path);
    assert_eq!(scan.format, Format::Npz);
    assert_eq!(scan.volume.shape(), [10, 10, 10]);
    assert_eq!(scan.volume.orientation(), "IPL");
    assert!(
        scan.volume
            .spacing()
            .iter()
            .all(|mm| (mm - 0.8).abs() < 1e-12)
    );
    // The collection's arrays are already HU, but a setting has the last word.
    let scaled = ReadOptions {
        hu: HuSource::Table {
            slope: 2.0,
            intercept: 1.0,
        },
        ..ReadOptions::default()
    };
    let twice = read_ct(&path, &scaled).unwrap();
    assert_eq!(
        twice.volume.voxels,
        scan.volume.voxels.mapv(|v| 2.0 * v + 1.0)
    );
    // A flipped bit is found by the archive's CRC.
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    let folder = Folder::new();
    assert!(refused(&folder.put("bad.npz", &bytes)).contains("damaged"));
}

#[test]
fn nifti_pairs_keep_their_extensions_and_open_from_either_file() {
    let folder = Folder::new();
    let single = folder.0.path().join("whole.nii");
    write_nifti(
        &single,
        &Volume::new(expected().mapv(|v| v as i16), LPS_AFFINE),
    )
    .unwrap();
    let bytes = std::fs::read(&single).unwrap();
    let mut header = bytes[..348].to_vec();
    header[344..348].copy_from_slice(b"ni1\0");
    header[108..112].copy_from_slice(&0f32.to_le_bytes());
    header.extend_from_slice(&[1, 0, 0, 0]);
    header.extend_from_slice(&16i32.to_le_bytes());
    header.extend_from_slice(&6i32.to_le_bytes());
    header.extend_from_slice(b"comment\0");
    folder.put("plain.img", &bytes[352..]);
    folder.put("packed.img.gz", &gzip(&bytes[352..]));
    for (name, content) in [
        ("plain.hdr", header.clone()),
        ("packed.hdr.gz", gzip(&header)),
    ] {
        let path = folder.put(name, &content);
        assert_eq!(read(&path).volume.voxels, expected());
        let file = read_nifti(&path).unwrap();
        assert_eq!(file.extensions.len(), 1);
        assert_eq!(
            (file.extensions[0].code, &file.extensions[0].data[..]),
            (6, &b"comment"[..])
        );
    }
    for name in ["plain.img", "packed.img.gz"] {
        assert_eq!(
            read(&folder.0.path().join(name)).volume.voxels,
            expected(),
            "{name}"
        );
    }
    std::fs::remove_file(folder.0.path().join("plain.img")).unwrap();
    assert!(refused(&folder.0.path().join("plain.hdr")).contains("image file"));
}

#[test]
fn masks_come_in_every_format() {
    let folder = Folder::new();
    let labels = Array3::from_shape_fn(SHAPE, |(x, _, _)| x as u8 * 10);
    let bytes: Vec<u8> = labels.t().iter().copied().collect();
    let mha = MHD
        .replace("a.raw", "LOCAL")
        .replace("MET_SHORT", "MET_UCHAR");
    let mha = folder.put("m.mha", &[mha.as_bytes(), &bytes].concat());
    let nrrd_header = NRRD
        .replace("type: short", "type: uchar")
        .replace("endian: little\n", "");
    let nrrd = folder.put("m.nrrd", &nrrd(&nrrd_header, &bytes));
    let nii = folder.0.path().join("m.nii.gz");
    write_nifti(&nii, &Volume::new(labels.clone(), LPS_AFFINE)).unwrap();
    for path in [&mha, &nrrd, &nii] {
        assert_eq!(read_mask(path).unwrap().voxels, labels);
    }
    let mapped = read_mask_with(&nii, &Labels::Mapped(vec![(10, 7), (30, 8)])).unwrap();
    assert_eq!(
        mapped.voxels,
        labels.mapv(|v| [0, 7, 0, 8][usize::from(v) / 10])
    );
}

#[test]
fn a_label_table_of_version_1_is_refused_unless_mapped() {
    let folder = Folder::new();
    let nii = folder.0.path().join("m.nii");
    write_nifti(
        &nii,
        &Volume::new(Array3::from_elem(SHAPE, 13u8), LPS_AFFINE),
    )
    .unwrap();
    let bytes = std::fs::read(&nii).unwrap();
    let with_table = |number: u32| {
        let table = format!(
            "<CaretExtension><LabelTable><Label Key=\"{number}\" Red=\"0\">\
             <![CDATA[lung_upper_lobe_left]]></Label></LabelTable></CaretExtension>"
        );
        let size = (8 + table.len()).next_multiple_of(16);
        let mut out = bytes[..348].to_vec();
        out[108..112].copy_from_slice(&(352.0 + size as f32).to_le_bytes());
        out.extend_from_slice(&[1, 0, 0, 0]);
        out.extend_from_slice(&(size as i32).to_le_bytes());
        out.extend_from_slice(&0i32.to_le_bytes());
        out.extend_from_slice(table.as_bytes());
        out.resize(352 + size, 0);
        out.extend_from_slice(&bytes[352..]);
        folder.put("table.nii", &out)
    };
    let two = with_table(10);
    assert!(read_mask(&two).is_ok());
    let one = with_table(13);
    let error = read_mask(&one).unwrap_err().to_string();
    assert!(
        error.contains("version 2") && error.contains("table.nii"),
        "{error}"
    );
    let mapped = read_mask_with(&one, &Labels::Mapped(vec![(13, 10)])).unwrap();
    assert!(mapped.voxels.iter().all(|&v| v == 10));
}

#[test]
fn a_folder_of_binary_masks_becomes_one_label_map() {
    let folder = Folder::new();
    let put = |name: &str, at: usize, affine: Affine| {
        let mut voxels = Array3::zeros(SHAPE);
        voxels.index_axis_mut(ndarray::Axis(0), at).fill(1u8);
        write_nifti(folder.0.path().join(name), &Volume::new(voxels, affine)).unwrap();
    };
    put("heart.nii.gz", 0, LPS_AFFINE);
    put("aorta.nii.gz", 2, LPS_AFFINE);
    put("unknown.nii.gz", 1, LPS_AFFINE);
    let classes = [("heart", 51), ("aorta", 52), ("trachea", 16)];
    std::fs::write(folder.0.path().join("statistics.json"), "{}").unwrap();
    let mask = read_mask_folder(folder.0.path(), &classes).unwrap();
    let expected = Array3::from_shape_fn(SHAPE, |(x, _, _)| [51, 0, 52, 0][x]);
    assert_eq!(mask.volume.voxels, expected);
    let [warning] = &mask.warnings[..] else {
        panic!("{:?}", mask.warnings);
    };
    assert!(warning.ends_with("left out: unknown"), "{warning}");
    assert_eq!(read_organs(folder.0.path(), &classes).unwrap(), mask);
    let error = read_mask_folder(folder.0.path(), &[("liver", 5)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("aorta, heart, unknown"), "{error}");
    put("aorta.nii.gz", 2, Affine::IDENTITY);
    let error = read_mask_folder(folder.0.path(), &classes)
        .unwrap_err()
        .to_string();
    assert!(error.contains("masks of one folder"), "{error}");
}

#[test]
fn what_is_nothing_is_refused_by_its_content() {
    let folder = Folder::new();
    for (name, bytes) in [
        ("empty.nii", b"".as_slice()),
        ("text.nii.gz", b"not a scan at all, really"),
        ("short.nrrd", b"NRR"),
    ] {
        let error = refused(&folder.put(name, bytes));
        assert!(error.contains("content"), "{error}");
    }
    assert!(refused(&folder.put("only.gz", &gzip(b"not a scan"))).contains("sizeof_hdr"));
}
