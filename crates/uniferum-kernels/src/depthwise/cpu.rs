//! Depthwise convolution on the host, one task for each sample and channel (or channel, for the
//! weight's gradient); see [`Phases`] for the layout and the loops.

use rayon::prelude::*;

use super::Depthwise;
use super::phases::Phases;
use crate::memory::zeros;
use crate::simd::Simd;

pub(super) fn forward(
    simd: Simd,
    conv: &Depthwise,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let g = &conv.geometry;
    let (n, taps) = (g.out_voxels(), g.taps());
    let [depth, height, width] = g.output;
    let layout = Phases::new(g, false);
    let mut y = zeros(conv.batch * conv.channels * n);
    y.par_chunks_mut(n)
        .zip(x.par_chunks(g.in_voxels()))
        .enumerate()
        .for_each_init(
            || (layout.input_buffer(), layout.plane_buffer()),
            |(channel, plane), (i, (y, x))| {
                let c = i % conv.channels;
                let bias = bias.map_or(0.0, |b| b[c]);
                load(&layout, conv, x, channel);
                for d in 0..depth {
                    let w = &weight[c * taps..][..taps];
                    layout.output_plane(simd, channel, w, d, plane);
                    for h in 0..height {
                        let from = layout.output_row(plane, h);
                        let to = &mut y[(d * height + h) * width..][..width];
                        to.iter_mut().zip(from).for_each(|(y, p)| *y = p + bias);
                    }
                }
            },
        );
    y
}

pub(super) fn grad_input(simd: Simd, conv: &Depthwise, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let g = &conv.geometry;
    let taps = g.taps();
    let [depth, height, width] = g.input;
    let layout = Phases::new(g, true);
    let mut dx = zeros(conv.batch * conv.channels * g.in_voxels());
    dx.par_chunks_mut(g.in_voxels())
        .zip(dy.par_chunks(g.out_voxels()))
        .enumerate()
        .for_each_init(
            || (layout.gradient_buffer(), layout.plane_buffer()),
            |(gradient, plane), (i, (dx, dy))| {
                let c = i % conv.channels;
                load_gradient(&layout, conv, dy, gradient);
                for d in 0..depth {
                    let w = &weight[c * taps..][..taps];
                    layout.input_gradient_plane(simd, gradient, w, d, plane);
                    for h in 0..height {
                        let row = &mut dx[(d * height + h) * width..][..width];
                        layout.get_row(plane, h, row);
                    }
                }
            },
        );
    dx
}

pub(super) fn grad_weight(simd: Simd, conv: &Depthwise, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let g = &conv.geometry;
    let layout = Phases::new(g, true);
    let mut dw = vec![0.0; conv.channels * g.taps()];
    dw.par_chunks_mut(g.taps()).enumerate().for_each_init(
        || (layout.input_buffer(), layout.gradient_buffer()),
        |(channel, gradient), (c, dw)| {
            let mut sums = vec![0.0; dw.len()];
            for b in 0..conv.batch {
                let i = b * conv.channels + c;
                load(&layout, conv, &x[i * g.in_voxels()..], channel);
                load_gradient(&layout, conv, &dy[i * g.out_voxels()..], gradient);
                for d in 0..g.output[0] {
                    layout.weight_gradient_plane(simd, channel, gradient, d, &mut sums);
                }
            }
            dw.iter_mut().zip(sums).for_each(|(dw, s)| *dw = s as f32);
        },
    );
    dw
}

fn load(layout: &Phases, conv: &Depthwise, x: &[f32], channel: &mut [f32]) {
    let [depth, height, width] = conv.geometry.input;
    for row in 0..depth * height {
        let (d, h) = (row / height, row % height);
        layout.put_row(channel, d, h, &x[row * width..][..width]);
    }
}

fn load_gradient(layout: &Phases, conv: &Depthwise, dy: &[f32], gradient: &mut [f32]) {
    let [depth, height, width] = conv.geometry.output;
    for row in 0..depth * height {
        let at = layout.gradient_row(row / height, row % height);
        gradient[at].copy_from_slice(&dy[row * width..][..width]);
    }
}
