//! NIfTI against itself, against the `nifti` crate, and against files with known answers.

use ndarray::{Array3, ShapeBuilder};
use nifti::{IntoNdArray, NiftiObject, NiftiVolume, ReaderOptions};
use uniferum_ct::{
    Affine, HuCheck, HuSource, ReadOptions, Volume, read_ct, read_mask, write_nifti,
};

fn sample() -> Volume<i16> {
    let voxels = Array3::from_shape_fn((5, 4, 3), |(i, j, k)| (i + 10 * j + 500 * k) as i16 - 1000);
    let affine = Affine([
        [-0.7, 0.05, 0.0, 12.5],
        [-0.05, -0.7, 0.0, -3.0],
        [0.0, 0.0, 1.25, 44.0],
        [0.0, 0.0, 0.0, 1.0],
    ]);
    Volume::new(voxels, affine)
}

fn close(a: &Affine, b: &Affine) -> bool {
    a.0.iter()
        .flatten()
        .zip(b.0.iter().flatten())
        .all(|(x, y)| (x - y).abs() < 1e-5)
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.nii", "a.nii.gz", "1.2.840.nii", "1.2.840.NII.GZ"] {
        let path = folder.path().join(name);
        let volume = sample();
        write_nifti(&path, &volume).unwrap();
        let scan = read_ct(&path, &ReadOptions::default()).unwrap();
        assert_eq!(scan.volume.voxels, volume.voxels.mapv(f32::from));
        assert!(close(&scan.volume.affine, &volume.affine));
        assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
    }
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 4, "temporary files stay behind");
    for name in ["noend", "a.mha", "a.gz"] {
        let error = write_nifti(folder.path().join(name), &sample()).unwrap_err();
        assert!(error.to_string().contains("ends in .nii"), "{error}");
    }
}

/// What a file says of its units counts where its numbers agree.
#[test]
fn metres_and_micrometres_become_millimetres() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    let written = |scale: f64, unit: u8| {
        let mut volume = sample();
        let rows = volume.affine.0.iter_mut().take(3);
        rows.flatten().for_each(|cell| *cell *= scale);
        write_nifti(&path, &volume).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[123] = unit;
        std::fs::write(&path, bytes).unwrap();
        let scan = read_ct(&path, &ReadOptions::default()).unwrap();
        (scan.volume.affine, scan.warnings)
    };
    for (scale, unit) in [(1e-3, 1), (1e3, 3)] {
        let (affine, warnings) = written(scale, unit);
        let spacing = affine.spacing().into_iter().zip(sample().affine.spacing());
        for (got, expected) in spacing {
            assert!((got / expected - 1.0).abs() < 1e-5, "{got} {expected}");
        }
        assert!(
            warnings[0].contains("changed to millimetres"),
            "{warnings:?}"
        );
    }
    // Numbers that can only be millimetres are.
    let (affine, warnings) = written(1.0, 1);
    assert!(close(&affine, &sample().affine));
    assert!(warnings[0].contains("are assumed"), "{warnings:?}");
}

#[test]
fn sizes_of_voxels_that_contradict_the_affine_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    write_nifti(&path, &sample()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The third of pixdim's sizes; the quaternion, which has none of its own, is switched off.
    bytes[88..92].copy_from_slice(&5.0f32.to_le_bytes());
    bytes[252..254].copy_from_slice(&0i16.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let scan = read_ct(&path, &ReadOptions::default()).unwrap();
    assert!(close(&scan.volume.affine, &sample().affine));
    assert!(
        scan.warnings[0].contains("pixdim says"),
        "{:?}",
        scan.warnings
    );
}

#[test]
fn the_nifti_crate_reads_what_we_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    write_nifti(&path, &sample()).unwrap();
    let object = ReaderOptions::new().read_file(&path).unwrap();
    assert_eq!(object.header().pixdim[3], 1.25);
    assert_eq!(object.volume().dim(), [5, 4, 3]);
    let array = object.into_volume().into_ndarray::<i16>().unwrap();
    assert_eq!(
        array.into_dimensionality::<ndarray::Ix3>().unwrap(),
        sample().voxels
    );
}

/// As of tapes and of some archivers, which fill up their last block.
#[test]
fn zeros_after_a_compressed_file_are_padding_and_other_bytes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    write_nifti(&path, &sample()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let followed = |tail: &[u8]| {
        std::fs::write(&path, [&whole[..], tail].concat()).unwrap();
        read_ct(&path, &ReadOptions::default())
    };
    for zeros in [1, 512, 1 << 20] {
        let scan = followed(&vec![0; zeros]).unwrap();
        assert_eq!(scan.volume.voxels, sample().voxels.mapv(f32::from));
        assert!(scan.warnings.is_empty(), "{:?}", scan.warnings);
    }
    for tail in [&b"garbage"[..], &[0, 0, 0, 7]] {
        let error = followed(tail).unwrap_err().to_string();
        assert!(error.contains("follows the last member"), "{error}");
    }
}

#[test]
fn a_fortran_array_is_written_by_index_not_by_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f.nii");
    let mut volume = sample();
    let mut fortran = Array3::zeros((5, 4, 3).f());
    fortran.assign(&volume.voxels);
    volume.voxels = fortran;
    write_nifti(&path, &volume).unwrap();
    let scan = read_ct(&path, &ReadOptions::default()).unwrap();
    assert_eq!(scan.volume.voxels, sample().voxels.mapv(f32::from));
}

#[test]
fn the_source_of_hounsfield_units_is_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    write_nifti(&path, &sample()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[112..116].copy_from_slice(&2f32.to_le_bytes());
    bytes[116..120].copy_from_slice(&(-1024f32).to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let first = |hu| {
        read_ct(
            &path,
            &ReadOptions {
                hu,
                hu_check: HuCheck::Off,
                ..ReadOptions::default()
            },
        )
        .unwrap()
        .volume
        .voxels[[0, 0, 0]]
    };
    assert_eq!(first(HuSource::Header), -1000.0 * 2.0 - 1024.0);
    assert_eq!(first(HuSource::AlreadyHu), -1000.0);
    assert_eq!(
        first(HuSource::Table {
            slope: 1.0,
            intercept: -8.0
        }),
        -1008.0
    );
}

#[test]
fn labels_must_be_whole_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.nii.gz");
    write_nifti(
        &path,
        &Volume::new(Array3::from_elem((2, 2, 2), 117u8), Affine::IDENTITY),
    )
    .unwrap();
    assert!(read_mask(&path).unwrap().voxels.iter().all(|&v| v == 117));
    write_nifti(&path, &sample()).unwrap();
    let error = read_mask(&path).unwrap_err().to_string();
    assert!(error.contains("label map"), "{error}");
}

#[test]
fn lies_in_the_header_are_found_before_memory_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    write_nifti(&path, &sample()).unwrap();
    let good = std::fs::read(&path).unwrap();
    let spoil = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, bad).unwrap();
        read_ct(&path, &ReadOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert!(spoil(42, &32767i16.to_le_bytes()).contains("needs"));
    assert!(spoil(42, &(-3i16).to_le_bytes()).contains("dim[1]"));
    assert!(spoil(40, &0i16.to_le_bytes()).contains("dim[0]"));
    assert!(spoil(70, &128i16.to_le_bytes()).contains("RGB"));
    assert!(spoil(72, &8i16.to_le_bytes()).contains("bitpix"));
    assert!(spoil(344, b"xxx\0").contains("magic"));
    assert!(spoil(280, &f32::NAN.to_le_bytes()).contains("affine"));
    assert!(spoil(0, &7i32.to_le_bytes()).contains("content"));
}

#[test]
fn single_slices_and_long_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    for shape in [(5, 4, 1), (5, 1, 1), (1, 4, 3)] {
        let voxels = Array3::from_shape_fn(shape, |(i, j, k)| (i + 10 * j + 500 * k) as i16 - 1000);
        let volume = Volume::new(voxels, Affine::IDENTITY);
        write_nifti(&path, &volume).unwrap();
        let scan = read_ct(&path, &ReadOptions::default()).unwrap();
        assert_eq!(scan.volume.voxels, volume.voxels.mapv(f32::from));
    }
    let long = Volume::new(Array3::from_elem((40_000, 1, 1), 0u8), Affine::IDENTITY);
    let error = write_nifti(&path, &long).unwrap_err().to_string();
    assert!(
        error.contains("32767") && error.contains("40000"),
        "{error}"
    );
}
