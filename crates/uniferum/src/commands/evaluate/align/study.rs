//! Volumes of a study as one case.

use uniferum_metrics::cluster_ids;

use super::{Aggregate, Aligned};

impl Aligned {
    /// Replaces volumes by their studies. A study is positive if any volume is.
    pub(super) fn aggregate(&mut self, how: Aggregate, column: &str, keys: &[String]) {
        let ids = cluster_ids(keys);
        let n = ids.iter().max().map_or(0, |&m| m as usize + 1);
        let mut conflicts = 0;
        for t in 0..self.tasks.len() {
            let (mut any, mut yes, mut no) = (vec![false; n], vec![false; n], vec![false; n]);
            for (&id, label) in ids.iter().zip(&self.labels[t]) {
                any[id as usize] |= label.is_some();
                yes[id as usize] |= *label == Some(true);
                no[id as usize] |= *label == Some(false);
            }
            conflicts += (0..n).filter(|&i| yes[i] && no[i]).count();
            // A volume without a label does not speak for a study that has one.
            for model in &mut self.scores {
                model[t] = combine(&ids, n, &model[t], &self.labels[t], &any, how);
            }
            self.labels[t] = (0..n).map(|i| any[i].then_some(yes[i])).collect();
        }
        let mut firsts = Vec::with_capacity(n);
        for (i, &id) in ids.iter().enumerate() {
            // Ids count up in order of appearance.
            if id as usize == firsts.len() {
                firsts.push(i);
            }
        }
        if let Some(clusters) = &mut self.clusters {
            *clusters = firsts.iter().map(|&i| clusters[i]).collect();
        }
        if let Some(weights) = &mut self.weights {
            *weights = firsts.iter().map(|&i| weights[i]).collect();
        }
        self.notes.push(format!(
            "{} cases became {n} studies (column '{column}')",
            self.n_cases
        ));
        if conflicts > 0 {
            self.notes.push(format!(
                "in {conflicts} studies the volumes differ in a label: positive if any volume is"
            ));
        }
        self.n_cases = n;
        self.record.n_cases = n;
        self.record.study = Some(column.to_owned());
    }
}

fn combine(
    ids: &[u32],
    n: usize,
    scores: &[f64],
    labels: &[Option<bool>],
    any: &[bool],
    how: Aggregate,
) -> Vec<f64> {
    let mut result = vec![0.0; n];
    let mut count = vec![0usize; n];
    for ((&id, &score), label) in ids.iter().zip(scores).zip(labels) {
        let i = id as usize;
        if any[i] && label.is_none() {
            continue;
        }
        result[i] = match how {
            Aggregate::Mean => result[i] + score,
            Aggregate::Max if count[i] > 0 => result[i].max(score),
            Aggregate::Max => score,
        };
        count[i] += 1;
    }
    if how == Aggregate::Mean {
        for (value, &count) in result.iter_mut().zip(&count) {
            *value /= count.max(1) as f64;
        }
    }
    result
}
