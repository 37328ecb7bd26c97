/// Holm's step-down adjustment: keeps the chance of *any* false discovery below the level.
///
/// A test that could not be made is `None`; it stays `None` and does not count.
///
/// # Reference
/// Holm 1979.
///
/// ```
/// let adjusted = uniferum_metrics::holm(&[Some(0.01), None, Some(0.04), Some(0.03)]);
/// assert_eq!(adjusted, [Some(0.03), None, Some(0.06), Some(0.06)]);
/// ```
pub fn holm(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let order = ascending(p_values);
    let mut adjusted = vec![None; p_values.len()];
    let mut running = 0.0f64;
    for (rank, &(p, at)) in order.iter().enumerate() {
        let factor = (order.len() - rank) as f64;
        running = running.max((p * factor).min(1.0));
        adjusted[at] = Some(running);
    }
    adjusted
}

/// Benjamini and Hochberg's step-up adjustment: keeps the expected *share* of false discoveries below
/// the level, for independent or positively dependent tests.
///
/// A test that could not be made is `None`; it stays `None` and does not count.
///
/// # Reference
/// Benjamini & Hochberg 1995.
///
/// ```
/// let adjusted = uniferum_metrics::benjamini_hochberg(&[Some(0.01), None, Some(0.04), Some(0.03)]);
/// assert_eq!(adjusted, [Some(0.03), None, Some(0.04), Some(0.04)]);
/// ```
pub fn benjamini_hochberg(p_values: &[Option<f64>]) -> Vec<Option<f64>> {
    let order = ascending(p_values);
    let mut adjusted = vec![None; p_values.len()];
    let mut running = 1.0f64;
    for (rank, &(p, at)) in order.iter().enumerate().rev() {
        let factor = order.len() as f64 / (rank + 1) as f64;
        running = running.min(p * factor);
        adjusted[at] = Some(running);
    }
    adjusted
}

/// The p-values that exist, ascending, with their positions.
fn ascending(p_values: &[Option<f64>]) -> Vec<(f64, usize)> {
    let mut order: Vec<(f64, usize)> = p_values
        .iter()
        .enumerate()
        .filter_map(|(at, p)| p.filter(|p| !p.is_nan()).map(|p| (p, at)))
        .collect();
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjusted_values_are_monotone_and_bounded() {
        let p: Vec<Option<f64>> = (0..40)
            .map(|i| (i % 7 != 3).then(|| f64::from(i * 17 % 40) / 39.0))
            .collect();
        for adjusted in [holm(&p), benjamini_hochberg(&p)] {
            for (i, (raw, new)) in p.iter().zip(&adjusted).enumerate() {
                assert_eq!(raw.is_some(), new.is_some());
                let (Some(raw), Some(new)) = (raw, new) else {
                    continue;
                };
                assert!(new >= raw && *new <= 1.0);
                for j in 0..p.len() {
                    if p[j].is_some_and(|other| other > *raw) {
                        assert!(adjusted[j].unwrap() >= *new, "{i} {j}");
                    }
                }
            }
        }
        let p = [0.001, 0.02, 0.3].map(Some);
        let pairs = holm(&p).into_iter().zip(benjamini_hochberg(&p));
        assert!(pairs.into_iter().all(|(h, b)| h >= b));
        assert!(holm(&[]).is_empty() && benjamini_hochberg(&[None]) == [None]);
    }
}
