//! Convolution, pooling, batch norm, activations and squeeze-and-excitation.

use crate::{Conv3dConfig, Padding3};

/// A dense five-dimensional array `[B, C, D, H, W]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Array5 {
    /// Sizes.
    pub dims: [usize; 5],
    /// Elements, the width fastest.
    pub data: Vec<f64>,
}

impl Array5 {
    /// Zeros.
    pub fn zeros(dims: [usize; 5]) -> Self {
        Self {
            dims,
            data: vec![0.0; dims.iter().product()],
        }
    }

    /// Makes each element from its index.
    pub fn from_fn(dims: [usize; 5], f: impl Fn([usize; 5]) -> f64) -> Self {
        let mut data = Vec::new();
        for b in 0..dims[0] {
            for c in 0..dims[1] {
                for d in 0..dims[2] {
                    for h in 0..dims[3] {
                        for w in 0..dims[4] {
                            data.push(f([b, c, d, h, w]));
                        }
                    }
                }
            }
        }
        Self { dims, data }
    }

    /// One element; zero outside the volume, as zero padding has it.
    pub fn at(&self, [b, c]: [usize; 2], place: [isize; 3]) -> f64 {
        let [_, _, d, h, w] = self.dims;
        let inside = place
            .iter()
            .zip([d, h, w])
            .all(|(p, n)| (0..n as isize).contains(p));
        if !inside {
            return 0.0;
        }
        let [pd, ph, pw] = place.map(|p| p as usize);
        self.data[(((b * self.dims[1] + c) * d + pd) * h + ph) * w + pw]
    }
}

/// Output sizes and the padding before each axis.
pub fn padding(input: [usize; 3], kernel: [usize; 3], cfg: &Conv3dConfig) -> [[usize; 2]; 3] {
    std::array::from_fn(|a| {
        let (n, k, s) = (input[a], kernel[a], cfg.stride[a]);
        match cfg.padding {
            Padding3::Same => {
                let out = n.div_ceil(s);
                let total = ((out - 1) * s + k).max(n) - n;
                [out, total / 2]
            }
            Padding3::Explicit(p) => [(n + p[a][0] + p[a][1] - k) / s + 1, p[a][0]],
        }
    })
}

/// Convolution with groups; `w` is `[C_out, C_in / groups, K, K, K]`.
pub fn conv3d(x: &Array5, w: &Array5, bias: Option<&[f64]>, cfg: &Conv3dConfig) -> Array5 {
    let [batch, _, d, h, wd] = x.dims;
    let [c_out, c_group, kd, kh, kw] = w.dims;
    let pads = padding([d, h, wd], [kd, kh, kw], cfg);
    let m = c_out / cfg.groups;
    Array5::from_fn(
        [batch, c_out, pads[0][0], pads[1][0], pads[2][0]],
        |[b, o, d, h, w_]| {
            let mut sum = bias.map_or(0.0, |bias| bias[o]);
            for c in 0..c_group {
                for td in 0..kd {
                    for th in 0..kh {
                        for tw in 0..kw {
                            let place = [[d, td], [h, th], [w_, tw]];
                            let place = std::array::from_fn(|a| {
                                (place[a][0] * cfg.stride[a] + place[a][1]) as isize
                                    - pads[a][1] as isize
                            });
                            let tap = [td as isize, th as isize, tw as isize];
                            sum += x.at([b, o / m * c_group + c], place) * w.at([o, c], tap);
                        }
                    }
                }
            }
            sum
        },
    )
}

/// Reduces windows: output `i` of an axis covers `windows[axis][i]`.
pub fn pool3d(
    x: &Array5,
    windows: &[Vec<[usize; 2]>; 3],
    reduce: impl Fn(&[f64]) -> f64,
) -> Array5 {
    let [b, c, ..] = x.dims;
    let dims = [b, c, windows[0].len(), windows[1].len(), windows[2].len()];
    Array5::from_fn(dims, |[b, c, d, h, w]| {
        let mut values = Vec::new();
        for d in windows[0][d][0]..windows[0][d][1] {
            for h in windows[1][h][0]..windows[1][h][1] {
                for w in windows[2][w][0]..windows[2][w][1] {
                    values.push(x.at([b, c], [d as isize, h as isize, w as isize]));
                }
            }
        }
        reduce(&values)
    })
}

/// The mean of some values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and biased variance of each channel.
pub fn batch_statistics(x: &Array5) -> (Vec<f64>, Vec<f64>) {
    let [batch, channels, d, h, w] = x.dims;
    let n = d * h * w;
    (0..channels)
        .map(|c| {
            let values: Vec<f64> = (0..batch)
                .flat_map(|b| x.data[(b * channels + c) * n..][..n].iter().copied())
                .collect();
            let m = mean(&values);
            let squares: Vec<f64> = values.iter().map(|v| (v - m).powi(2)).collect();
            (m, mean(&squares))
        })
        .unzip()
}

/// Batch normalisation with the statistics given.
pub fn batch_norm(
    x: &Array5,
    gamma: &[f64],
    beta: &[f64],
    mean: &[f64],
    var: &[f64],
    eps: f64,
) -> Array5 {
    Array5::from_fn(x.dims, |[b, c, d, h, w]| {
        let v = x.at([b, c], [d as isize, h as isize, w as isize]);
        gamma[c] * (v - mean[c]) / (var[c] + eps).sqrt() + beta[c]
    })
}

/// The sigmoid.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `x * sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `silu` of every element.
pub fn silu5(x: &Array5) -> Array5 {
    Array5 {
        dims: x.dims,
        data: x.data.iter().map(|v| silu(*v)).collect(),
    }
}

/// Squeeze-and-excitation; `w_reduce` is `[S, C]`, `w_expand` `[C, S]`, both row-major.
pub fn squeeze_excite(
    x: &Array5,
    w_reduce: &[f64],
    b_reduce: &[f64],
    w_expand: &[f64],
    b_expand: &[f64],
) -> Array5 {
    let [_, channels, d, h, w] = x.dims;
    let n = d * h * w;
    let s = b_reduce.len();
    let gate = |b: usize, c: usize| {
        let means: Vec<f64> = (0..channels)
            .map(|i| mean(&x.data[(b * channels + i) * n..][..n]))
            .collect();
        let hidden = (0..s).map(|j| {
            silu(
                b_reduce[j]
                    + (0..channels)
                        .map(|i| w_reduce[j * channels + i] * means[i])
                        .sum::<f64>(),
            )
        });
        sigmoid(
            b_expand[c]
                + hidden
                    .enumerate()
                    .map(|(j, v)| w_expand[c * s + j] * v)
                    .sum::<f64>(),
        )
    };
    let [batch, ..] = x.dims;
    let gates: Vec<f64> = (0..batch * channels)
        .map(|i| gate(i / channels, i % channels))
        .collect();
    Array5::from_fn(x.dims, |[b, c, d, h, w]| {
        x.at([b, c], [d as isize, h as isize, w as isize]) * gates[b * channels + c]
    })
}

/// The gradient of `f` at `at` by central differences.
pub fn finite_difference(at: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut point = at.to_vec();
    (0..at.len())
        .map(|i| {
            let step = 1e-5 * (1.0 + at[i].abs());
            point[i] = at[i] + step;
            let above = f(&point);
            point[i] = at[i] - step;
            let below = f(&point);
            point[i] = at[i];
            (above - below) / (2.0 * step)
        })
        .collect()
}
