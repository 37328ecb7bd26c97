//! Resampling along one axis as a sparse matrix.

use serde::{Deserialize, Serialize};

/// How values between voxels are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The value of the nearest voxel: for labels.
    Nearest,
    /// The straight line between two voxels.
    Linear,
    /// The cubic B-spline through the voxels (order 3 with prefilter), as scipy and nilearn call
    /// "continuous".
    #[default]
    Cubic,
}

/// The voxels that the cardinal cubic spline is taken to reach.
///
/// It falls by 2 - sqrt(3) = 0.27 a voxel: what is cut off is below 0.02 HU for a step of 2000 HU.
const SPLINE_REACH: f64 = 9.0;

/// A linear map from `input_len` to `len()` samples, each output a weighted sum of neighbours.
///
/// Linear and spline interpolation, smoothing against aliasing, area averages, crops and pads are
/// all of this form, and so are their products. Outputs without taps, and the missing part of
/// weights that sum to less than one, take the fill value of the volume.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisOperator {
    input_len: usize,
    starts: Vec<usize>,
    offsets: Vec<usize>,
    weights: Vec<f32>,
}

impl AxisOperator {
    fn with_capacity(input_len: usize, len: usize) -> Self {
        let mut offsets = Vec::with_capacity(len + 1);
        offsets.push(0);
        Self {
            input_len,
            starts: Vec::with_capacity(len),
            offsets,
            weights: Vec::new(),
        }
    }

    fn push(&mut self, start: usize, weights: impl IntoIterator<Item = f32>) {
        self.starts.push(start);
        self.weights.extend(weights);
        self.offsets.push(self.weights.len());
    }

    /// Number of input samples.
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// Number of output samples.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no output sample.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// First input sample and weights of output `k`.
    #[inline(always)]
    pub fn taps(&self, k: usize) -> (usize, &[f32]) {
        (
            self.starts[k],
            &self.weights[self.offsets[k]..self.offsets[k + 1]],
        )
    }

    /// The range of inputs that any output reads; empty at 0 when none does.
    pub fn reads(&self) -> std::ops::Range<usize> {
        let taps = || {
            (0..self.len())
                .map(|k| self.taps(k))
                .filter(|(_, w)| !w.is_empty())
        };
        let first = taps().map(|(start, _)| start).min().unwrap_or(0);
        first..taps().map(|(start, w)| start + w.len()).max().unwrap_or(0)
    }

    /// The longest range of outputs that all have the same weights, each one sample further on.
    pub(crate) fn convolution(&self) -> std::ops::Range<usize> {
        let mut longest = 0..0;
        let mut first = 0;
        for k in 1..=self.len() {
            let goes_on = k < self.len() && {
                let ((a, v), (b, w)) = (self.taps(k - 1), self.taps(k));
                b == a + 1 && v == w && !w.is_empty()
            };
            if !goes_on {
                if k - first > longest.len() {
                    longest = first..k;
                }
                first = k;
            }
        }
        longest
    }

    /// Output `k` is the input at `k + offset`, or nothing outside: a crop, a pad or both.
    pub fn window(input_len: usize, len: usize, offset: isize) -> Self {
        let mut op = Self::with_capacity(input_len, len);
        for k in 0..len {
            match k.checked_add_signed(offset).filter(|&i| i < input_len) {
                Some(i) => op.push(i, [1.0]),
                None => op.push(0, []),
            }
        }
        op
    }

    /// Like [`window`](Self::window), but what lies outside repeats the nearest edge sample.
    pub fn window_clamped(input_len: usize, len: usize, offset: isize) -> Self {
        let mut op = Self::with_capacity(input_len, len);
        for k in 0..len {
            let i = (k as isize + offset).clamp(0, input_len.max(1) as isize - 1);
            op.push(i as usize, [1.0]);
        }
        op
    }

    /// Output `k` is the sum of `weights` over the inputs from `k + first` on, the edge repeated.
    pub(crate) fn smoothing(input_len: usize, len: usize, first: isize, weights: &[f32]) -> Self {
        let mut op = Self::with_capacity(input_len, len);
        let clamp = |i: isize| i.clamp(0, input_len.max(1) as isize - 1) as usize;
        for k in 0..len as isize {
            let low = clamp(k + first);
            let high = clamp(k + first + weights.len() as isize - 1);
            let mut folded = vec![0.0; high - low + 1];
            for (t, &w) in weights.iter().enumerate() {
                folded[clamp(k + first + t as isize) - low] += w;
            }
            op.push(low, folded);
        }
        op
    }

    /// Adaptive averages: output `k` is the mean of the inputs from `floor(k n / m)` up to
    /// `ceil((k + 1) n / m)`, as PyTorch's `area` interpolation.
    pub fn area(input_len: usize, len: usize) -> Self {
        let mut op = Self::with_capacity(input_len, len);
        for k in 0..len {
            let first = k * input_len / len;
            let past = ((k + 1) * input_len).div_ceil(len);
            let n = past - first;
            op.push(first, std::iter::repeat_n(1.0 / n as f32, n));
        }
        op
    }

    /// Output `k` is the sample nearest to the centre of its share of the input.
    pub fn nearest(input_len: usize, len: usize) -> Self {
        let mut op = Self::with_capacity(input_len, len);
        for k in 0..len {
            op.push((2 * k + 1) * input_len / (2 * len), [1.0]);
        }
        op
    }

    /// Samples the input at `origin + k step`, in voxels of the input.
    ///
    /// Positions within half a voxel of the first and last sample are inside; beyond them outputs
    /// have no taps. With `antialias`, a `step` above one widens the kernel by as much, so that
    /// what the coarser grid cannot hold is averaged and not aliased.
    pub fn sampling(
        input_len: usize,
        len: usize,
        origin: f64,
        step: f64,
        interpolation: Interpolation,
        antialias: bool,
    ) -> Self {
        let width = if antialias { step.abs().max(1.0) } else { 1.0 };
        let mut op = Self::with_capacity(input_len, len);
        for k in 0..len {
            let at = origin + k as f64 * step;
            // A whisker of tolerance: positions are sums of rounded numbers.
            if input_len == 0 || at < -0.5 - 1e-6 || at > input_len as f64 - 0.5 + 1e-6 {
                op.push(0, []);
                continue;
            }
            match interpolation {
                Interpolation::Nearest => {
                    let i = (at + 0.5).floor().clamp(0.0, input_len as f64 - 1.0);
                    op.push(i as usize, [1.0]);
                }
                Interpolation::Linear => {
                    let inside = at.clamp(0.0, input_len as f64 - 1.0);
                    op.push_kernel(inside, width, 1.0, Edge::Drop, triangle);
                }
                Interpolation::Cubic => {
                    op.push_kernel(at, width, SPLINE_REACH, Edge::Mirror, cardinal_cubic);
                }
            }
        }
        op
    }

    /// Appends one output: `kernel((i - at) / width)` over the inputs, normalised to sum to one.
    fn push_kernel(
        &mut self,
        at: f64,
        width: f64,
        reach: f64,
        edge: Edge,
        kernel: impl Fn(f64) -> f64,
    ) {
        let n = self.input_len as isize;
        let first = (at - reach * width).ceil() as isize;
        let last = (at + reach * width).floor() as isize;
        let (low, high) = (first.max(0).min(n - 1), last.min(n - 1).max(0));
        // Mirrored taps can fall anywhere in a short input.
        let (low, high) = match edge {
            Edge::Drop => (low, high),
            Edge::Mirror => {
                let low = if last > n - 1 {
                    low.min((2 * (n - 1) - last).max(0))
                } else {
                    low
                };
                let high = if first < 0 {
                    high.max((-first).min(n - 1))
                } else {
                    high
                };
                (low, high)
            }
        };
        let mut weights = vec![0.0; (high - low + 1) as usize];
        for i in first..=last {
            let weight = kernel((i as f64 - at) / width);
            let i = match edge {
                Edge::Drop if i < 0 || i >= n => continue,
                Edge::Drop => i,
                Edge::Mirror => mirror(i, n),
            };
            // A mirrored tap of a very short input may lie outside the range found above.
            weights[(i.clamp(low, high) - low) as usize] += weight;
        }
        let sum: f64 = weights.iter().sum();
        self.push(low as usize, weights.into_iter().map(|w| (w / sum) as f32));
    }

    /// The operator that applies `first` and then `self`.
    ///
    /// # Panics
    ///
    /// If `first` does not give as many samples as `self` takes; both come from this crate.
    pub(crate) fn after(&self, first: &Self) -> Self {
        assert_eq!(
            first.len(),
            self.input_len,
            "operators that follow each other must fit"
        );
        let mut op = Self::with_capacity(first.input_len, self.len());
        for k in 0..self.len() {
            let (start, outer) = self.taps(k);
            let inner = || {
                outer
                    .iter()
                    .enumerate()
                    .map(|(t, &w)| (w, first.taps(start + t)))
            };
            let used = || inner().filter(|(_, (_, w))| !w.is_empty());
            let Some(low) = used().map(|(_, (s, _))| s).min() else {
                op.push(0, []);
                continue;
            };
            let high = used().map(|(_, (s, w))| s + w.len()).max().unwrap_or(low);
            let mut weights = vec![0.0f32; high - low];
            for (outer, (s, taps)) in used() {
                for (t, &w) in taps.iter().enumerate() {
                    weights[s - low + t] += outer * w;
                }
            }
            op.push(low, weights);
        }
        op
    }

    /// The same map for an input of `input_len` samples of which this one's are those from `first`.
    pub(crate) fn embedded(&self, first: usize, input_len: usize) -> Self {
        let starts = self.starts.iter().map(|s| s + first).collect();
        Self {
            input_len,
            starts,
            ..self.clone()
        }
    }

    /// The same map for an input of which only the samples from `range.start` on are handed over.
    pub(crate) fn rebased(&self, range: &std::ops::Range<usize>) -> Self {
        let starts = self
            .starts
            .iter()
            .map(|s| s.saturating_sub(range.start))
            .collect();
        Self {
            input_len: range.len(),
            starts,
            ..self.clone()
        }
    }
}

/// What happens to taps that fall outside the input.
#[derive(Clone, Copy)]
enum Edge {
    /// Left out; the others share their weight.
    Drop,
    /// Reflected about the first or last sample.
    Mirror,
}

/// Reflects an index into `0..n` about the centres of the first and last sample.
pub(crate) fn mirror(i: isize, n: isize) -> isize {
    if n == 1 {
        return 0;
    }
    let i = i.rem_euclid(2 * (n - 1));
    if i < n { i } else { 2 * (n - 1) - i }
}

/// Weights of the samples about a position `share` (0 to 1) past a sample, from `offset` on relative to
/// that sample; just that sample where the position is on it.
pub(crate) fn shift_weights(share: f64, interpolation: Interpolation) -> (isize, Vec<f32>) {
    let (reach, kernel): (f64, fn(f64) -> f64) = match interpolation {
        Interpolation::Nearest => return (isize::from(share >= 0.5), vec![1.0]),
        Interpolation::Linear => (1.0, triangle),
        Interpolation::Cubic => (SPLINE_REACH, cardinal_cubic),
    };
    if share < 1e-6 {
        return (0, vec![1.0]);
    }
    let first = (share - reach).ceil() as isize;
    let last = (share + reach).floor() as isize;
    let weights: Vec<f64> = (first..=last).map(|i| kernel(i as f64 - share)).collect();
    let sum: f64 = weights.iter().sum();
    (first, weights.iter().map(|w| (w / sum) as f32).collect())
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// The cubic B-spline.
fn cubic_b_spline(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        2.0 / 3.0 - x * x * (1.0 - x / 2.0)
    } else if x < 2.0 {
        (2.0 - x).powi(3) / 6.0
    } else {
        0.0
    }
}

/// The cubic spline that is 1 at 0 and 0 at every other integer: B-spline and prefilter in one.
fn cardinal_cubic(x: f64) -> f64 {
    const POLE: f64 = -0.267_949_192_431_122_7; // sqrt(3) - 2
    let gain = 3.0f64.sqrt();
    let nearest = x.round() as i32;
    (nearest - 2..=nearest + 2)
        .map(|k| gain * POLE.powi(k.abs()) * cubic_b_spline(x - f64::from(k)))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(op: &AxisOperator, input: &[f32]) -> Vec<f32> {
        (0..op.len())
            .map(|k| {
                let (start, w) = op.taps(k);
                w.iter().zip(&input[start..]).map(|(w, v)| w * v).sum()
            })
            .collect()
    }

    fn close(a: &[f32], b: &[f32], tolerance: f32) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= tolerance, "sample {i}: {a} and {b}");
        }
    }

    #[test]
    fn area_is_the_adaptive_mean() {
        let input: Vec<f32> = (0..6).map(|i| (i * i) as f32).collect();
        // Windows 0..2, 1..3, 3..5, 4..6.
        close(
            &apply(&AxisOperator::area(6, 4), &input),
            &[0.5, 2.5, 12.5, 20.5],
            1e-6,
        );
        close(
            &apply(&AxisOperator::area(2, 4), &[3.0, 5.0]),
            &[3.0, 3.0, 5.0, 5.0],
            0.0,
        );
    }

    #[test]
    fn nearest_takes_the_middle() {
        let input: Vec<f32> = (0..6).map(|i| i as f32).collect();
        close(
            &apply(&AxisOperator::nearest(6, 2), &input),
            &[1.0, 4.0],
            0.0,
        );
        close(
            &apply(&AxisOperator::nearest(6, 4), &input),
            &[0.0, 2.0, 3.0, 5.0],
            0.0,
        );
    }

    #[test]
    fn windows_crop_and_pad() {
        let op = AxisOperator::window(3, 5, -1);
        close(
            &apply(&op, &[1.0, 2.0, 3.0]),
            &[0.0, 1.0, 2.0, 3.0, 0.0],
            0.0,
        );
        let op = AxisOperator::window_clamped(3, 5, -1);
        close(
            &apply(&op, &[1.0, 2.0, 3.0]),
            &[1.0, 1.0, 2.0, 3.0, 3.0],
            0.0,
        );
        close(
            &apply(&AxisOperator::window(5, 2, 2), &[1., 2., 3., 4., 5.]),
            &[3.0, 4.0],
            0.0,
        );
    }

    #[test]
    fn samples_on_the_grid_are_kept() {
        let input: Vec<f32> = (0..12)
            .map(|i| ((i * 37) % 11) as f32 * 90.0 - 500.0)
            .collect();
        for interpolation in [
            Interpolation::Nearest,
            Interpolation::Linear,
            Interpolation::Cubic,
        ] {
            let op = AxisOperator::sampling(12, 12, 0.0, 1.0, interpolation, true);
            close(&apply(&op, &input), &input, 2e-2);
        }
    }

    /// Values of `scipy.ndimage.map_coordinates(order=3, mode="mirror")` on the same samples.
    #[test]
    fn cubic_equals_the_spline_of_scipy() {
        let input = [3.0, -7.0, 12.0, 5.0, -1.0, 9.0, 4.0, 0.0, 2.0, 8.0];
        #[rustfmt::skip]
        let expected = [
            0.596358, 1.941095, -5.155601, -5.363065, 5.491676,
            13.091945, 10.087727, 3.265761, -1.104841, -0.236564,
            5.385978, 9.259642, 7.404653, 3.49414, 0.991368,
            -0.054376, 0.138336, 2.19367, 5.934539, 7.998836,
        ];
        let op = AxisOperator::sampling(10, 20, -0.3, 0.49, Interpolation::Cubic, false);
        close(&apply(&op, &input), &expected, 2e-4);
    }

    #[test]
    fn constants_stay_constant_however_coarse() {
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            for (n, step) in [(1usize, 0.5), (2, 0.7), (5, 2.3), (40, 4.0), (40, 0.31)] {
                let len = ((n as f64 - 0.5) / step).floor() as usize + 1;
                let op = AxisOperator::sampling(n, len, 0.0, step, interpolation, true);
                close(&apply(&op, &vec![7.0; n]), &vec![7.0; len], 1e-5);
            }
        }
    }

    #[test]
    fn antialiasing_removes_what_the_grid_cannot_hold() {
        let stripes: Vec<f32> = (0..64)
            .map(|i| if i % 2 == 0 { 1000.0 } else { -1000.0 })
            .collect();
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            let op = AxisOperator::sampling(64, 12, 8.0, 4.0, interpolation, true);
            for value in apply(&op, &stripes) {
                assert!(value.abs() < 130.0, "{interpolation:?}: {value}");
            }
        }
    }

    #[test]
    fn composition_is_one_after_the_other() {
        let input: Vec<f32> = (0..10).map(|i| ((i * 7) % 5) as f32).collect();
        let crop = AxisOperator::window(10, 8, 1);
        let area = AxisOperator::area(8, 3);
        close(
            &apply(&area.after(&crop), &input),
            &apply(&area, &apply(&crop, &input)),
            1e-6,
        );
    }
}
