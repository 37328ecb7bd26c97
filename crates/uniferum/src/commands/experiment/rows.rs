//! The rows of the table.

use anyhow::bail;

/// What a row trains, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// Names of collections.
    pub(super) collections: &'static [&'static str],
    /// Whether masks are trained besides (+SEG).
    pub(super) masks: bool,
    /// Whether it is the multi-label baseline.
    pub(super) baseline: bool,
}

const fn uniferum(collections: &'static [&'static str], masks: bool) -> Row {
    Row {
        collections,
        masks,
        baseline: false,
    }
}

const fn cnn(collections: &'static [&'static str]) -> Row {
    Row {
        collections,
        masks: false,
        baseline: true,
    }
}

/// The rows of Table 2: A stands for CT-RATE, B for INSPECT, C for RAD-ChestCT.
///
/// The paper has the multi-label network on B and on C only; here every training set has one, since the
/// other rows start with its encoder.
const ROWS: [Row; 13] = [
    uniferum(&["A"], false),
    uniferum(&["A"], true),
    uniferum(&["A", "B"], false),
    uniferum(&["A", "B"], true),
    uniferum(&["A", "C"], false),
    uniferum(&["A", "C"], true),
    uniferum(&["B"], false),
    uniferum(&["C"], false),
    cnn(&["A"]),
    cnn(&["A", "B"]),
    cnn(&["A", "C"]),
    cnn(&["B"]),
    cnn(&["C"]),
];

impl Row {
    /// As in the table: `A+C+SEG`, `CNN:B`.
    pub(super) fn name(&self) -> String {
        let prefix = if self.baseline { "CNN:" } else { "" };
        let suffix = if self.masks { "+SEG" } else { "" };
        format!("{prefix}{}{suffix}", self.collections.join("+"))
    }

    pub(super) fn slug(&self) -> String {
        self.name().to_lowercase().replace([':', '+'], "-")
    }

    /// The row whose encoder it starts with: the multi-label network on the very same collections.
    pub(super) fn encoder(&self) -> Row {
        cnn(self.collections)
    }

    /// The rows with these names; all when there are none.
    pub(super) fn chosen(names: &[String]) -> anyhow::Result<Vec<Row>> {
        if names.is_empty() {
            return Ok(ROWS.to_vec());
        }
        let find = |name: &String| {
            let found = ROWS.iter().find(|r| r.name().eq_ignore_ascii_case(name));
            let Some(row) = found else {
                let known: Vec<String> = ROWS.iter().map(Row::name).collect();
                bail!("no row {name}; there are {}", known.join(", "));
            };
            Ok(*row)
        };
        names.iter().map(find).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_papers_names() {
        let names: Vec<String> = ROWS.iter().map(Row::name).collect();
        let expected = [
            "A", "A+SEG", "A+B", "A+B+SEG", "A+C", "A+C+SEG", "B", "C", "CNN:A", "CNN:A+B",
            "CNN:A+C", "CNN:B", "CNN:C",
        ];
        assert_eq!(names, expected);
        // A row never starts with an encoder that has seen another collection.
        for row in ROWS {
            assert!(ROWS.contains(&row.encoder()) && row.encoder().baseline);
            assert_eq!(row.encoder().collections, row.collections);
        }
        assert_eq!(Row::chosen(&["cnn:b".into()]).unwrap()[0].slug(), "cnn-b");
        assert!(Row::chosen(&["D".into()]).is_err());
    }
}
