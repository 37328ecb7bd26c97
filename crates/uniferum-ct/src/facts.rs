//! What a person wants to know of a scan before trusting it.

use rayon::prelude::*;
use serde::Serialize;

use crate::{CtScan, Format, Volume};

/// Shape, place and grey values of a scan.
#[derive(Debug, Clone, Serialize)]
pub struct ScanFacts {
    /// The file format.
    pub format: Format,
    /// Voxels along the array axes.
    pub shape: [usize; 3],
    /// Distance of voxel centres along the array axes, mm.
    pub spacing_mm: [f64; 3],
    /// Extent along the array axes, mm.
    pub extent_mm: [f64; 3],
    /// Direction of increasing index, such as `LPS`.
    pub orientation: String,
    /// Largest angle between an array axis and the nearest patient axis, degrees.
    pub obliqueness_degrees: f64,
    /// Voxel indices to RAS+ mm.
    pub affine: [[f64; 4]; 4],
    /// The grey values.
    pub hu: HuStatistics,
    /// What looks odd.
    pub warnings: Vec<String>,
}

/// The grey values of a scan, HU.
#[derive(Debug, Clone, Serialize)]
pub struct HuStatistics {
    /// Smallest.
    pub min: f32,
    /// Largest.
    pub max: f32,
    /// Mean.
    pub mean: f64,
    /// 1st, 25th, 50th, 75th and 99th percentiles, to 1 HU, clamped to -4096..4095.
    pub percentiles: [i32; 5],
    /// The most frequent value below -500 (air or lung), if there are such voxels.
    pub air_peak: Option<i32>,
    /// The most frequent value from -200 to 300 (fat, muscle, blood), if there are such voxels.
    pub soft_tissue_peak: Option<i32>,
}

const LOW: i32 = -4096;
const BINS: usize = 8192;

impl ScanFacts {
    /// Measures a scan as it was read; its warnings, those about its grey values among them, are kept.
    pub fn of(scan: &CtScan) -> Self {
        let volume = &scan.volume;
        let hu = HuStatistics::of(volume);
        let mut warnings = scan.warnings.clone();
        warnings.extend(odd_geometry(volume));
        let (shape, spacing) = (volume.shape(), volume.spacing());
        ScanFacts {
            format: scan.format,
            shape,
            spacing_mm: spacing,
            extent_mm: std::array::from_fn(|a| shape[a] as f64 * spacing[a]),
            orientation: volume.orientation(),
            obliqueness_degrees: volume.affine.obliqueness_degrees(),
            affine: volume.affine.0,
            hu,
            warnings,
        }
    }
}

impl HuStatistics {
    /// Measures grey values; an empty volume gives zeros.
    pub fn of(volume: &Volume<f32>) -> Self {
        let planes: Vec<_> = volume.voxels.outer_iter().collect();
        let start = || (vec![0u64; BINS], f32::INFINITY, f32::NEG_INFINITY, 0.0f64);
        let (histogram, min, max, sum) = planes
            .into_par_iter()
            .fold(start, |(mut bins, mut min, mut max, mut sum), plane| {
                for &v in plane {
                    bins[(v.round() as i32)
                        .clamp(LOW, LOW + BINS as i32 - 1)
                        .abs_diff(LOW) as usize] += 1;
                    min = min.min(v);
                    max = max.max(v);
                    sum += f64::from(v);
                }
                (bins, min, max, sum)
            })
            .reduce(start, |mut a, b| {
                a.0.iter_mut().zip(&b.0).for_each(|(a, b)| *a += b);
                (a.0, a.1.min(b.1), a.2.max(b.2), a.3 + b.3)
            });
        let n = volume.voxels.len();
        let peak = |low: i32, high: i32| {
            let range = (low - LOW) as usize..(high - LOW) as usize;
            let best = range.max_by_key(|&bin| histogram[bin])?;
            (histogram[best] > 0).then_some(best as i32 + LOW)
        };
        HuStatistics {
            min: if n == 0 { 0.0 } else { min },
            max: if n == 0 { 0.0 } else { max },
            mean: if n == 0 { 0.0 } else { sum / n as f64 },
            percentiles: [0.01, 0.25, 0.5, 0.75, 0.99].map(|q| percentile(&histogram, n, q)),
            air_peak: peak(LOW, -500),
            soft_tissue_peak: peak(-200, 300),
        }
    }
}

fn percentile(histogram: &[u64], n: usize, q: f64) -> i32 {
    let rank = (q * n as f64) as u64;
    let mut below = 0;
    for (bin, &count) in histogram.iter().enumerate() {
        below += count;
        if below > rank {
            return bin as i32 + LOW;
        }
    }
    0
}

/// A warning for each axis whose spacing no chest CT has, as of files in metres.
pub(crate) fn unusual_spacing(volume: &Volume<f32>) -> Vec<String> {
    let odd = |(_, mm): &(usize, f64)| !(0.2..=10.0).contains(mm);
    let told = |(axis, mm): (usize, f64)| {
        format!("spacing of {mm:.3} mm along axis {axis} is unusual for a chest CT")
    };
    let all = volume.spacing().into_iter().enumerate();
    all.filter(odd).map(told).collect()
}

fn odd_geometry(volume: &Volume<f32>) -> Vec<String> {
    let mut warnings = unusual_spacing(volume);
    let oblique = volume.affine.obliqueness_degrees();
    if oblique > 5.0 {
        warnings.push(format!("axes are {oblique:.1} degrees off the patient's"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::Affine;

    #[test]
    fn peaks_and_percentiles() {
        let voxels =
            Array3::from_shape_fn((10, 10, 10), |(x, _, _)| if x < 6 { -1000.0 } else { 40.0 });
        let hu = HuStatistics::of(&Volume::new(voxels.clone(), Affine::IDENTITY));
        assert_eq!((hu.air_peak, hu.soft_tissue_peak), (Some(-1000), Some(40)));
        assert_eq!(hu.percentiles, [-1000, -1000, -1000, 40, 40]);
        assert!((hu.mean + 584.0).abs() < 1e-9);
    }
}
