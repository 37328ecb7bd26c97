//! Standardisation on a drawn thorax whose numbers are known.

use ndarray::Array3;
use uniferum_ct::prep::{LungSource, StandardiseConfig, standardise};
use uniferum_ct::resample::Interpolation;
use uniferum_ct::{Affine, Volume};

const LUNG_Z: [f64; 2] = [-60.0, 84.0];

/// An elliptic body with two lungs, a table and an arm, at voxel centres in RAS+ mm.
fn tissue(p: [f64; 3]) -> (f32, u8) {
    let [x, y, z] = p;
    let ellipse = |cx: f64, cy: f64, rx: f64, ry: f64| {
        ((x - cx) / rx).powi(2) + ((y - cy) / ry).powi(2) < 1.0
    };
    for (side, label) in [(-1.0, 10u8), (1.0, 12u8)] {
        if ellipse(20.0 + side * 70.0, 10.0, 50.0, 75.0) && (LUNG_Z[0]..=LUNG_Z[1]).contains(&z) {
            return (-850.0, label);
        }
    }
    if ellipse(20.0, 10.0, 160.0, 110.0) {
        return (40.0, 0);
    }
    // A table of plastic below, an arm beside: neither is part of the body's component.
    let table = (-130.0..-124.0).contains(&y) && x.abs() < 190.0;
    let arm = ellipse(205.0, 0.0, 15.0, 25.0) && z > 40.0;
    (if table || arm { 90.0 } else { -1000.0 }, 0)
}

fn scan(affine: Affine, shape: [usize; 3]) -> (Volume<f32>, Volume<u8>) {
    let at =
        |(i, j, k): (usize, usize, usize)| tissue(affine.apply([i as f64, j as f64, k as f64]));
    let image = Array3::from_shape_fn(shape, |i| at(i).0);
    let mask = Array3::from_shape_fn(shape, |i| at(i).1);
    (Volume::new(image, affine), Volume::new(mask, affine))
}

/// 4x4x3 mm, LPS, 440 x 340 x 240 mm.
fn lps() -> (Volume<f32>, Volume<u8>) {
    let affine = Affine::from_spacing([4.0, 4.0, 3.0], [-1.0, -1.0, 1.0], [220.0, 170.0, -120.0]);
    scan(affine, [110, 85, 80])
}

fn four_mm() -> StandardiseConfig {
    StandardiseConfig {
        spacing_mm: [4.0; 3],
        size: Some([104, 84, 64]),
        ..StandardiseConfig::default()
    }
}

#[test]
fn the_body_is_centred_and_the_lungs_set_the_z_range() {
    let (image, mask) = lps();
    let done = standardise(&image, Some(&mask), &four_mm()).unwrap();
    let report = &done.report;
    assert_eq!(done.volume.shape(), [104, 84, 64]);
    assert_eq!(done.volume.orientation(), "RAS");
    assert!(
        (report.centre_mm[0] - 20.0).abs() < 0.5,
        "{:?}",
        report.centre_mm
    );
    assert!(
        (report.centre_mm[1] - 10.0).abs() < 0.5,
        "{:?}",
        report.centre_mm
    );
    let lungs = report.lung_range.unwrap();
    assert_eq!(
        (lungs.first, lungs.last, lungs.source),
        (20, 68, LungSource::Mask)
    );
    // 5 mm are one whole slice of 3 mm on each side.
    assert_eq!(report.crop_box[2], [19, 70]);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    // The middle of the grid is the centre; what lies beyond the kept slices is air.
    let middle = done.volume.affine.apply([51.5, 41.5, 31.5]);
    for a in 0..3 {
        assert!((middle[a] - report.centre_mm[a]).abs() < 1e-9);
    }
    for (k, hu) in [
        (0, -1000),
        (11, -1000),
        (14, 40),
        (50, 40),
        (52, -1000),
        (63, -1000),
    ] {
        assert_eq!(done.volume.voxels[[52, 42, k]], hu, "plane {k}");
    }
    let lung = done.mask.unwrap();
    assert_eq!(lung.affine, done.volume.affine);
    for ((i, j, k), &label) in lung.voxels.indexed_iter() {
        let hu = done.volume.voxels[[i, j, k]];
        assert!(label == 0 || hu < 100, "label {label} on {hu} HU");
    }
}

#[test]
fn the_orientation_of_the_file_does_not_matter() {
    let (image, mask) = lps();
    let expected = standardise(&image, Some(&mask), &four_mm()).unwrap();
    let flip_z = Affine::from_spacing([4.0, 4.0, 3.0], [1.0, -1.0, -1.0], [-216.0, 170.0, 117.0]);
    let ipl = Affine([
        [0.0, 0.0, -4.0, 220.0],
        [0.0, -4.0, 0.0, 170.0],
        [-3.0, 0.0, 0.0, 117.0],
        [0.0, 0.0, 0.0, 1.0],
    ]);
    for (affine, shape) in [(flip_z, [110, 85, 80]), (ipl, [80, 85, 110])] {
        let (image, mask) = scan(affine, shape);
        let found = standardise(&image, Some(&mask), &four_mm()).unwrap();
        assert_eq!(
            found.volume.voxels,
            expected.volume.voxels,
            "{}",
            image.orientation()
        );
        assert_eq!(
            found.mask.unwrap().voxels,
            expected.mask.as_ref().unwrap().voxels
        );
        assert_eq!(found.report.crop_box, expected.report.crop_box);
    }
}

#[test]
fn lungs_are_estimated_on_request() {
    let (image, mask) = lps();
    let with_mask = standardise(&image, Some(&mask), &four_mm()).unwrap();
    let config = StandardiseConfig {
        estimate_lungs: true,
        ..four_mm()
    };
    let estimated = standardise(&image, None, &config).unwrap();
    let (a, b) = (
        with_mask.report.lung_range.unwrap(),
        estimated.report.lung_range.unwrap(),
    );
    assert_eq!(
        (a.first, a.last, b.source),
        (b.first, b.last, LungSource::Estimate)
    );
    assert_eq!(estimated.volume, with_mask.volume);
    let neither = standardise(&image, None, &four_mm()).unwrap();
    assert_eq!(neither.report.lung_range, None);
    assert_eq!(neither.report.crop_box[2], [0, 80]);
    assert!(neither.report.warnings[0].contains("lungs unknown"));
}

#[test]
fn without_a_size_the_box_is_what_the_body_needs() {
    let (image, mask) = lps();
    let config = StandardiseConfig {
        size: None,
        ..four_mm()
    };
    let done = standardise(&image, Some(&mask), &config).unwrap();
    let [nx, ny, nz] = done.volume.shape();
    assert!(
        (79..=81).contains(&nx) && (54..=56).contains(&ny),
        "{nx} {ny}"
    );
    assert_eq!(nz, 38); // 51 slices of 3 mm
    assert_eq!(done.report.crop_box[2], [19, 70]);
}

#[test]
fn every_interpolation_keeps_the_scale() {
    let (image, mask) = lps();
    for interpolation in [
        Interpolation::Nearest,
        Interpolation::Linear,
        Interpolation::Cubic,
    ] {
        let config = StandardiseConfig {
            interpolation,
            ..four_mm()
        };
        let done = standardise(&image, Some(&mask), &config).unwrap();
        let v = &done.volume.voxels;
        assert_eq!(
            (v[[52, 42, 30]], v[[34, 42, 30]], v[[0, 0, 30]]),
            (40, -850, -1000)
        );
        let mean = v.iter().map(|&hu| f64::from(hu)).sum::<f64>() / v.len() as f64;
        assert!(
            (-830.0..-820.0).contains(&mean),
            "{interpolation:?}: {mean}"
        );
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_a_reason() {
    let (image, mask) = lps();
    let message = |r: uniferum_ct::Result<_>| -> String {
        let _: &Result<uniferum_ct::prep::Standardised, _> = &r;
        r.unwrap_err().to_string()
    };
    let air = Volume::new(Array3::from_elem((9, 9, 9), -1000.0), Affine::IDENTITY);
    assert!(message(standardise(&air, None, &four_mm())).contains("soft tissue"));
    let empty = Volume::new(Array3::zeros((0, 4, 4)), Affine::IDENTITY);
    assert!(message(standardise(&empty, None, &four_mm())).contains("soft tissue"));
    let mut moved = mask.clone();
    moved.affine.0[0][3] += 30.0;
    assert!(message(standardise(&image, Some(&moved), &four_mm())).contains("mask"));
    for config in [
        StandardiseConfig {
            spacing_mm: [0.0, 1.0, 1.0],
            ..four_mm()
        },
        StandardiseConfig {
            size: Some([0, 1, 1]),
            ..four_mm()
        },
        StandardiseConfig {
            clip_hu: [5, 5],
            ..four_mm()
        },
        StandardiseConfig {
            lung_margin_mm: f64::NAN,
            ..four_mm()
        },
    ] {
        assert!(message(standardise(&image, None, &config)).starts_with("configuration: "));
    }
    assert!(serde_json::from_str::<StandardiseConfig>(r#"{"sizes": null}"#).is_err());
}

#[test]
fn voxels_that_are_no_numbers_become_air() {
    let (mut image, mask) = lps();
    image.voxels[[2, 2, 40]] = f32::NAN;
    image.voxels[[4, 4, 40]] = f32::INFINITY;
    let done = standardise(&image, Some(&mask), &four_mm()).unwrap();
    assert!(
        done.volume
            .voxels
            .iter()
            .all(|hu| (-1000..=1000).contains(hu))
    );
}

/// A gantry tilted by 18 degrees: the table moves along S, the rows' normal does not.
fn tilted() -> (Volume<f32>, Volume<u8>) {
    let (sin, cos) = 18f64.to_radians().sin_cos();
    let affine = Affine([
        [-4.0, 0.0, 0.0, 220.0],
        [0.0, -4.0 * cos, 0.0, 170.0],
        [0.0, 4.0 * sin, 3.0, -180.0],
        [0.0, 0.0, 0.0, 1.0],
    ]);
    scan(affine, [110, 90, 110])
}

#[test]
fn a_tilted_gantry_comes_out_upright() {
    let (image, mask) = tilted();
    let config = StandardiseConfig {
        spacing_mm: [2.0; 3],
        size: Some([208, 168, 100]),
        ..StandardiseConfig::default()
    };
    let done = standardise(&image, Some(&mask), &config).unwrap();
    let affine = done.volume.affine;
    assert!(affine.shear() < 1e-12 && affine.obliqueness_degrees() < 1e-6);
    let warning = &done.report.warnings[0];
    assert!(warning.contains("sheared by 18.0 degrees"), "{warning}");
    let labels = done.mask.unwrap();
    let (mut same, mut same_label, mut count, mut lungs) = (0.0, 0.0, 0.0, [0.0; 4]);
    for ((i, j, k), &hu) in done.volume.voxels.indexed_iter() {
        let p = affine.apply([i as f64, j as f64, k as f64]);
        // The lungs and the margin, where the scan shows the whole body.
        if !(-62.0..=86.0).contains(&p[2]) || (p[1] + 127.0).abs() < 12.0 {
            continue;
        }
        let (expected, label) = tissue(p);
        let found = labels.voxels[[i, j, k]];
        count += 1.0;
        same += f64::from(u8::from((f32::from(hu) - expected).abs() < 200.0));
        same_label += f64::from(u8::from(found == label));
        if found > 0 {
            lungs[3] += 1.0;
            (0..3).for_each(|a| lungs[a] += p[a]);
        }
    }
    // What differs lies within a voxel of 4 mm of the edges; unmoved it would be a quarter of the lungs.
    assert!(same / count > 0.96, "{}", same / count);
    assert!(same_label / count > 0.985, "{}", same_label / count);
    let centre = [0, 1, 2].map(|a| lungs[a] / lungs[3]);
    for (found, expected) in centre.into_iter().zip([20.0, 10.0, 12.0]) {
        assert!((found - expected).abs() < 0.7, "{centre:?}");
    }
}
