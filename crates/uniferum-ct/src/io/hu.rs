//! Where Hounsfield units come from, and whether they can be right.

use ndarray::Array3;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::{CtVolume, HuStatistics};

/// Where Hounsfield units come from. It is said, never guessed: scaling twice is the classic mistake.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HuSource {
    /// Slope and intercept of the file's own header.
    #[default]
    Header,
    /// Slope and intercept of a table beside the collection (CT-RATE version 1); the header's are ignored.
    Table {
        /// HU a stored unit.
        slope: f64,
        /// HU of stored 0.
        intercept: f64,
    },
    /// The stored numbers are HU, whatever the header says.
    AlreadyHu,
}

impl HuSource {
    /// The scaling to use where the header says `header`.
    pub(crate) fn scaling(self, header: Option<(f64, f64)>) -> Option<(f64, f64)> {
        match self {
            HuSource::Header => header,
            HuSource::Table { slope, intercept } => Some((slope, intercept)),
            HuSource::AlreadyHu => None,
        }
    }

    /// Refuses a table that cannot scale.
    pub(crate) fn validate(self) -> Result<()> {
        match self {
            HuSource::Table { slope, intercept }
                if slope == 0.0 || !slope.is_finite() || !intercept.is_finite() =>
            {
                let expected = "a finite slope other than 0 and a finite intercept";
                let got = format!("slope {slope}, intercept {intercept}");
                Err(Error::config("hu.table", expected, got))
            }
            _ => Ok(()),
        }
    }

    /// The source in words, for messages.
    fn words(self) -> String {
        match self {
            HuSource::Header => "header".into(),
            HuSource::Table { slope, intercept } => {
                format!("table (slope {slope}, intercept {intercept})")
            }
            HuSource::AlreadyHu => "already_hu".into(),
        }
    }
}

/// What happens to a scan whose grey values cannot be Hounsfield units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HuCheck {
    /// It is an error.
    #[default]
    Refuse,
    /// It is a warning.
    Warn,
    /// Nobody looks.
    Off,
}

/// Whether grey values can be Hounsfield units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HuVerdict {
    /// Air and soft tissue lie where they should.
    Plausible,
    /// Unusual for a chest, yet possible: no air, or no soft tissue.
    Unusual(&'static str),
    /// Soft tissue lies near -1000 and air near -2000: an intercept was added twice.
    ScaledTwice,
    /// Air lies near 0 and soft tissue near 1000: the intercept was never added.
    NeverScaled,
    /// There is no air, and most voxels lie where no tissue does; the likely cause in words.
    OutOfRange(&'static str),
}

impl HuVerdict {
    /// What is wrong for certain, in words.
    pub fn mistake(self) -> Option<&'static str> {
        match self {
            HuVerdict::Plausible | HuVerdict::Unusual(_) => None,
            HuVerdict::ScaledTwice => Some(
                "scaled twice (air near -2000, soft tissue near -1000): the stored values are HU already",
            ),
            HuVerdict::NeverScaled => Some(
                "never scaled (air near 0, soft tissue near 1000): slope and intercept are missing",
            ),
            HuVerdict::OutOfRange(cause) => Some(cause),
        }
    }
}

/// Judges a volume's grey values by where its air and its soft tissue lie.
///
/// Three mistakes are recognised for certain: the intercept added twice (nothing left at soft tissue's
/// place, a share of voxels below -1500 HU and a share around -1000), never added (nothing from -1500 to
/// 0, air near 0 and soft tissue near 1000; padding may lie below), and values out of range (no air, and
/// half of the voxels or more above 3071 HU or below -1500), as where the intercept is CT-RATE's -8192.
///
/// # Units
/// HU.
pub fn judge(volume: &CtVolume) -> HuVerdict {
    // A million voxels spread over the volume tell as much as all of them. The step is odd, so that
    // it does not fall in with the grid.
    let step = (volume.voxels.len() / 1_000_000).max(1) | 1;
    let (n, count) = match volume.voxels.as_slice_memory_order() {
        // Each is a wait for memory: threads wait side by side.
        Some(voxels) => voxels
            .par_chunks(step << 14)
            .map(|part| tally(part.iter().step_by(step)))
            .reduce(Default::default, |(n, a), (m, b)| {
                (n + m, std::array::from_fn(|i| a[i] + b[i]))
            }),
        None => tally(volume.voxels.iter().step_by(step)),
    };
    let share = count.map(|c| c as f64 / n.max(1) as f64);
    let [
        far_below,
        air,
        soft,
        negative,
        near_zero,
        near_thousand,
        far_above,
    ] = share;
    // Soft tissue shifted by one intercept lies where air does.
    if soft < 0.02 && far_below > 0.05 && air > 0.02 {
        return HuVerdict::ScaledTwice;
    }
    if negative == 0.0 && near_zero > 0.05 && near_thousand > 0.05 {
        return HuVerdict::NeverScaled;
    }
    // Metal of a volume that was shifted down may lie where air does.
    if air < 0.001 && far_above >= 0.5 {
        return HuVerdict::OutOfRange(
            "most values above 3071: values cannot be HU, an intercept (such as -8192) is missing",
        );
    }
    if air < 0.001 && far_below >= 0.5 {
        return HuVerdict::OutOfRange(
            "most values below -1500: values cannot be HU, an intercept was added to HU",
        );
    }
    match (air > 0.0, soft > 0.0) {
        (false, _) => HuVerdict::Unusual("no air: nothing from -1100 to -600 HU"),
        (_, false) => HuVerdict::Unusual("no soft tissue: nothing from -200 to 300 HU"),
        _ => HuVerdict::Plausible,
    }
}

/// Number of voxels, and of those in each of [`RANGES`].
fn tally<'a>(voxels: impl Iterator<Item = &'a f32>) -> (u64, [u64; RANGES.len()]) {
    voxels.fold(Default::default(), |(n, mut count), v| {
        for (cell, range) in count.iter_mut().zip(&RANGES) {
            *cell += u64::from(range.contains(v));
        }
        (n + 1, count)
    })
}

/// Far below air; air and lung; fat, muscle, blood; anything negative but padding; unscaled air; unscaled
/// tissue; above the largest number of 12 bits with an intercept of -1024.
const RANGES: [std::ops::Range<f32>; 7] = [
    f32::NEG_INFINITY..-1500.0,
    -1100.0..-600.0,
    -200.0..300.0,
    -1500.0..0.0,
    0.0..300.0,
    800.0..1300.0,
    3072.0..f32::INFINITY,
];

/// Applies the check: an error, a warning for the user, or nothing.
///
/// # Errors
/// [`Error::Volume`] where the verdict is certain and `check` says to refuse.
pub fn check(volume: &CtVolume, source: HuSource, check: HuCheck) -> Result<Option<String>> {
    if check == HuCheck::Off {
        return Ok(None);
    }
    let verdict = judge(volume);
    let Some(what) = verdict.mistake() else {
        return Ok(match verdict {
            HuVerdict::Unusual(what) => Some(what.to_owned()),
            _ => None,
        });
    };
    if check == HuCheck::Warn {
        return Ok(Some(format!("HU source {}: {what}", source.words())));
    }
    let what = format!("{what} (HU source: {})", source.words());
    Err(refusal(volume, &what))
}

/// Refuses a single slice, such as a localizer, and a volume without air or without soft tissue, one of 0 to 1
/// or of water: [`check`] lets them pass, but a model would learn nothing from them, and what it says of them
/// would be made up.
///
/// # Errors
/// [`Error::Volume`].
pub fn check_chest(volume: &CtVolume) -> Result<()> {
    let shape = volume.shape();
    if shape.contains(&1) {
        let got = format!("{shape:?}");
        return Err(Error::volume("shape", "a volume of several slices", got));
    }
    match judge(volume) {
        HuVerdict::Unusual(what) => Err(refusal(volume, what)),
        _ => Ok(()),
    }
}

/// Refuses voxels of one value throughout, such as air: what was cut out of a scan lies beside the body or
/// between two of the scan's voxels, and an answer about it would be made up.
///
/// # Units
/// `hu` says what a voxel is worth in HU.
///
/// # Errors
/// [`Error::Volume`] about `what`, with the value.
///
/// ```
/// use uniferum_ct::io::hu::check_not_constant;
/// use uniferum_ct::ndarray::Array3;
/// let mut voxels = Array3::from_elem((4, 4, 4), -1000i16);
/// let error = check_not_constant(&voxels, "crop", f32::from).unwrap_err().to_string();
/// assert!(error.contains("-1000 HU in every voxel"));
/// voxels[[1, 2, 3]] = 40;
/// assert!(check_not_constant(&voxels, "crop", f32::from).is_ok());
/// ```
pub fn check_not_constant<T: Copy + PartialEq>(
    voxels: &Array3<T>,
    what: &'static str,
    hu: impl Fn(T) -> f32,
) -> Result<()> {
    match voxels.first() {
        Some(first) if voxels.iter().all(|voxel| voxel == first) => {
            let got = format!(
                "{:.0} HU in every voxel: is the scan's spacing in mm, and is it a whole scan (of \
                 DICOM, the folder and not its files)?",
                hu(*first)
            );
            Err(Error::volume(what, "a chest", got))
        }
        _ => Ok(()),
    }
}

fn refusal(volume: &CtVolume, what: &str) -> Error {
    let hu = HuStatistics::of(volume);
    let expected = "a chest, with air near -1000 and soft tissue near 40";
    let got = format!(
        "{} to {}, median {}: {what}",
        hu.min, hu.max, hu.percentiles[2]
    );
    Error::volume("Hounsfield units", expected, got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Affine, Volume};

    /// Half air, a tenth lung, the rest soft tissue and a little bone.
    fn chest() -> CtVolume {
        let voxels = Array3::from_shape_fn((20, 20, 20), |(x, y, z)| match x {
            0..10 => -1000.0 + (y % 3) as f32,
            10..12 => -850.0,
            19 => 700.0,
            _ => 40.0 + (z % 5) as f32,
        });
        Volume::new(voxels, Affine::IDENTITY)
    }

    fn shifted(by: f32) -> CtVolume {
        let mut volume = chest();
        volume.voxels.mapv_inplace(|v| v + by);
        volume
    }

    #[test]
    fn both_scaling_mistakes_are_named_and_a_chest_is_not() {
        assert_eq!(judge(&chest()), HuVerdict::Plausible);
        assert_eq!(judge(&shifted(-1024.0)), HuVerdict::ScaledTwice);
        assert_eq!(judge(&shifted(1024.0)), HuVerdict::NeverScaled);
        let source = HuSource::Table {
            slope: 1.0,
            intercept: -1024.0,
        };
        let twice = check(&shifted(-1024.0), source, HuCheck::Refuse)
            .unwrap_err()
            .to_string();
        assert!(
            twice.contains("scaled twice") && twice.contains("intercept -1024"),
            "{twice}"
        );
        let warning = check(&shifted(-1024.0), source, HuCheck::Warn).unwrap();
        assert!(warning.unwrap().contains("scaled twice"));
        assert_eq!(
            check(&shifted(-1024.0), source, HuCheck::Off).unwrap(),
            None
        );
    }

    /// With padding outside a round field of view.
    fn padded(mut volume: CtVolume, padding: f32) -> CtVolume {
        let outside = volume.voxels.outer_iter_mut().take(6);
        outside.for_each(|mut plane| plane.fill(padding));
        volume
    }

    #[test]
    fn padding_around_a_good_scan_is_no_mistake() {
        for padding in [-2000.0, -3024.0, -8192.0] {
            assert_eq!(judge(&padded(chest(), padding)), HuVerdict::Plausible);
        }
    }

    #[test]
    fn other_intercepts_and_padding_hide_no_mistake() {
        let table = HuSource::Table {
            slope: 1.0,
            intercept: -8192.0,
        };
        let refused = |volume: &CtVolume, source| {
            let refused = check(volume, source, HuCheck::Refuse);
            refused.unwrap_err().to_string()
        };
        // CT-RATE version 1 without its table: padding 0, air 7192, soft tissue 8232.
        let stored = refused(&padded(shifted(8192.0), 0.0), HuSource::Header);
        assert!(stored.contains("-8192) is missing"), "{stored}");
        // The padding of some scanners is negative as it is stored.
        let padding = padded(shifted(1024.0), -2000.0);
        assert_eq!(judge(&padding), HuVerdict::NeverScaled);
        // CT-RATE version 2 with version 1's table.
        let twice = refused(&shifted(-8192.0), table);
        assert!(
            twice.contains("added to HU") && twice.contains("-8192"),
            "{twice}"
        );
        assert!(matches!(
            judge(&padded(shifted(-8192.0), -16384.0)),
            HuVerdict::OutOfRange(_)
        ));
    }

    #[test]
    fn other_volumes_are_only_unusual() {
        let water = Volume::new(Array3::zeros((4, 4, 4)), Affine::IDENTITY);
        assert!(matches!(judge(&water), HuVerdict::Unusual(_)));
        let empty = Volume::new(Array3::zeros((0, 4, 4)), Affine::IDENTITY);
        assert!(matches!(judge(&empty), HuVerdict::Unusual(_)));
    }

    #[test]
    fn tables_must_be_able_to_scale() {
        for slope in [0.0, f64::NAN] {
            assert!(
                HuSource::Table {
                    slope,
                    intercept: 0.0
                }
                .validate()
                .is_err()
            );
        }
    }
}
