//! Where Hounsfield units come from, and whether they can be right.

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
                Err(Error::Config {
                    field: "hu.table",
                    expected: "a finite slope other than 0 and a finite intercept".into(),
                    got: format!("slope {slope}, intercept {intercept}"),
                })
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
}

/// Judges a volume's grey values by where its air and its soft tissue lie.
///
/// Two mistakes are recognised for certain: the intercept added twice (nothing left at soft tissue's
/// place, a share of voxels below -1500 HU and a share around -1000) and never added (nothing below
/// 0, air near 0 and soft tissue near 1000).
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
    let [far_below, air, soft, negative, near_zero, near_thousand] = share;
    // Soft tissue shifted by one intercept lies where air does.
    if soft < 0.02 && far_below > 0.05 && air > 0.02 {
        return HuVerdict::ScaledTwice;
    }
    if negative == 0.0 && near_zero > 0.05 && near_thousand > 0.05 {
        return HuVerdict::NeverScaled;
    }
    match (air > 0.0, soft > 0.0) {
        (false, _) => HuVerdict::Unusual("no air: nothing from -1100 to -600 HU"),
        (_, false) => HuVerdict::Unusual("no soft tissue: nothing from -200 to 300 HU"),
        _ => HuVerdict::Plausible,
    }
}

/// Number of voxels, and of those in each of [`RANGES`].
fn tally<'a>(voxels: impl Iterator<Item = &'a f32>) -> (u64, [u64; 6]) {
    voxels.fold(Default::default(), |(n, mut count), v| {
        for (cell, range) in count.iter_mut().zip(&RANGES) {
            *cell += u64::from(range.contains(v));
        }
        (n + 1, count)
    })
}

/// Far below air; air and lung; fat, muscle, blood; anything negative; unscaled air; unscaled tissue.
const RANGES: [std::ops::Range<f32>; 6] = [
    f32::NEG_INFINITY..-1500.0,
    -1100.0..-600.0,
    -200.0..300.0,
    f32::NEG_INFINITY..0.0,
    0.0..300.0,
    800.0..1300.0,
];

/// Applies the check: an error, a warning for the user, or nothing.
///
/// # Errors
/// [`Error::Volume`] where the verdict is certain and `check` says to refuse.
pub fn check(volume: &CtVolume, source: HuSource, check: HuCheck) -> Result<Option<String>> {
    if check == HuCheck::Off {
        return Ok(None);
    }
    let what = match judge(volume) {
        HuVerdict::Plausible => return Ok(None),
        HuVerdict::Unusual(what) => return Ok(Some(what.to_owned())),
        HuVerdict::ScaledTwice => {
            "scaled twice (air near -2000, soft tissue near -1000): the stored values are HU already"
        }
        HuVerdict::NeverScaled => {
            "never scaled (air near 0, soft tissue near 1000): slope and intercept are missing"
        }
    };
    if check == HuCheck::Warn {
        return Ok(Some(format!("HU source {}: {what}", source.words())));
    }
    let hu = HuStatistics::of(volume);
    Err(Error::Volume {
        what: "Hounsfield units",
        expected: "air near -1000 and soft tissue near 40".into(),
        got: format!(
            "{} to {}, median {}: {what} (HU source: {})",
            hu.min,
            hu.max,
            hu.percentiles[2],
            source.words()
        ),
    })
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

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

    #[test]
    fn padding_around_a_good_scan_is_no_mistake() {
        for padding in [-2000.0, -3024.0, -8192.0] {
            let mut volume = chest();
            let outside = volume.voxels.outer_iter_mut().take(6);
            outside.for_each(|mut plane| plane.fill(padding));
            assert_eq!(judge(&volume), HuVerdict::Plausible);
        }
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
