//! Standardisation as the paper's public release does it, voxel for voxel.
//!
//! What differs from the paper: every voxel from about -148.4 HU up is body; the crop is a box about
//! the rounded centroid of the largest component, on all three axes of the *file*; with a mask it
//! goes from the first lung slice up to, without, the last, no margin; the cubic spline is clipped to
//! the range of the crop, cut to an integer (towards 0) and clipped again; what lies past the last voxel is
//! 0 HU; only then are the axes turned to RAS.

use ndarray::{Array3, ArrayView3, Slice};

use super::components::{Connectivity, RunMask};
use super::config::{Compat, StandardiseConfig, check_size};
use super::lungs::{LungRange, LungSource, lung_slices};
use super::report::{StandardiseReport, Standardised};
use super::view::to_size;
use crate::resample::CubicSpline;
use crate::{Affine, Error, Result, Volume};

/// HU that the release's soft-tissue window maps to 1 of 255; its body mask starts there.
fn body_from_hu() -> f64 {
    -150.0 + 400.0 / 255.0
}

pub(super) fn standardise(
    scan: &Volume<f32>,
    mask: Option<&Volume<u8>>,
    others: &[&Volume<u8>],
    config: &StandardiseConfig,
) -> Result<(Standardised, Vec<Volume<u8>>)> {
    let mut warnings = Vec::new();
    let body = body_of(scan)?;
    let mut crop = crop_box(&body);
    let lungs = mask.map(|mask| lung_slices(mask.voxels.view()));
    match lungs {
        Some(Some([first, last])) => {
            crop[2] = [crop[2][0].max(first), crop[2][1].min(last)];
            if crop[2][0] >= crop[2][1] {
                let expected = "at least two that the body box holds";
                let got = format!("{first} to {last}");
                return Err(Error::volume("lung slices", expected, got));
            }
        }
        Some(None) => {
            let expected = "a lung lobe (labels 10 to 14), as the release asks for";
            return Err(Error::volume("mask", expected, "none"));
        }
        None => warnings.push("lungs unknown: the whole z range of the body was kept".to_owned()),
    }
    if scan
        .orientation()
        .chars()
        .last()
        .is_none_or(|axis| axis != 'S' && axis != 'I')
    {
        warnings
            .push("the last array axis is not z: the release would cut lungs across it".to_owned());
    }
    let grid = Grid::of(scan, crop, config)?;
    let volume = Volume::new(grid.image(scan.voxels.view()), grid.affine).to_ras();
    let labels = |m: &Volume<u8>| Volume::new(grid.labels(m.voxels.view()), grid.affine).to_ras();
    let mask = mask.map(labels);
    let others: Vec<_> = others.iter().map(|m| labels(m)).collect();
    let report = report(scan, &body, crop, lungs.flatten(), volume.shape(), warnings);
    let (volume, mask, others) = match config.size {
        Some(size) => (
            to_size(volume, size, config.clip_hu[0]),
            mask.map(|m| to_size(m, size, 0)),
            others.into_iter().map(|m| to_size(m, size, 0)).collect(),
        ),
        None => (volume, mask, others),
    };
    let report = StandardiseReport {
        output_shape: volume.shape(),
        ..report
    };
    let done = Standardised {
        volume,
        mask,
        report,
    };
    Ok((done, others))
}

fn body_of(scan: &Volume<f32>) -> Result<RunMask> {
    let threshold = body_from_hu();
    RunMask::from_view(scan.voxels.view(), |hu| {
        // The release scales to 0..255 and cuts to whole numbers; this is that comparison.
        f64::from(hu) >= threshold
    })
    .largest_component(Connectivity::Corners)
    .ok_or_else(|| {
        let expected = format!("voxels from {threshold:.1} HU up");
        Error::volume("soft tissue", expected, "none")
    })
}

/// Box about the rounded centroid that holds the body, cut at the edge of the scan.
fn crop_box(body: &RunMask) -> [[usize; 2]; 3] {
    let bounds = body.bounding_box().unwrap_or_default();
    let centre = body.centroid().unwrap_or_default();
    std::array::from_fn(|a| {
        let c = centre[a].round_ties_even() as usize;
        // The centroid lies between the first and the last voxel.
        let reach = (c - bounds[a][0]).max(bounds[a][1] - c);
        [c.saturating_sub(reach), (c + reach).min(body.shape()[a])]
    })
}

/// The release's output grid on the cropped scan, in the file's axes.
struct Grid {
    crop: [[usize; 2]; 3],
    positions: [Vec<f64>; 3],
    affine: Affine,
}

impl Grid {
    /// The steps' rounding follows the release, which divides in single precision: where the scan's
    /// size is a whole number of steps, the last bit decides about one more plane.
    fn of(scan: &Volume<f32>, crop: [[usize; 2]; 3], config: &StandardiseConfig) -> Result<Self> {
        let spacing = scan.spacing();
        check_size(std::array::from_fn(|a| {
            (crop[a][1] - crop[a][0]) as f64 * spacing[a] / config.spacing_mm[a]
        }))?;
        let mut scale = [1.0; 3];
        let positions = std::array::from_fn(|a| {
            scale[a] = f64::from(config.spacing_mm[a] as f32 / spacing[a] as f32);
            let target = spacing[a] * scale[a];
            let last = (crop[a][1] - crop[a][0] - 1) as f64 * (1.0 / target * spacing[a]);
            let len = last.ceil() as usize + 1;
            let step = 1.0 / spacing[a] * target;
            (0..len).map(|k| k as f64 * step).collect()
        });
        let origin = crop.map(|range| range[0] as f64);
        Ok(Self {
            crop,
            positions,
            affine: scan.affine.subgrid(origin, scale),
        })
    }

    fn cropped<'a, T>(&self, voxels: ArrayView3<'a, T>) -> ArrayView3<'a, T> {
        let mut view = voxels;
        view.slice_each_axis_inplace(|axis| {
            let [first, past] = self.crop[axis.axis.index()];
            Slice::from(first..past)
        });
        view
    }

    fn image(&self, voxels: ArrayView3<'_, f32>) -> Array3<i16> {
        let values = self.cropped(voxels).mapv(f64::from);
        // The resampling clips to the range of the crop and 0 against ringing.
        let (low, high) = values
            .iter()
            .fold((0.0f64, 0.0f64), |(l, h), &v| (l.min(v), h.max(v)));
        CubicSpline::through(values).sample(&self.positions, 0, |v| {
            // The release keeps the spline's values in single precision.
            (v as f32 as f64).clamp(low, high).clamp(-1000.0, 1000.0) as i16
        })
    }

    fn labels(&self, mask: ArrayView3<'_, u8>) -> Array3<u8> {
        let mask = self.cropped(mask);
        let index: [Vec<Option<usize>>; 3] = std::array::from_fn(|a| {
            let last = mask.shape()[a] as f64 - 1.0;
            let pick = |at: &f64| (*at <= last).then(|| (at + 0.5).floor() as usize);
            self.positions[a].iter().map(pick).collect()
        });
        Array3::from_shape_fn(
            (index[0].len(), index[1].len(), index[2].len()),
            |(x, y, z)| match (index[0][x], index[1][y], index[2][z]) {
                (Some(x), Some(y), Some(z)) => mask[[x, y, z]],
                _ => 0,
            },
        )
    }
}

/// Puts what was found in the file's axes into RAS order.
fn report(
    scan: &Volume<f32>,
    body: &RunMask,
    crop: [[usize; 2]; 3],
    lungs: Option<[usize; 2]>,
    output_shape: [usize; 3],
    warnings: Vec<String>,
) -> StandardiseReport {
    let (shape, spacing) = (scan.shape(), scan.spacing());
    let mut report = StandardiseReport {
        compat: Compat::Release,
        input_orientation: scan.orientation(),
        input_shape: shape,
        input_spacing_mm: spacing,
        body_voxels: body.voxels(),
        centre_voxel: [0.0; 3],
        centre_mm: [0.0; 3],
        lung_range: None,
        crop_box: crop,
        output_shape,
        warnings,
    };
    let middle = crop.map(|[first, past]| (first + past - 1) as f64 / 2.0);
    report.centre_mm = scan.affine.apply(middle);
    for (axis, &(patient, sign)) in scan.affine.axes().iter().enumerate() {
        let n = shape[axis];
        let backwards = sign < 0.0;
        let [first, past] = crop[axis];
        report.input_shape[patient] = n;
        report.input_spacing_mm[patient] = spacing[axis];
        report.crop_box[patient] = if backwards {
            [n - past, n - first]
        } else {
            [first, past]
        };
        report.centre_voxel[patient] = if backwards {
            (n - 1) as f64 - middle[axis]
        } else {
            middle[axis]
        };
        if axis == 2 {
            report.lung_range = lungs.map(|[first, last]| {
                let (first, last) = if backwards {
                    (n - 1 - last, n - 1 - first)
                } else {
                    (first, last)
                };
                LungRange {
                    first,
                    last,
                    source: LungSource::Mask,
                }
            });
        }
    }
    report
}
