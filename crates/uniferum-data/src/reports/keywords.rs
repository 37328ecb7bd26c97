//! Which reports may mention a finding.

/// A finding of the catalogue and the words that its mentions contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keywords {
    /// The task's id.
    pub task: &'static str,
    /// What the prompt calls it.
    pub pathology: &'static str,
    /// Parts of words, in lower case; one of them must occur.
    pub any: &'static [&'static str],
}

/// The paper's twelve findings. The paper does not print its keywords; these are ours.
pub const PAPER_KEYWORDS: [Keywords; 12] = [
    Keywords {
        task: "inspect.atelectasis",
        pathology: "atelectasis",
        any: &["atelecta", "volume loss", "collapse"],
    },
    Keywords {
        task: "inspect.bronchiectasis",
        pathology: "bronchiectasis",
        any: &["bronchiecta"],
    },
    Keywords {
        task: "inspect.cardiomegaly",
        pathology: "cardiomegaly",
        any: &[
            "cardiomegaly",
            "enlarged heart",
            "cardiac enlargement",
            "heart is enlarged",
            "heart is mildly enlarged",
            "heart is moderately enlarged",
            "heart is severely enlarged",
            "heart size is enlarged",
            "heart size is mildly enlarged",
            "enlarged cardiac",
            "cardiac silhouette is enlarged",
        ],
    },
    Keywords {
        task: "inspect.consolidation",
        pathology: "consolidation",
        any: &["consolidat"],
    },
    Keywords {
        task: "inspect.coronary-artery-wall-calcification",
        pathology: "coronary artery wall calcification",
        any: &[
            "coronary arter",
            "coronary calcif",
            "coronary atheroscl",
            "calcified coronar",
        ],
    },
    Keywords {
        task: "inspect.emphysema",
        pathology: "emphysema",
        any: &["emphysem"],
    },
    Keywords {
        task: "inspect.hiatal-hernia",
        pathology: "hiatal hernia",
        any: &[
            "hiatal",
            "hiatus hernia",
            "sliding hernia",
            "paraesophageal hernia",
        ],
    },
    Keywords {
        task: "inspect.interlobular-septal-thickening",
        pathology: "interlobular septal thickening",
        any: &[
            "septal thicken",
            "interlobular",
            "septal line",
            "thickened septa",
            "kerley",
        ],
    },
    Keywords {
        task: "inspect.lung-nodule",
        pathology: "lung nodule",
        any: &["nodul"],
    },
    Keywords {
        task: "inspect.peribronchial-thickening",
        pathology: "peribronchial thickening",
        any: &[
            "peribronchial",
            "bronchial wall thicken",
            "bronchial thicken",
            "airway thicken",
            "airway wall thicken",
            "thickening of the bronchial wall",
        ],
    },
    Keywords {
        task: "inspect.pericardial-effusion",
        pathology: "pericardial effusion",
        any: &[
            "pericardial effusion",
            "pericardial fluid",
            "pericardial and",
            "effusion in the pericard",
        ],
    },
    Keywords {
        task: "inspect.pleural-effusion",
        pathology: "pleural effusion",
        any: &["pleural effusion", "pleural fluid", "effusion"],
    },
];

impl Keywords {
    /// Whether a text contains one of the keywords; line breaks and runs of spaces do not matter.
    pub fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.any.iter().any(|word| text.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use uniferum_tasks::Catalogue;

    use super::*;

    #[test]
    fn the_twelve_are_those_of_the_catalogue() {
        let catalogue = Catalogue::standard();
        let ours: Vec<&str> = PAPER_KEYWORDS.iter().map(|k| k.task).collect();
        let theirs: Vec<&str> = catalogue
            .group("inspect-shared")
            .iter()
            .map(|t| t.id.as_str())
            .collect();
        assert_eq!(ours, theirs);
        for keywords in PAPER_KEYWORDS {
            assert_eq!(
                catalogue.get(keywords.task).unwrap().name,
                keywords.pathology
            );
            assert!(keywords.any.iter().all(|w| *w == w.to_lowercase()));
        }
    }

    #[test]
    fn mentions_are_found_over_line_breaks_and_in_any_case() {
        let of = |task: &str| {
            PAPER_KEYWORDS
                .into_iter()
                .find(|k| k.task.ends_with(task))
                .unwrap()
        };
        assert!(of("pericardial-effusion").matches("Small PERICARDIAL\n  effusion."));
        assert!(of("atelectasis").matches("Bibasilar atelectatic change"));
        assert!(!of("bronchiectasis").matches("Mild bronchial wall thickening"));
    }
}
