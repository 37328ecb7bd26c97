//! The findings that a phantom can have.

use serde::{Deserialize, Serialize};

/// A finding with a label of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Fluid in the dependent pleural space, 18 to 58 mm deep at the base, on one side or both.
    PleuralEffusion,
    /// One to three round nodules of 12 to 28 mm diameter.
    LungNodule,
    /// One or two dense regions of 20 to 38 mm radius, give or take 35 % along their ragged edge, with open
    /// bronchi.
    Consolidation,
    /// A heart 1.27 to 1.5 times as large as without.
    Cardiomegaly,
    /// A layer of fluid of 9 to 19 mm round the heart.
    PericardialEffusion,
    /// Many holes below -950 HU, mostly in the upper lobes.
    Emphysema,
    /// Plaques along the coronary arteries, of 600 to 1300 HU before the scanner blurs them.
    CoronaryCalcification,
    /// A pulse generator below a clavicle with leads to the heart.
    Pacemaker,
    /// A part of the stomach above the diaphragm, behind the heart.
    HiatalHernia,
}

impl Finding {
    /// All findings, in the order of the label table.
    pub const ALL: [Finding; 9] = [
        Finding::PleuralEffusion,
        Finding::LungNodule,
        Finding::Consolidation,
        Finding::Cardiomegaly,
        Finding::PericardialEffusion,
        Finding::Emphysema,
        Finding::CoronaryCalcification,
        Finding::Pacemaker,
        Finding::HiatalHernia,
    ];

    /// The column of the label table, which is also the label of the task in the catalogue's
    /// group `phantom`.
    pub fn label(self) -> &'static str {
        match self {
            Finding::PleuralEffusion => "pleural_effusion",
            Finding::LungNodule => "lung_nodule",
            Finding::Consolidation => "consolidation",
            Finding::Cardiomegaly => "cardiomegaly",
            Finding::PericardialEffusion => "pericardial_effusion",
            Finding::Emphysema => "emphysema",
            Finding::CoronaryCalcification => "coronary_calcification",
            Finding::Pacemaker => "pacemaker",
            Finding::HiatalHernia => "hiatal_hernia",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// Which findings a phantom has, and how severe each is.
///
/// ```
/// use uniferum_phantom::{Finding, Findings};
/// let mut findings = Findings::none();
/// findings.set(Finding::Emphysema, Some(0.7));
/// assert!(findings.has(Finding::Emphysema) && !findings.has(Finding::Pacemaker));
/// assert_eq!(findings.grade(Finding::Emphysema), Some(0.7));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Findings {
    grades: [Option<f32>; 9],
}

impl Findings {
    /// A healthy chest.
    pub fn none() -> Self {
        Findings::default()
    }

    /// Whether the finding is present.
    pub fn has(&self, finding: Finding) -> bool {
        self.grades[finding.index()].is_some()
    }

    /// From 0 (slight) to 1 (severe); `None` when absent.
    pub fn grade(&self, finding: Finding) -> Option<f32> {
        self.grades[finding.index()]
    }

    /// Sets the grade, which is clamped to 0..=1, or removes the finding.
    pub fn set(&mut self, finding: Finding, grade: Option<f32>) {
        self.grades[finding.index()] = grade.map(|g| g.clamp(0.0, 1.0));
    }

    /// The findings that are present.
    pub fn present(&self) -> impl Iterator<Item = Finding> + '_ {
        Finding::ALL.into_iter().filter(|&f| self.has(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uniferum_tasks::Catalogue;

    #[test]
    fn labels_are_those_of_the_catalogue() {
        let catalogue = Catalogue::standard();
        for finding in Finding::ALL {
            assert!(
                catalogue.by_label("phantom", finding.label()).is_some(),
                "{finding:?}"
            );
            let json = serde_json::to_string(&finding).unwrap();
            assert_eq!(json, format!("\"{}\"", finding.label()));
        }
        assert!(
            catalogue
                .by_label("phantom", crate::MORTALITY_LABEL)
                .is_some()
        );
        assert_eq!(catalogue.group("phantom").len(), Finding::ALL.len() + 1);
    }
}
