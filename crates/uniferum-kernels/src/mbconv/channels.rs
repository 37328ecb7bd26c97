//! One channel of one sample inside the depthwise convolution, with its borders.

use super::plan::Plan;
use crate::batch_norm::maps::norm_silu;
use crate::depthwise::Phases;
use crate::memory::Scratch;
use crate::simd::Simd;

/// Buffers of a thread for one channel of one sample.
pub(super) struct ChannelBuffer {
    input: [usize; 3],
    output: [usize; 3],
    /// The channel with its borders.
    pub(super) channel: Scratch,
    /// A plane with its borders.
    pub(super) plane: Scratch,
    /// A plane as it lies in the array.
    pub(super) plain: Scratch,
}

impl ChannelBuffer {
    pub(super) fn new(plan: &Plan, layout: &Phases) -> Self {
        let [_, h, w] = plan.geometry.input;
        Self {
            input: plan.geometry.input,
            output: plan.geometry.output,
            channel: layout.input_buffer(),
            plane: layout.plane_buffer(),
            plain: Scratch::new(h * w),
        }
    }

    /// Takes in a channel, after `silu(scale x + shift)` if there is such a norm.
    pub(super) fn load(
        &mut self,
        simd: Simd,
        layout: &Phases,
        x: &[f32],
        norm: Option<(f32, f32)>,
    ) {
        let [depth, height, width] = self.input;
        for d in 0..depth {
            let mut plane = &x[d * height * width..][..height * width];
            if let Some((scale, shift)) = norm {
                norm_silu(simd, &mut self.plain, plane, scale, shift, 1.0);
                plane = &self.plain;
            }
            for (h, row) in plane.chunks_exact(width).enumerate() {
                layout.put_row(&mut self.channel, d, h, row);
            }
        }
    }

    pub(super) fn convolve(&mut self, simd: Simd, layout: &Phases, w: &[f32], out: &mut [f32]) {
        let [_, height, width] = self.output;
        for (d, out) in out.chunks_exact_mut(height * width).enumerate() {
            layout.output_plane(simd, &self.channel, w, d, &mut self.plane);
            for (h, row) in out.chunks_exact_mut(width).enumerate() {
                row.copy_from_slice(layout.output_row(&self.plane, h));
            }
        }
    }
}

/// Buffers of a thread for one channel of one sample and its gradient.
pub(super) struct ChannelScratch {
    inner: ChannelBuffer,
    input: [usize; 3],
    output: [usize; 3],
    gradient: Scratch,
}

impl ChannelScratch {
    pub(super) fn new(plan: &Plan, layout: &Phases) -> Self {
        Self {
            inner: ChannelBuffer::new(plan, layout),
            input: plan.geometry.input,
            output: plan.geometry.output,
            gradient: layout.gradient_buffer(),
        }
    }

    pub(super) fn load(
        &mut self,
        simd: Simd,
        layout: &Phases,
        x: &[f32],
        norm: Option<(f32, f32)>,
    ) {
        self.inner.load(simd, layout, x, norm);
    }

    pub(super) fn load_gradient(&mut self, layout: &Phases, dy: &[f32]) {
        let [_, height, width] = self.output;
        for (row, dy) in dy.chunks_exact(width).enumerate() {
            let at = layout.gradient_row(row / height, row % height);
            self.gradient[at].copy_from_slice(dy);
        }
    }

    pub(super) fn add_weight_gradient(&self, simd: Simd, layout: &Phases, sums: &mut [f64]) {
        for d in 0..self.output[0] {
            layout.weight_gradient_plane(simd, &self.inner.channel, &self.gradient, d, sums);
        }
    }

    /// Calls `f(its voxels, gradient)` for each plane of the gradient of the input.
    pub(super) fn planes(
        &mut self,
        simd: Simd,
        layout: &Phases,
        kernel: &[f32],
        mut f: impl FnMut(std::ops::Range<usize>, &[f32]),
    ) {
        let [depth, height, width] = self.input;
        let area = height * width;
        for d in 0..depth {
            let ChannelBuffer { plane, plain, .. } = &mut self.inner;
            layout.input_gradient_plane(simd, &self.gradient, kernel, d, plane);
            for (h, row) in plain.chunks_exact_mut(width).enumerate() {
                layout.get_row(plane, h, row);
            }
            f(d * area..(d + 1) * area, plain);
        }
    }
}
