//! Depthwise convolution on the host, one task for each sample and channel.
//!
//! A channel is first copied into a buffer with its zeros around it, so that no inner loop
//! asks where the border is. Then, for each output row:
//!
//! ```text
//! for each block of 32 outputs along the width        (accumulators stay in registers)
//!     for each tap (td, th, tw)
//!         acc[i] += weight[tap] * padded[(od*s + td, oh*s + th, (ow + i)*s + tw)]
//! ```
//!
//! The gradient of the input scatters rows into such a padded buffer; that of the weight is
//! an inner product of rows for each tap.

use rayon::prelude::*;

use super::Depthwise;
use crate::geometry::Geometry;
use crate::simd::{Simd, madd, multiversion};

/// Outputs whose accumulators stay in registers.
const BLOCK: usize = 32;

/// A channel with zeros around it: every tap of every output reads inside.
struct Padded {
    dims: [usize; 3],
    data: Vec<f32>,
}

impl Padded {
    fn new(g: &Geometry) -> Self {
        let dims = std::array::from_fn(|a| {
            let reach = (g.output[a] - 1) * g.stride[a] + g.kernel[a];
            reach.max(g.before[a] + g.input[a])
        });
        Self {
            dims,
            data: vec![0.0; dims.iter().product()],
        }
    }

    fn row(&self, d: usize, h: usize) -> usize {
        (d * self.dims[1] + h) * self.dims[2]
    }

    /// The interior rows, each with its place in the unpadded channel.
    fn interior(&self, g: &Geometry) -> impl Iterator<Item = (usize, usize)> + use<> {
        let [depth, height, width] = g.input;
        let [d0, h0, w0] = g.before;
        let [_, ph, pw] = self.dims;
        (0..depth * height).map(move |row| {
            let (d, h) = (row / height, row % height);
            (((d + d0) * ph + h + h0) * pw + w0, row * width)
        })
    }

    fn load(&mut self, g: &Geometry, x: &[f32]) {
        for (padded, plain) in self.interior(g) {
            let row = &x[plain..][..g.input[2]];
            self.data[padded..][..g.input[2]].copy_from_slice(row);
        }
    }

    fn store(&self, g: &Geometry, x: &mut [f32]) {
        for (padded, plain) in self.interior(g) {
            let row = &self.data[padded..][..g.input[2]];
            x[plain..][..g.input[2]].copy_from_slice(row);
        }
    }
}

pub(super) fn forward(
    simd: Simd,
    conv: &Depthwise,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let g = &conv.geometry;
    let (n, taps) = (g.out_voxels(), g.taps());
    let mut y = vec![0.0; conv.batch * conv.channels * n];
    y.par_chunks_mut(n)
        .zip(x.par_chunks(g.in_voxels()))
        .enumerate()
        .for_each_init(
            || Padded::new(g),
            |padded, (i, (y, x))| {
                let c = i % conv.channels;
                padded.load(g, x);
                channel(
                    simd,
                    g,
                    padded,
                    &weight[c * taps..][..taps],
                    bias.map_or(0.0, |b| b[c]),
                    y,
                );
            },
        );
    y
}

multiversion! {
    fn channel(g: &Geometry, x: &Padded, w: &[f32], bias: f32, y: &mut [f32]) = channel_body;
}

#[inline(always)]
fn channel_body<const FMA: bool>(g: &Geometry, x: &Padded, w: &[f32], bias: f32, y: &mut [f32]) {
    for (row, y) in y.chunks_exact_mut(g.output[2]).enumerate() {
        let (od, oh) = (row / g.output[1], row % g.output[1]);
        let (blocks, tail) = y.as_chunks_mut::<BLOCK>();
        let done = blocks.len() * BLOCK;
        for (i, block) in blocks.iter_mut().enumerate() {
            outputs::<FMA, BLOCK>(g, x, w, bias, [od, oh, i * BLOCK], block);
        }
        let (eights, tail) = tail.as_chunks_mut::<8>();
        for (i, block) in eights.iter_mut().enumerate() {
            outputs::<FMA, 8>(g, x, w, bias, [od, oh, done + i * 8], block);
        }
        let done = done + eights.len() * 8;
        for (i, y) in tail.iter_mut().enumerate() {
            let mut one = [0.0];
            outputs::<FMA, 1>(g, x, w, bias, [od, oh, done + i], &mut one);
            *y = one[0];
        }
    }
}

/// `N` neighbouring outputs of one row.
#[inline(always)]
fn outputs<const FMA: bool, const N: usize>(
    g: &Geometry,
    x: &Padded,
    w: &[f32],
    bias: f32,
    [od, oh, ow]: [usize; 3],
    y: &mut [f32; N],
) {
    let [sd, sh, sw] = g.stride;
    let mut acc = [bias; N];
    let mut taps = w.chunks_exact(g.kernel[2]);
    for td in 0..g.kernel[0] {
        for th in 0..g.kernel[1] {
            let start = x.row(od * sd + td, oh * sh + th) + ow * sw;
            let row = &x.data[start..];
            let taps = taps.next().expect("one row of taps for each (td, th)");
            if sw == 1 {
                for (tw, w) in taps.iter().enumerate() {
                    let row = &row[tw..][..N];
                    for i in 0..N {
                        acc[i] = madd::<FMA>(*w, row[i], acc[i]);
                    }
                }
            } else {
                for (tw, w) in taps.iter().enumerate() {
                    let row = &row[tw..][..(N - 1) * sw + 1];
                    for i in 0..N {
                        acc[i] = madd::<FMA>(*w, row[i * sw], acc[i]);
                    }
                }
            }
        }
    }
    *y = acc;
}

pub(super) fn grad_input(simd: Simd, conv: &Depthwise, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let g = &conv.geometry;
    let taps = g.taps();
    let mut dx = vec![0.0; conv.batch * conv.channels * g.in_voxels()];
    dx.par_chunks_mut(g.in_voxels())
        .zip(dy.par_chunks(g.out_voxels()))
        .enumerate()
        .for_each_init(
            || Padded::new(g),
            |padded, (i, (dx, dy))| {
                let c = i % conv.channels;
                padded.data.fill(0.0);
                scatter(simd, g, &weight[c * taps..][..taps], dy, padded);
                padded.store(g, dx);
            },
        );
    dx
}

multiversion! {
    fn scatter(g: &Geometry, w: &[f32], dy: &[f32], dx: &mut Padded) = scatter_body;
}

#[inline(always)]
fn scatter_body<const FMA: bool>(g: &Geometry, w: &[f32], dy: &[f32], dx: &mut Padded) {
    each_tap_row(g, dx.dims, |tap, out, at| {
        let dy = &dy[out..][..g.output[2]];
        let dx = &mut dx.data[at..];
        if g.stride[2] == 1 {
            for (dx, dy) in dx.iter_mut().zip(dy) {
                *dx = madd::<FMA>(w[tap], *dy, *dx);
            }
        } else {
            for (dx, dy) in dx.iter_mut().step_by(g.stride[2]).zip(dy) {
                *dx = madd::<FMA>(w[tap], *dy, *dx);
            }
        }
    });
}

pub(super) fn grad_weight(simd: Simd, conv: &Depthwise, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let g = &conv.geometry;
    let mut dw = vec![0.0; conv.channels * g.taps()];
    dw.par_chunks_mut(g.taps()).enumerate().for_each_init(
        || Padded::new(g),
        |padded, (c, dw)| {
            let mut sums = vec![0.0; dw.len()];
            for b in 0..conv.batch {
                let i = b * conv.channels + c;
                padded.load(g, &x[i * g.in_voxels()..][..g.in_voxels()]);
                correlate(
                    simd,
                    g,
                    padded,
                    &dy[i * g.out_voxels()..][..g.out_voxels()],
                    &mut sums,
                );
            }
            dw.iter_mut().zip(sums).for_each(|(dw, s)| *dw = s as f32);
        },
    );
    dw
}

multiversion! {
    fn correlate(g: &Geometry, x: &Padded, dy: &[f32], dw: &mut [f64]) = correlate_body;
}

#[inline(always)]
fn correlate_body<const FMA: bool>(g: &Geometry, x: &Padded, dy: &[f32], dw: &mut [f64]) {
    const LANES: usize = 16;
    let sw = g.stride[2];
    each_tap_row(g, x.dims, |tap, out, at| {
        let dy = &dy[out..][..g.output[2]];
        let x = &x.data[at..];
        let mut acc = [0.0f32; LANES];
        let (lanes, tail) = dy.as_chunks::<LANES>();
        for (j, dy) in lanes.iter().enumerate() {
            if sw == 1 {
                let x = &x[j * LANES..][..LANES];
                for i in 0..LANES {
                    acc[i] = madd::<FMA>(dy[i], x[i], acc[i]);
                }
            } else {
                let x = &x[j * LANES * sw..][..(LANES - 1) * sw + 1];
                for i in 0..LANES {
                    acc[i] = madd::<FMA>(dy[i], x[i * sw], acc[i]);
                }
            }
        }
        let done = lanes.len() * LANES;
        for (i, dy) in tail.iter().enumerate() {
            acc[i] = madd::<FMA>(*dy, x[(done + i) * sw], acc[i]);
        }
        dw[tap] += f64::from(acc.iter().sum::<f32>());
    });
}

/// Calls `f(tap, start of the output row, start of what it reads in a padded channel)`.
#[inline(always)]
fn each_tap_row(g: &Geometry, padded: [usize; 3], mut f: impl FnMut(usize, usize, usize)) {
    let [kd, kh, kw] = g.kernel;
    for od in 0..g.output[0] {
        for oh in 0..g.output[1] {
            let out = (od * g.output[1] + oh) * g.output[2];
            for td in 0..kd {
                for th in 0..kh {
                    let (d, h) = (od * g.stride[0] + td, oh * g.stride[1] + th);
                    let row = (d * padded[1] + h) * padded[2];
                    for tw in 0..kw {
                        f((td * kh + th) * kw + tw, out, row + tw);
                    }
                }
            }
        }
    }
}
