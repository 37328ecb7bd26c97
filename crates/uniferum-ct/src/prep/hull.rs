//! Convex hulls of the axial slices of a mask.

use ndarray::{Array2, Axis};
use rayon::prelude::*;

use super::components::RunMask;

/// The convex hull of each axial slice, as one interval of y per (z, x).
///
/// The hull is that of the voxel centres. A voxel is inside when its centre is inside or on the
/// hull, decided in integers, hence exactly.
#[derive(Clone, Debug)]
pub struct SliceHulls {
    /// First y inside, `[Z, X]`; above `high` where the column is empty.
    low: Array2<i32>,
    /// Last y inside, `[Z, X]`.
    high: Array2<i32>,
}

impl SliceHulls {
    /// Takes the hull of every slice of `mask`.
    pub fn of(mask: &RunMask) -> Self {
        let [nx, ny, nz] = mask.shape();
        // Filled as [X, Z], where a run is contiguous; the hull wants [Z, X].
        let mut low = Array2::from_elem((nx, nz), ny as i32);
        let mut high = Array2::from_elem((nx, nz), -1);
        low.axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(high.axis_iter_mut(Axis(0)))
            .enumerate()
            .for_each(|(x, (mut low, mut high))| {
                let low = low
                    .as_slice_mut()
                    .expect("a row of a fresh array is contiguous");
                let high = high
                    .as_slice_mut()
                    .expect("a row of a fresh array is contiguous");
                for y in 0..ny {
                    for run in mask.line(x, y) {
                        let (first, past) = (run.start as usize, run.end as usize);
                        low[first..past]
                            .iter_mut()
                            .for_each(|v| *v = (*v).min(y as i32));
                        high[first..past].fill(y as i32);
                    }
                }
            });
        let mut low = low.reversed_axes().as_standard_layout().into_owned();
        let mut high = high.reversed_axes().as_standard_layout().into_owned();
        low.axis_iter_mut(Axis(0))
            .into_par_iter()
            .zip(high.axis_iter_mut(Axis(0)))
            .for_each(|(mut low, mut high)| {
                let low = low.as_slice_mut().expect("standard layout");
                let high = high.as_slice_mut().expect("standard layout");
                fill_hull(low, high);
            });
        Self { low, high }
    }

    /// The interval of y inside slice `z` at column `x`, `None` where the hull is not.
    pub fn interval(&self, x: usize, z: usize) -> Option<[usize; 2]> {
        let (low, high) = (self.low[[z, x]], self.high[[z, x]]);
        (low <= high).then(|| [low as usize, high as usize + 1])
    }

    /// Whether voxel (`x`, `y`, `z`) is inside the hull of its slice.
    pub fn contains(&self, x: usize, y: usize, z: usize) -> bool {
        self.interval(x, z)
            .is_some_and(|[first, past]| (first..past).contains(&y))
    }

    /// Common centre of mass `[x, y]` of the filled hulls of all slices, in voxels.
    ///
    /// `None` when every slice is empty.
    pub fn centre(&self) -> Option<[f64; 2]> {
        let (mut count, mut sum_x, mut sum_y) = (0i64, 0i64, 0i64);
        for (low, high) in self.low.rows().into_iter().zip(self.high.rows()) {
            for (x, (&low, &high)) in low.iter().zip(high).enumerate() {
                if low <= high {
                    let n = i64::from(high - low) + 1;
                    count += n;
                    sum_x += n * x as i64;
                    sum_y += n * i64::from(low + high) / 2;
                }
            }
        }
        (count > 0).then(|| [sum_x as f64 / count as f64, sum_y as f64 / count as f64])
    }
}

/// Grows the columns of one slice to their convex hull.
fn fill_hull(low: &mut [i32], high: &mut [i32]) {
    let columns: Vec<i64> = (0..low.len())
        .filter(|&x| low[x] <= high[x])
        .map(|x| x as i64)
        .collect();
    let lower = chain(columns.iter().map(|&x| (x, i64::from(low[x as usize]))));
    let upper = chain(columns.iter().map(|&x| (x, -i64::from(high[x as usize]))));
    draw(&lower, |x, y| low[x] = y);
    draw(&upper, |x, y| high[x] = -y);
}

/// Lower convex chain of points that come in order of x.
fn chain(points: impl Iterator<Item = (i64, i64)>) -> Vec<(i64, i64)> {
    let mut chain: Vec<(i64, i64)> = Vec::new();
    for p in points {
        while let [.., a, b] = chain[..] {
            let turn = (b.0 - a.0) * (p.1 - a.1) - (b.1 - a.1) * (p.0 - a.0);
            if turn > 0 {
                break;
            }
            chain.pop();
        }
        chain.push(p);
    }
    chain
}

/// Calls `set` with the smallest integer on or above the chain, for every x it spans.
fn draw(chain: &[(i64, i64)], mut set: impl FnMut(usize, i32)) {
    if let [only] = chain {
        set(only.0 as usize, only.1 as i32);
    }
    for pair in chain.windows(2) {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        for x in x0..=x1 {
            let rise = (y1 - y0) * (x - x0);
            set(x as usize, (y0 - (-rise).div_euclid(x1 - x0)) as i32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;
    use proptest::prelude::*;

    /// A point is in the hull of some points when no line through two of them has all the others
    /// strictly on its other side: checked over all pairs.
    fn in_hull(points: &[(i64, i64)], p: (i64, i64)) -> bool {
        let cross = |a: (i64, i64), b: (i64, i64), c: (i64, i64)| {
            (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
        };
        if points.contains(&p) {
            return true;
        }
        for &a in points {
            for &b in points {
                if a != b && points.iter().all(|&c| cross(a, b, c) >= 0) && cross(a, b, p) < 0 {
                    return false;
                }
            }
        }
        // All on one line: inside only between the ends.
        let collinear = points
            .iter()
            .all(|&c| cross(points[0], points[points.len() - 1], c) == 0);
        if collinear {
            let (lo, hi) = (points.iter().min().unwrap(), points.iter().max().unwrap());
            return cross(*lo, *hi, p) == 0 && lo != hi && *lo <= p && p <= *hi;
        }
        true
    }

    proptest! {
        #[test]
        fn equals_the_definition(cells in proptest::collection::vec(proptest::bool::weighted(0.12), 9 * 8 * 2)) {
            let mask = Array3::from_shape_vec((9, 8, 2), cells).unwrap();
            let hulls = SliceHulls::of(&RunMask::from_view(mask.view(), |v| v));
            let (mut n, mut sx, mut sy) = (0.0, 0.0, 0.0);
            for z in 0..2 {
                let points: Vec<(i64, i64)> = mask.indexed_iter()
                    .filter(|((_, _, w), v)| **v && *w == z)
                    .map(|((x, y, _), _)| (x as i64, y as i64)).collect();
                for x in 0..9 {
                    for y in 0..8 {
                        let expected = !points.is_empty() && in_hull(&points, (x as i64, y as i64));
                        prop_assert_eq!(hulls.contains(x, y, z), expected, "({}, {}, {})", x, y, z);
                        if expected {
                            n += 1.0;
                            sx += x as f64;
                            sy += y as f64;
                        }
                    }
                }
            }
            match hulls.centre() {
                None => prop_assert_eq!(n, 0.0),
                Some([x, y]) => {
                    prop_assert!((x - sx / n).abs() < 1e-12);
                    prop_assert!((y - sy / n).abs() < 1e-12);
                }
            }
        }
    }
}
