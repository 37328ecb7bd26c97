//! Cubic B-spline interpolation as scipy does it: recursive prefilter, mirrored edges, double
//! precision.

use ndarray::{Array3, Axis};
use rayon::prelude::*;

use super::axis::mirror;

/// The pole of the cubic B-spline's inverse filter, sqrt(3) - 2.
const POLE: f64 = -0.267_949_192_431_122_7;

/// A volume of B-spline coefficients.
pub(crate) struct CubicSpline {
    coefficients: Array3<f64>,
}

impl CubicSpline {
    /// Finds the spline through `values`, axis by axis in their order.
    pub(crate) fn through(mut values: Array3<f64>) -> Self {
        assert!(
            values.is_standard_layout(),
            "coefficients are made in C order"
        );
        filter_planes(&mut values);
        filter_rows(&mut values);
        values
            .axis_iter_mut(Axis(0))
            .into_par_iter()
            .for_each(|mut plane| {
                let nz = plane.len_of(Axis(1));
                for mut row in plane.rows_mut() {
                    filter(row.as_slice_mut().expect("C order"), nz, 1);
                }
            });
        Self {
            coefficients: values,
        }
    }

    /// Values at every combination of the three axes' positions, passed through `finish`; `outside`
    /// where a position lies before the first or after the last voxel.
    pub(crate) fn sample<U: Copy + Send + Sync>(
        &self,
        positions: &[Vec<f64>; 3],
        outside: U,
        finish: impl Fn(f64) -> U + Sync,
    ) -> Array3<U> {
        let (nx, ny, nz) = self.coefficients.dim();
        let taps: [Vec<Option<Taps>>; 3] =
            [(0, nx), (1, ny), (2, nz)].map(|(axis, n): (usize, usize)| {
                positions[axis].iter().map(|&at| Taps::at(at, n)).collect()
            });
        let mut out = Array3::from_elem((taps[0].len(), taps[1].len(), taps[2].len()), outside);
        out.axis_iter_mut(Axis(0))
            .into_par_iter()
            .enumerate()
            .for_each_init(
                || (vec![0.0; ny * nz], vec![0.0; nz]),
                |(plane, row), (x, mut cells)| {
                    let Some(tx) = &taps[0][x] else { return };
                    let planes = tx.index.map(|i| {
                        self.coefficients
                            .index_axis(Axis(0), i)
                            .to_slice()
                            .expect("C order")
                    });
                    weigh(tx.weight, planes, plane);
                    for (ty, mut cells) in taps[1].iter().zip(cells.rows_mut()) {
                        let Some(ty) = ty else { continue };
                        weigh(ty.weight, ty.index.map(|j| &plane[j * nz..][..nz]), row);
                        for (tz, cell) in taps[2].iter().zip(cells.iter_mut()) {
                            if let Some(tz) = tz {
                                let v: [f64; 4] =
                                    std::array::from_fn(|t| tz.weight[t] * row[tz.index[t]]);
                                *cell = finish(v[0] + v[1] + v[2] + v[3]);
                            }
                        }
                    }
                },
            );
        out
    }
}

fn weigh(weight: [f64; 4], from: [&[f64]; 4], to: &mut [f64]) {
    let [a, b, c, d] = from;
    for ((((to, a), b), c), d) in to.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *to = weight[0] * a + weight[1] * b + weight[2] * c + weight[3] * d;
    }
}

/// The four coefficients around a position, and their weights.
struct Taps {
    index: [usize; 4],
    weight: [f64; 4],
}

impl Taps {
    fn at(at: f64, n: usize) -> Option<Self> {
        if !(0.0..=n as f64 - 1.0).contains(&at) {
            return None;
        }
        let first = at.floor() as isize - 1;
        let index = std::array::from_fn(|t| mirror(first + t as isize, n as isize) as usize);
        let y = at - at.floor();
        let z = 1.0 - y;
        let w1 = (y * y * (y - 2.0) * 3.0 + 4.0) / 6.0;
        let w2 = (z * z * (z - 2.0) * 3.0 + 4.0) / 6.0;
        let w0 = z * z * z / 6.0;
        Some(Self {
            index,
            weight: [w0, w1, w2, 1.0 - w0 - w1 - w2],
        })
    }
}

/// Filters along axis 0: whole rows of z at a time, one y after the other.
fn filter_planes(values: &mut Array3<f64>) {
    let (nx, _, nz) = values.dim();
    values.axis_iter_mut(Axis(1)).into_par_iter().for_each_init(
        || vec![0.0; nx * nz],
        |buffer, mut sheet| {
            for (row, line) in sheet.rows().into_iter().zip(buffer.chunks_exact_mut(nz)) {
                line.copy_from_slice(row.as_slice().expect("C order"));
            }
            filter(buffer, nx, nz);
            for (mut row, line) in sheet.rows_mut().into_iter().zip(buffer.chunks_exact(nz)) {
                row.as_slice_mut().expect("C order").copy_from_slice(line);
            }
        },
    );
}

/// Filters along axis 1.
fn filter_rows(values: &mut Array3<f64>) {
    let (_, ny, nz) = values.dim();
    values
        .axis_iter_mut(Axis(0))
        .into_par_iter()
        .for_each(|mut plane| {
            filter(plane.as_slice_mut().expect("C order"), ny, nz);
        });
}

/// Turns `n` rows of `width` samples into coefficients, along the rows' index.
///
/// The recursion runs forth and back; both starts assume the samples mirrored about the first and
/// the last. One sample alone has nothing to be filtered with and stays.
fn filter(rows: &mut [f64], n: usize, width: usize) {
    if n < 2 {
        return;
    }
    let gain = (1.0 - POLE) * (1.0 - 1.0 / POLE);
    rows.iter_mut().for_each(|v| *v *= gain);
    start_forward(rows, n, width);
    for i in 1..n {
        let (before, here) = rows[(i - 1) * width..(i + 1) * width].split_at_mut(width);
        here.iter_mut()
            .zip(before)
            .for_each(|(h, b)| *h += POLE * *b);
    }
    let (before, last) = rows[(n - 2) * width..].split_at_mut(width);
    for (l, b) in last.iter_mut().zip(before) {
        *l = (POLE * *b + *l) * POLE / (POLE * POLE - 1.0);
    }
    for i in (0..n - 1).rev() {
        let (here, after) = rows[i * width..(i + 2) * width].split_at_mut(width);
        here.iter_mut()
            .zip(after)
            .for_each(|(h, a)| *h = POLE * (*a - *h));
    }
}

/// First value of the forward recursion: the sum over the mirrored samples before it.
fn start_forward(rows: &mut [f64], n: usize, width: usize) {
    let end = POLE.powi(n as i32 - 1);
    let (first, rest) = rows.split_at_mut(width);
    let row = |i: usize| &rest[(i - 1) * width..i * width];
    first
        .iter_mut()
        .zip(row(n - 1))
        .for_each(|(f, l)| *f += end * l);
    let mut power = POLE;
    for i in 1..n - 1 {
        // Beyond this the terms are below the last bit of the sum.
        if power.abs() < 1e-30 {
            break;
        }
        for ((f, a), b) in first.iter_mut().zip(row(i)).zip(row(n - 1 - i)) {
            *f += power * (a + end * b);
        }
        power *= POLE;
    }
    first.iter_mut().for_each(|f| *f /= 1.0 - end * end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_through_its_samples() {
        let values = Array3::from_shape_fn((5, 1, 7), |(x, _, z)| ((x * 13 + z * 29) % 17) as f64);
        let spline = CubicSpline::through(values.clone());
        let grid = [5, 1, 7].map(|n| (0..n).map(f64::from).collect::<Vec<_>>());
        for (a, b) in spline.sample(&grid, 0.0, |v| v).iter().zip(&values) {
            assert!((a - b).abs() < 1e-12, "{a} and {b}");
        }
    }

    /// Values of `scipy.ndimage.map_coordinates(order=3, mode="constant", cval=-9)`.
    #[test]
    fn equals_scipy() {
        let line = [3.0, -7.0, 12.0, 5.0, -1.0, 9.0, 4.0, 0.0, 2.0, 8.0];
        let values = Array3::from_shape_fn((10, 2, 3), |(x, y, z)| {
            line[x] * (y as f64 + 1.0) - z as f64 * 10.0
        });
        let positions = [
            vec![-0.01, 0.0, 0.37, 4.5, 8.93, 9.0, 9.01],
            vec![0.25],
            vec![1.6],
        ];
        let found = CubicSpline::through(values).sample(&positions, -9.0, |v| v);
        let expected = EXPECTED;
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-11, "{a} and {b}");
        }
    }

    const EXPECTED: [f64; 7] = [
        -9.0,
        -14.45125,
        -18.414280495776,
        -13.127797181373,
        -8.73403405077,
        -8.67,
        -9.0,
    ];
}
