//! How well masks are found, in memory that grows with the tasks and not with the scans.

use serde::Serialize;
use uniferum_metrics::{Cases, Overlap, Ranked};
use uniferum_tasks::Task;

use crate::error::Result;

/// How well a mask is found, over the cells of the mask head's grid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MaskMetrics {
    /// The task's id.
    pub task: String,
    /// Scans with a mask, be it empty.
    pub scans: usize,
    /// Foreground cells.
    pub n_pos: usize,
    /// Background cells.
    pub n_neg: usize,
    /// Mean Dice at probability 0.5 of the scans where the mask or the answer has a foreground cell: 0 for
    /// what was found where nothing is. `None` without such a scan.
    pub dice: Option<f64>,
    /// AUROC over cells; cells of a scan are not independent, so no interval is given. Logits count as equal
    /// where they agree in 9 significant bits.
    pub auroc: Option<f64>,
    /// Average precision over cells, ties as for `auroc`.
    pub auprc: Option<f64>,
}

/// What was said and is true of the cells of one task's masks.
pub(crate) struct Cells {
    scans: usize,
    dice: f64,
    /// Scans that have a Dice.
    overlaps: usize,
    /// Background and foreground cells by the [`place`] of their logits. An array, since every cell of every
    /// mask comes by; logits lie close together, and memory that is never touched is never taken.
    counts: Vec<[u64; 2]>,
}

impl Default for Cells {
    fn default() -> Self {
        Self {
            scans: 0,
            dice: 0.0,
            overlaps: 0,
            counts: vec![[0; 2]; 1 << (32 - DROPPED)],
        }
    }
}

/// Bits of a logit that are not looked at: 9 significant ones are left.
const DROPPED: u32 = 15;

/// Where a logit stands among all, 0 the lowest.
fn place(logit: f32) -> usize {
    let bits = logit.to_bits();
    let ordered = match logit.is_sign_negative() {
        true => !bits,
        false => bits | 1 << 31,
    };
    (ordered >> DROPPED) as usize
}

impl Cells {
    /// Adds the cells of a scan: finite logits, and 1 for foreground.
    pub(crate) fn add(&mut self, logits: &[f32], target: &[f32]) -> Result<()> {
        let truth: Vec<bool> = target.iter().map(|t| *t > 0.5).collect();
        let found: Vec<bool> = logits.iter().map(|l| *l > 0.0).collect();
        self.scans += 1;
        if let Some(dice) = Overlap::new(&found, &truth)?.dice() {
            self.dice += dice;
            self.overlaps += 1;
        }
        for (logit, truth) in logits.iter().zip(truth) {
            self.counts[place(*logit)][usize::from(truth)] += 1;
        }
        Ok(())
    }

    pub(crate) fn metrics(&self, task: &Task) -> Result<MaskMetrics> {
        let (mut scores, mut labels, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut totals = [0; 2];
        for (place, counts) in self.counts.iter().enumerate() {
            for (label, &count) in [false, true].into_iter().zip(counts) {
                totals[usize::from(label)] += count;
                if count > 0 {
                    scores.push(place as f64);
                    labels.push(label);
                    weights.push(count as f64);
                }
            }
        }
        let cases = Cases::complete(&scores, &labels)?.with_weights(&weights)?;
        let ranked = Ranked::new(&cases);
        Ok(MaskMetrics {
            task: task.id.clone(),
            scans: self.scans,
            n_pos: totals[1] as usize,
            n_neg: totals[0] as usize,
            dice: (self.overlaps > 0).then(|| self.dice / self.overlaps as f64),
            auroc: ranked.auroc().ok(),
            auprc: ranked.average_precision().ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use uniferum_metrics::{auroc, average_precision};
    use uniferum_tasks::Catalogue;

    use super::*;

    fn task() -> Task {
        Catalogue::standard().get("anatomy.heart").unwrap().clone()
    }

    #[test]
    fn the_statistics_are_those_of_all_cells_together() {
        let mut cells = Cells::default();
        let (mut scores, mut labels) = (Vec::new(), Vec::new());
        for scan in 0..3u32 {
            let noise =
                |i: u32| (f64::from((i * 7919 + scan * 104_729) % 1000) / 500.0 - 1.0) as f32;
            let logits: Vec<f32> = (0..2000).map(|i| 3.0 * noise(i)).collect();
            let target: Vec<f32> = (0..2000)
                .map(|i| f32::from(u8::from(logits[i as usize] + noise(i + 1) > 1.5)))
                .collect();
            cells.add(&logits, &target).unwrap();
            scores.extend(logits.iter().map(|l| f64::from(*l)));
            labels.extend(target.iter().map(|t| *t > 0.5));
        }
        let found = cells.metrics(&task()).unwrap();
        assert_eq!((found.scans, found.n_pos + found.n_neg), (3, 6000));
        let exact = auroc(&scores, &labels).unwrap().unwrap();
        assert!(
            (found.auroc.unwrap() - exact).abs() < 1e-4,
            "{found:?} {exact}"
        );
        let exact = average_precision(&scores, &labels).unwrap().unwrap();
        assert!(
            (found.auprc.unwrap() - exact).abs() < 1e-3,
            "{found:?} {exact}"
        );
    }

    #[test]
    fn what_is_found_where_nothing_is_counts_and_empty_agreement_does_not() {
        let mut cells = Cells::default();
        cells.add(&[1.0, -1.0], &[1.0, 0.0]).unwrap();
        cells.add(&[-1.0, -1.0], &[0.0, 0.0]).unwrap();
        assert_eq!(cells.metrics(&task()).unwrap().dice, Some(1.0));
        cells.add(&[-1.0, 1.0], &[0.0, 0.0]).unwrap();
        let found = cells.metrics(&task()).unwrap();
        assert_eq!((found.scans, found.dice), (3, Some(0.5)));
        assert!(Cells::default().metrics(&task()).unwrap().dice.is_none());
    }

    #[test]
    fn places_follow_the_logits() {
        let logits = [
            f32::MIN,
            -3.0,
            -2.98,
            -1e-30,
            -0.0,
            0.0,
            1e-30,
            0.5,
            0.51,
            f32::MAX,
        ];
        let places: Vec<usize> = logits.iter().map(|l| place(*l)).collect();
        assert!(places.is_sorted() && places[9] < 1 << 17, "{places:?}");
        assert!(places[1] < places[2] && places[7] < places[8]);
    }
}
