//! Standardisation by the paper's text.

use ndarray::ArrayView3;

use super::components::{Connectivity, RunMask};
use super::config::{Compat, StandardiseConfig, check_size};
use super::hull::SliceHulls;
use super::lungs::{LungRange, LungSource, estimate_lung_slices, lung_slices};
use super::report::{StandardiseReport, Standardised};
use super::view::ras;
use crate::resample::{AxisOperator, Interpolation, pick, resample};
use crate::{Affine, Error, Result, Volume};

pub(super) fn standardise(
    scan: &Volume<f32>,
    mask: Option<&Volume<u8>>,
    others: &[&Volume<u8>],
    config: &StandardiseConfig,
) -> Result<(Standardised, Vec<Volume<u8>>)> {
    let (voxels, affine) = ras(scan);
    let mask = mask.map(|mask| ras(mask).0);
    let mut warnings = Vec::new();
    let tilt = scan.affine.obliqueness_degrees();
    if tilt > 5.0 {
        warnings.push(format!(
            "axes are {tilt:.1} degrees off the patient's and were kept"
        ));
    }
    let found = find(
        voxels.view(),
        mask.as_ref().map(|m| m.view()),
        &affine,
        config,
        &mut warnings,
    )?;
    let grid = Grid::about(&found, &affine, config, &mut warnings);
    check_size(grid.0.map(|a| a.len as f64))?;
    let output_affine = affine.subgrid(grid.0.map(|a| a.origin), grid.0.map(|a| a.step));
    let volume = Volume::new(grid.image(voxels.view(), config), output_affine);
    let mask = mask.map(|mask| Volume::new(grid.labels(mask.view()), output_affine));
    let others = others
        .iter()
        .map(|other| Volume::new(grid.labels(ras(other).0.view()), output_affine))
        .collect();
    let report = StandardiseReport {
        compat: Compat::Paper,
        input_orientation: scan.orientation(),
        input_shape: found.shape,
        input_spacing_mm: affine.spacing(),
        body_voxels: found.body_voxels,
        centre_voxel: found.centre,
        centre_mm: affine.apply(found.centre),
        lung_range: found.lungs,
        crop_box: grid.0.map(|a| a.shown()),
        output_shape: volume.shape(),
        warnings,
    };
    let done = Standardised {
        volume,
        mask,
        report,
    };
    Ok((done, others))
}

/// What the scan shows, in its own voxels.
struct Findings {
    shape: [usize; 3],
    body_voxels: u64,
    body_box: [[usize; 2]; 3],
    centre: [f64; 3],
    lungs: Option<LungRange>,
    /// Slices that are kept, `[first, past the last]`.
    slices: [usize; 2],
}

fn find(
    voxels: ArrayView3<'_, f32>,
    mask: Option<ArrayView3<'_, u8>>,
    affine: &Affine,
    config: &StandardiseConfig,
    warnings: &mut Vec<String>,
) -> Result<Findings> {
    let shape: [usize; 3] = voxels.dim().into();
    let [low, high] = config.body_hu;
    let body = RunMask::from_view(voxels, |hu| hu >= low && hu <= high)
        .largest_component(Connectivity::Corners)
        .ok_or_else(|| {
            let expected = format!("voxels of {low} to {high} HU");
            Error::volume("soft tissue", expected, "none")
        })?;
    let hulls = SliceHulls::of(&body);
    let body_box = body.bounding_box().unwrap_or_default();
    let lungs = find_lungs(voxels, mask, &hulls, affine, config, warnings);
    let slices = match lungs {
        Some(lungs) => {
            let margin = (config.lung_margin_mm / affine.spacing()[2] + 1e-6).floor() as usize;
            [
                lungs.first.saturating_sub(margin),
                (lungs.last + margin + 1).min(shape[2]),
            ]
        }
        None => body_box[2],
    };
    // The body is not empty, hence neither are its hulls.
    let [x, y] = hulls.centre().unwrap_or_default();
    let z = (slices[0] + slices[1] - 1) as f64 / 2.0;
    Ok(Findings {
        shape,
        body_voxels: body.voxels(),
        body_box,
        centre: [x, y, z],
        lungs,
        slices,
    })
}

fn find_lungs(
    voxels: ArrayView3<'_, f32>,
    mask: Option<ArrayView3<'_, u8>>,
    hulls: &SliceHulls,
    affine: &Affine,
    config: &StandardiseConfig,
    warnings: &mut Vec<String>,
) -> Option<LungRange> {
    let masked = mask.and_then(lung_slices).map(|s| (s, LungSource::Mask));
    if masked.is_none() && mask.is_some() {
        warnings.push("the mask has no lung lobe (labels 10 to 14)".to_owned());
    }
    let found = masked.or_else(|| {
        if !config.estimate_lungs {
            return None;
        }
        let slices = estimate_lung_slices(voxels, hulls, affine.spacing());
        if slices.is_none() {
            warnings.push("no lungs were found in the body".to_owned());
        }
        slices.map(|s| (s, LungSource::Estimate))
    });
    let Some(([first, last], source)) = found else {
        warnings.push("lungs unknown: the whole z range of the body was kept".to_owned());
        return None;
    };
    let past = voxels.shape()[2];
    if first == 0 || last + 1 == past {
        warnings.push("the lungs reach the first or last slice: the scan may cut them".to_owned());
    }
    Some(LungRange {
        first,
        last,
        source,
    })
}

/// One axis of the output grid in voxels of the scan.
#[derive(Clone, Copy)]
struct GridAxis {
    /// Position of the first output voxel.
    origin: f64,
    /// Distance between output voxels.
    step: f64,
    /// Output voxels.
    len: usize,
    /// Voxels of the scan that may be used, `[first, past the last]`.
    keep: [usize; 2],
    /// Voxels of the scan.
    input_len: usize,
}

impl GridAxis {
    fn about(centre: f64, step: f64, len: usize, keep: [usize; 2], input_len: usize) -> Self {
        let origin = centre - (len as f64 - 1.0) / 2.0 * step;
        Self {
            origin,
            step,
            len,
            keep,
            input_len,
        }
    }

    fn operator(&self, interpolation: Interpolation, antialias: bool) -> AxisOperator {
        let [first, past] = self.keep;
        let origin = self.origin - first as f64;
        AxisOperator::sampling(
            past - first,
            self.len,
            origin,
            self.step,
            interpolation,
            antialias,
        )
        .embedded(first, self.input_len)
    }

    /// Voxels of the scan whose centres the output covers.
    fn shown(&self) -> [usize; 2] {
        let first = (self.origin - self.step / 2.0)
            .ceil()
            .max(self.keep[0] as f64);
        let past = (self.origin + (self.len as f64 - 0.5) * self.step).ceil();
        let past = past.clamp(first, self.keep[1].max(first as usize) as f64);
        [first as usize, past as usize]
    }
}

struct Grid([GridAxis; 3]);

impl Grid {
    fn about(
        found: &Findings,
        affine: &Affine,
        config: &StandardiseConfig,
        warnings: &mut Vec<String>,
    ) -> Self {
        let spacing = affine.spacing();
        Self(std::array::from_fn(|a| {
            let step = config.spacing_mm[a] / spacing[a];
            let n = found.shape[a];
            let wanted = if a == 2 {
                found.slices
            } else {
                found.body_box[a]
            };
            match config.size {
                Some(size) => {
                    let keep = if a == 2 { found.slices } else { [0, n] };
                    let axis = GridAxis::about(found.centre[a], step, size[a], keep, n);
                    let [first, past] = axis.shown();
                    let lost = (first.saturating_sub(wanted[0]) + wanted[1].saturating_sub(past))
                        as f64
                        * spacing[a];
                    if lost >= 1.0 {
                        let what = ["body in x", "body in y", "kept slices in z"][a];
                        warnings.push(format!("{lost:.0} mm of the {what} do not fit"));
                    }
                    axis
                }
                None => {
                    // As much to each side of the centre as the wider side of the body needs.
                    let centre = found.centre[a];
                    let reach =
                        (centre - wanted[0] as f64 + 0.5).max(wanted[1] as f64 - 0.5 - centre);
                    let first = (centre - reach + 0.5).round().max(0.0);
                    let past = (centre + reach + 0.5).round().min(n as f64);
                    let len = ((past - first) / step).round().max(1.0) as usize;
                    let middle = (first + past - 1.0) / 2.0;
                    GridAxis::about(middle, step, len, [first as usize, past as usize], n)
                }
            }
        }))
    }

    fn image(
        &self,
        voxels: ArrayView3<'_, f32>,
        config: &StandardiseConfig,
    ) -> ndarray::Array3<i16> {
        let ops = self
            .0
            .map(|a| a.operator(config.interpolation, config.antialias));
        let [low, high] = config.clip_hu.map(f32::from);
        let range = high - low;
        let air = i32::from(config.clip_hu[0]);
        resample(
            voxels,
            [&ops[0], &ops[1], &ops[2]],
            // `max` first: what is not a number becomes air.
            move |hu| hu.max(low).min(high) - low,
            move |v| ((v.max(0.0).min(range) + 0.5) as i32 + air) as i16,
        )
    }

    fn labels(&self, mask: ArrayView3<'_, u8>) -> ndarray::Array3<u8> {
        let ops = self.0.map(|a| a.operator(Interpolation::Nearest, false));
        pick(mask, [&ops[0], &ops[1], &ops[2]], 0, |label| label)
    }
}
