//! One channel laid out so that every loop of a depthwise convolution runs over contiguous memory.
//!
//! Along height and width a padded position `p = index + padding before` is split into its
//! phase `p % stride` and its place `p / stride`. The output `o` reads, for tap `t`, the place
//! `o + t / stride` of phase `t % stride`: shifted, never strided. A plane holds its phases one
//! after the other, each with rows of the same pitch:
//!
//! ```text
//! plane d:  [phase (0,0)] [phase (0,1)] [phase (1,0)] [phase (1,1)]      (stride 2)
//! phase:    rows of `pitch` = places + `front` zeros
//! ```
//!
//! The gradient of the output is laid out with the same pitch behind `front` zero rows and
//! columns. The gradient of the input is then, phase by phase, a sum of shifted copies of it:
//! place `q` of phase `f` gets `w[f + stride j] * dy[q - j]` for every `j`. Planes outside the
//! volume are skipped rather than padded.

use std::ops::Range;

use super::fir::{STEP, Taps, correlate, fir};
use crate::geometry::Geometry;
use crate::memory::Scratch;
use crate::simd::Simd;

/// The layout of a channel and of its gradient.
pub(crate) struct Phases {
    g: Geometry,
    /// Places of a phase along height and width.
    places: [usize; 2],
    /// Zeros before the rows and the columns of an output gradient.
    front: [usize; 2],
    pitch: usize,
    phase: usize,
    dy_plane: usize,
    /// Where the taps of one kernel plane read.
    offsets: Vec<usize>,
    /// The transposed taps of each phase of a plane.
    transposed: Vec<Transposed>,
}

/// The taps that reach one phase (along height and width) of the input.
struct Transposed {
    /// Places in one kernel plane.
    taps: Vec<usize>,
    /// Where they read in an output gradient's plane.
    offsets: Vec<usize>,
}

impl Phases {
    /// `gradients`: whether gradients will be laid out too, which takes wider rows.
    pub(crate) fn new(g: &Geometry, gradients: bool) -> Self {
        let [_, sh, sw] = g.stride;
        let places = [1, 2].map(|a| {
            let reach = (g.output[a] - 1) * g.stride[a] + g.kernel[a];
            reach.max(g.before[a] + g.input[a]).div_ceil(g.stride[a])
        });
        let front = [1, 2].map(|a| {
            let before = g.kernel[a].div_ceil(g.stride[a]) - 1;
            if gradients { before } else { 0 }
        });
        let pitch = places[1] + front[1];
        let phase = places[0] * pitch;
        let offsets = taps_of(g.kernel)
            .map(|[h, w]| ((h % sh) * sw + w % sw) * phase + (h / sh) * pitch + w / sw)
            .collect();
        let transposed = (0..sh * sw)
            .map(|f| Transposed::new(g, [f / sw, f % sw], front, pitch))
            .collect();
        Self {
            g: *g,
            places,
            front,
            pitch,
            phase,
            dy_plane: (places[0] + front[0]) * pitch + STEP,
            offsets,
            transposed,
        }
    }

    fn plane(&self) -> usize {
        self.g.stride[1] * self.g.stride[2] * self.phase
    }

    /// A zeroed buffer for an input channel.
    pub(crate) fn input_buffer(&self) -> Scratch {
        Scratch::zeroed(self.g.input[0] * self.plane() + 2 * STEP)
    }

    /// A zeroed buffer for the gradient of an output channel.
    pub(crate) fn gradient_buffer(&self) -> Scratch {
        Scratch::zeroed(self.g.output[0] * self.dy_plane + 2 * STEP)
    }

    /// A buffer for what [`output_plane`](Self::output_plane) and
    /// [`input_gradient_plane`](Self::input_gradient_plane) make.
    pub(crate) fn plane_buffer(&self) -> Scratch {
        Scratch::zeroed(self.plane() + 2 * STEP)
    }

    /// Writes row `h` of input plane `d` into a channel's buffer.
    #[inline]
    pub(crate) fn put_row(&self, buffer: &mut [f32], d: usize, h: usize, row: &[f32]) {
        self.each_phase_of_row(d, h, |first, stride, at| {
            let n = (row.len() - first).div_ceil(stride);
            let to = &mut buffer[at..at + n];
            if stride == 1 {
                to.copy_from_slice(row);
            } else {
                let from = row[first..].iter().step_by(stride);
                to.iter_mut().zip(from).for_each(|(t, f)| *t = *f);
            }
        });
    }

    /// Reads row `h` of the plane of an input gradient.
    #[inline]
    pub(crate) fn get_row(&self, plane: &[f32], h: usize, row: &mut [f32]) {
        self.each_phase_of_row(0, h, |first, stride, at| {
            let n = (row.len() - first).div_ceil(stride);
            let from = &plane[at..at + n];
            if stride == 1 {
                row.copy_from_slice(from);
            } else {
                let to = row[first..].iter_mut().step_by(stride);
                to.zip(from).for_each(|(t, f)| *t = *f);
            }
        });
    }

    /// Calls `f(first voxel, stride, place in the buffer)` for each phase of a row.
    #[inline(always)]
    fn each_phase_of_row(&self, d: usize, h: usize, mut f: impl FnMut(usize, usize, usize)) {
        let [_, sh, sw] = self.g.stride;
        let [_, bh, bw] = self.g.before;
        let p = h + bh;
        let row = d * self.plane() + (p % sh) * sw * self.phase + (p / sh) * self.pitch;
        for phase in 0..sw {
            let first = (phase + sw - bw % sw) % sw;
            if first < self.g.input[2] {
                f(first, sw, row + phase * self.phase + (first + bw) / sw);
            }
        }
    }

    /// Elements of a row of the output in a plane buffer.
    pub(crate) fn output_row<'a>(&self, plane: &'a [f32], h: usize) -> &'a [f32] {
        &plane[h * self.pitch..][..self.g.output[2]]
    }

    /// The place of row `h` of output plane `d` in a gradient buffer.
    pub(crate) fn gradient_row(&self, d: usize, h: usize) -> Range<usize> {
        let at = d * self.dy_plane + (h + self.front[0]) * self.pitch + self.front[1];
        at..at + self.g.output[2]
    }

    /// Elements between the first and the last output of a plane, in whole steps.
    fn output_span(&self) -> usize {
        ((self.g.output[1] - 1) * self.pitch + self.g.output[2]).next_multiple_of(STEP)
    }

    /// Kernel planes that output plane `d` sees, and the input plane of the first.
    fn depth_taps(&self, d: usize) -> (Range<usize>, usize) {
        let (s, before) = (self.g.stride[0], self.g.before[0]);
        let first = before.saturating_sub(d * s).min(self.g.kernel[0]);
        let last = (self.g.input[0] + before).saturating_sub(d * s);
        let last = last.min(self.g.kernel[0]).max(first);
        (first..last, (d * s + first).saturating_sub(before))
    }

    /// Output plane `d` of the convolution of the channel in `x`; rows are
    /// [`output_row`](Self::output_row)s.
    pub(crate) fn output_plane(&self, simd: Simd, x: &[f32], w: &[f32], d: usize, out: &mut [f32]) {
        let (taps, plane) = self.depth_taps(d);
        let area = self.offsets.len();
        let out = &mut out[..self.output_span()];
        out.fill(0.0);
        let offsets = self.repeated(&self.offsets, self.plane(), taps.len());
        let places = Taps {
            src: x,
            base: plane * self.plane(),
            offsets: &offsets,
        };
        fir(simd, out, places, &w[taps.start * area..taps.end * area]);
    }

    /// Adds what output plane `d` contributes to the gradient of the weight.
    pub(crate) fn weight_gradient_plane(
        &self,
        simd: Simd,
        x: &[f32],
        dy: &[f32],
        d: usize,
        dw: &mut [f64],
    ) {
        let (taps, plane) = self.depth_taps(d);
        let area = self.offsets.len();
        let start = self.gradient_row(d, 0).start;
        let dy = &dy[start..start + self.output_span()];
        for (i, tap) in taps.enumerate() {
            let places = Taps {
                src: x,
                base: (plane + i) * self.plane(),
                offsets: &self.offsets,
            };
            correlate(simd, &mut dw[tap * area..][..area], dy, places);
        }
    }

    /// Plane `d` of the gradient of the input, laid out as the input is.
    pub(crate) fn input_gradient_plane(
        &self,
        simd: Simd,
        dy: &[f32],
        w: &[f32],
        d: usize,
        out: &mut [f32],
    ) {
        let (s, k) = (self.g.stride[0], self.g.kernel[0]);
        let p = d + self.g.before[0];
        // Output plane `p / s - j` is reached through kernel plane `p % s + s j`.
        let reached = |j: &usize| {
            let tap = p % s + s * j;
            tap < k && p / s >= *j && p / s - j < self.g.output[0]
        };
        let js: Vec<usize> = (0..k.div_ceil(s)).filter(reached).collect();
        let area = self.offsets.len();
        let span = ((self.places[0] - 1) * self.pitch + self.places[1]).next_multiple_of(STEP);
        let (mut offsets, mut weights) = (Vec::new(), Vec::new());
        for (f, class) in self.transposed.iter().enumerate() {
            offsets.clear();
            weights.clear();
            for j in &js {
                let plane = (p / s - j) * self.dy_plane;
                offsets.extend(class.offsets.iter().map(|o| o + plane));
                let kernel = &w[(p % s + s * j) * area..][..area];
                weights.extend(class.taps.iter().map(|t| kernel[*t]));
            }
            // The last step may reach into the next phase, which is written afterwards.
            let out = &mut out[f * self.phase..][..span];
            let places = Taps {
                src: dy,
                base: 0,
                offsets: &offsets,
            };
            fir(simd, out, places, &weights);
        }
    }

    fn repeated(&self, offsets: &[usize], step: usize, times: usize) -> Vec<usize> {
        (0..times)
            .flat_map(|i| offsets.iter().map(move |o| o + i * step))
            .collect()
    }
}

impl Transposed {
    fn new(g: &Geometry, phase: [usize; 2], front: [usize; 2], pitch: usize) -> Self {
        let [_, sh, sw] = g.stride;
        let [_, _, kw] = g.kernel;
        let reaches = |[h, w]: &[usize; 2]| h % sh == phase[0] && w % sw == phase[1];
        let own = taps_of(g.kernel).filter(reaches);
        let (taps, offsets) = own
            .map(|[h, w]| {
                // Without room in front no gradient is laid out and none is read.
                let rows = front[0].saturating_sub(h / sh);
                let columns = front[1].saturating_sub(w / sw);
                (h * kw + w, rows * pitch + columns)
            })
            .unzip();
        Self { taps, offsets }
    }
}

/// Every tap of a kernel plane, in the weight's order.
fn taps_of([_, kh, kw]: [usize; 3]) -> impl Iterator<Item = [usize; 2]> {
    (0..kh * kw).map(move |t| [t / kw, t % kw])
}
