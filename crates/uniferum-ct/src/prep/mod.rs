//! From a scan as it comes to the standardised volume.
//!
//! [`standardise`] follows section 3.5 of the paper, or the paper's public release when
//! [`StandardiseConfig::compat`] says so. The parts, run-length components and slice hulls, can be
//! used alone.

pub mod components;
mod config;
pub mod hull;
mod lungs;
mod paper;
mod rectangular;
mod release;
mod report;
mod runs;
mod view;

pub use config::{Compat, StandardiseConfig};
pub use lungs::{LUNG_LABELS, LungRange, LungSource};
pub use rectangular::{SHEARED, rectangular};
pub use report::{StandardiseReport, Standardised};

use rectangular::Rectangle;

use crate::facts::unusual_spacing;
use crate::{Result, Volume};

/// Brings a scan, and a label mask on the same grid, to the common grid of the model.
///
/// In order, with the default configuration:
///
/// 1. axes to RAS, without interpolation;
/// 2. body: voxels of -150 to 250 HU, largest component of 26 neighbours;
/// 3. centre in x and y: centre of mass of the convex hulls of all axial slices of the body;
/// 4. z range: lungs (labels 10 to 14 of the mask) and 5 mm each side; slices beyond are dropped.
///    Without a mask the lungs are estimated from the air inside the body if `estimate_lungs`, else
///    the z range of the body is kept, with a warning;
/// 5. clip to -1000..1000 HU, resample to 1 mm, crop or pad with air to 416x336x256 about the
///    centre.
///
/// Steps 5's parts are one pass over the volume. An oblique scan keeps its oblique axes: the result's
/// affine says where its voxels are. A sheared one, as a tilted gantry gives, is first brought onto a
/// rectangular grid along the table, labels by the nearest, with a warning; the report's voxels are
/// those of that grid ([`rectangular`]). [`Compat::Release`] takes the axes as if they were at right angles.
///
/// # Shapes
/// Result `config.size` if given, else the body's extent; mask and volume alike.
///
/// # Units
/// HU in and out.
///
/// # Errors
/// A configuration that cannot work, a mask on another grid, an affine that cannot be inverted, a
/// scan without soft tissue.
///
/// # Reference
/// Section 3.5.
///
/// ```
/// use ndarray::Array3;
/// use uniferum_ct::prep::{StandardiseConfig, standardise};
/// use uniferum_ct::{Affine, Volume};
///
/// let scan = Volume::new(
///     Array3::from_shape_fn((40, 30, 20), |(x, y, _)| {
///         if (8..32).contains(&x) && (6..24).contains(&y) { 40.0 } else { -1000.0 }
///     }),
///     Affine::from_spacing([8.0, 8.0, 10.0], [-1.0, -1.0, 1.0], [160.0, 120.0, 0.0]),
/// );
/// let config = StandardiseConfig {
///     spacing_mm: [4.0; 3],
///     size: Some([104, 84, 64]),
///     ..StandardiseConfig::default()
/// };
/// let done = standardise(&scan, None, &config)?;
/// assert_eq!(done.volume.shape(), [104, 84, 64]);
/// assert_eq!(done.volume.orientation(), "RAS");
/// assert_eq!(done.volume.voxels[[52, 42, 32]], 40);
/// # Ok::<(), uniferum_ct::Error>(())
/// ```
pub fn standardise(
    scan: &Volume<f32>,
    mask: Option<&Volume<u8>>,
    config: &StandardiseConfig,
) -> Result<Standardised> {
    Ok(standardise_with(scan, mask, &[], config)?.0)
}

/// As [`standardise`], for a scan with further label maps on its grid, such as nodules: they come out
/// on the common grid too, in their order, but have no say in where it lies.
///
/// # Errors
/// As [`standardise`].
pub fn standardise_with(
    scan: &Volume<f32>,
    mask: Option<&Volume<u8>>,
    others: &[&Volume<u8>],
    config: &StandardiseConfig,
) -> Result<(Standardised, Vec<Volume<u8>>)> {
    config.validate()?;
    if let Some(mask) = mask {
        scan.check_same_grid(mask, "mask")?;
    }
    for other in others {
        scan.check_same_grid(other, "further mask")?;
    }
    let (mut done, others) = match config.compat {
        Compat::Paper => by_paper(scan, mask, others, config),
        Compat::Release => release::standardise(scan, mask, others, config),
    }?;
    let odd = unusual_spacing(scan);
    done.report.warnings.splice(0..0, odd);
    Ok((done, others))
}

/// The paper's steps, a sheared grid made rectangular before.
fn by_paper(
    scan: &Volume<f32>,
    mask: Option<&Volume<u8>>,
    others: &[&Volume<u8>],
    config: &StandardiseConfig,
) -> Result<(Standardised, Vec<Volume<u8>>)> {
    let (view, affine) = scan.ras_view();
    let Some(rectangle) = Rectangle::about(&affine, view.dim().into())? else {
        return paper::standardise(scan, mask, others, config);
    };
    let clip = config.clip_hu.map(f32::from);
    let image = rectangle.image(scan, config.interpolation, clip);
    let mask = mask.map(|mask| rectangle.labels(mask));
    let others: Vec<_> = others.iter().map(|other| rectangle.labels(other)).collect();
    let others: Vec<_> = others.iter().collect();
    let (mut done, others) = paper::standardise(&image, mask.as_ref(), &others, config)?;
    done.report.warnings.insert(0, rectangle.warning());
    Ok((done, others))
}
