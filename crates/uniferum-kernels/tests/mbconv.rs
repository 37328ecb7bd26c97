//! The block as one operation against the same block composed of single ones.

mod common;

use candle_core::{Result, Tensor, Var};
use common::{distance, flat, tensor, values};
use uniferum_kernels::{
    Conv3dConfig, ConvNormSilu, MbConv, NormedConv, Padding3, SqueezeExcite, Stage, batch_norm,
    batch_norm_train, conv3d, mbconv, sequence, silu, squeeze_excite,
};

const EPS: f64 = 1e-3;

#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    channels: [usize; 3],
    size: [usize; 3],
    kernel: usize,
    stride: usize,
    expands: bool,
    residual: bool,
    frozen: bool,
}

/// One variable for each parameter, in the order of `NAMES`.
struct Block {
    case: Case,
    x: Var,
    vars: Vec<Var>,
    running: Vec<(Tensor, Tensor)>,
}

fn var(seed: u64, dims: &[usize], scale: f64, shift: f64) -> Var {
    let v: Vec<f64> = values(seed, dims.iter().product())
        .iter()
        .map(|v| v * scale + shift)
        .collect();
    Var::from_tensor(&tensor(&v, dims)).unwrap()
}

impl Block {
    fn new(case: Case) -> Self {
        let [c_in, mid, c_out] = case.channels;
        let (k, s) = (case.kernel, 3);
        let mut vars = Vec::new();
        let mut running = Vec::new();
        let mut layer = |seed: u64, dims: [usize; 5], fan: usize| {
            let spread = (3.0 / fan as f64).sqrt();
            vars.push(var(seed, &dims, spread, 0.0));
            vars.push(var(seed + 1, &dims[..1], 0.3, 1.0));
            vars.push(var(seed + 2, &dims[..1], 0.3, 0.1));
            let mean = var(seed + 3, &dims[..1], 0.2, 0.0).as_tensor().clone();
            let variance = var(seed + 4, &dims[..1], 0.3, 0.8).as_tensor().clone();
            running.push((mean, variance));
        };
        if case.expands {
            layer(10, [mid, c_in, 1, 1, 1], c_in);
        }
        layer(20, [mid, 1, k, k, k], k * k * k);
        layer(30, [c_out, mid, 1, 1, 1], mid);
        vars.push(var(40, &[s, mid, 1, 1, 1], 0.6, 0.0));
        vars.push(var(41, &[s], 0.5, 0.0));
        vars.push(var(42, &[mid, s, 1, 1, 1], 1.0, 0.0));
        vars.push(var(43, &[mid], 0.5, 0.0));
        let [d, h, w] = case.size;
        let x = var(50, &[case.batch, c_in, d, h, w], 1.0, 0.2);
        Self {
            case,
            x,
            vars,
            running,
        }
    }

    fn conv<'a>(&'a self, layer: usize) -> NormedConv<'a> {
        let (mean, var) = &self.running[layer];
        NormedConv {
            weight: self.vars[3 * layer].as_tensor(),
            gamma: self.vars[3 * layer + 1].as_tensor(),
            beta: self.vars[3 * layer + 2].as_tensor(),
            running: self.case.frozen.then_some((mean, var)),
        }
    }

    fn spec(&self) -> MbConv<'_> {
        let first = usize::from(self.case.expands);
        let se = &self.vars[3 * (first + 2)..];
        MbConv {
            expand: self.case.expands.then(|| self.conv(0)),
            depthwise: self.conv(first),
            project: self.conv(first + 1),
            squeeze_excite: SqueezeExcite {
                w_reduce: se[0].as_tensor(),
                b_reduce: se[1].as_tensor(),
                w_expand: se[2].as_tensor(),
                b_expand: se[3].as_tensor(),
            },
            stride: [self.case.stride; 3],
            padding: Padding3::Same,
            residual: self.case.residual,
            eps: EPS,
        }
    }

    /// The block composed of single operations, and the statistics of its norms.
    fn composed(&self) -> Result<(Tensor, Vec<(Tensor, Tensor)>)> {
        let spec = self.spec();
        let mut statistics = Vec::new();
        let mut layer = |x: &Tensor, layer: &NormedConv<'_>, stride: usize, groups: usize| {
            let cfg = Conv3dConfig {
                stride: [stride; 3],
                padding: Padding3::Same,
                groups,
            };
            let y = conv3d(x, layer.weight, None, &cfg)?;
            if let Some((mean, var)) = layer.running {
                return batch_norm(&y, layer.gamma, layer.beta, mean, var, EPS);
            }
            let (y, mean, var) = batch_norm_train(&y, layer.gamma, layer.beta, EPS)?;
            statistics.push((mean, var));
            Ok(y)
        };
        let mut x = self.x.as_tensor().clone();
        if let Some(expand) = &spec.expand {
            x = silu(&layer(&x, expand, 1, 1)?)?;
        }
        let (stride, mid) = (self.case.stride, self.case.channels[1]);
        x = silu(&layer(&x, &spec.depthwise, stride, mid)?)?;
        let se = spec.squeeze_excite;
        x = squeeze_excite(&x, se.w_reduce, se.b_reduce, se.w_expand, se.b_expand)?;
        x = layer(&x, &spec.project, 1, 1)?;
        if self.case.residual {
            x = (x + self.x.as_tensor())?;
        }
        Ok((x, statistics))
    }

    /// Gradients of a weighted sum of `y` to the input and every parameter.
    fn gradients(&self, y: &Tensor) -> Vec<Vec<f64>> {
        let weights = tensor(&values(99, y.elem_count()), y.dims());
        let loss = (y * weights).unwrap().sum_all().unwrap();
        let grads = loss.backward().unwrap();
        let vars = std::iter::once(&self.x).chain(&self.vars);
        vars.map(|v| flat(grads.get(v).expect("a gradient for every argument")))
            .collect()
    }
}

fn check(case: Case) {
    let block = Block::new(case);
    let (want, want_statistics) = block.composed().unwrap();
    let (got, statistics) = mbconv(block.x.as_tensor(), &block.spec()).unwrap();
    let d = distance(&flat(&got), &flat(&want));
    assert!(d < 2e-5, "{case:?}: output {d}");
    assert_eq!(statistics.len(), want_statistics.len());
    for (i, (own, (mean, var))) in statistics.iter().zip(&want_statistics).enumerate() {
        let d = distance(&flat(&own.mean), &flat(mean)).max(distance(&flat(&own.var), &flat(var)));
        assert!(d < 2e-5, "{case:?}: statistics {i}: {d}");
    }
    let (got, want) = (block.gradients(&got), block.gradients(&want));
    // A parameter whose gradient is zero but for rounding has no relative error of its own.
    let peak = |v: &[f64]| v.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let largest = want.iter().skip(1).map(|w| peak(w)).fold(0.0, f64::max);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!(got.iter().all(|g| g.is_finite()), "{case:?}: gradient {i}");
        let error = got.iter().zip(want).map(|(g, w)| (g - w).abs());
        let error = error.fold(0.0, f64::max) / peak(want).max(1e-2 * largest);
        assert!(error < 1e-4, "{case:?}: gradient {i}: {error}");
    }
}

#[test]
fn gradients_equal_those_of_the_composed_block() {
    for batch in [1, 2] {
        for kernel in [3, 5] {
            for stride in [1, 2] {
                for expands in [false, true] {
                    for frozen in [false, true] {
                        for residual in [false, true] {
                            if residual && stride > 1 {
                                continue;
                            }
                            let mid = if expands { 7 } else { 4 };
                            check(Case {
                                batch,
                                channels: [4, mid, if residual { 4 } else { 5 }],
                                size: [6, 5, 7],
                                kernel,
                                stride,
                                expands,
                                residual,
                                frozen,
                            });
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn many_tiles_and_many_small_samples() {
    let wide = Case {
        batch: 1,
        channels: [8, 24, 8],
        size: [18, 20, 33],
        kernel: 3,
        stride: 1,
        expands: true,
        residual: true,
        frozen: false,
    };
    check(wide);
    check(Case {
        batch: 2,
        stride: 2,
        residual: false,
        ..wide
    });
    check(Case {
        batch: 5,
        channels: [6, 18, 6],
        size: [2, 3, 2],
        kernel: 5,
        ..wide
    });
    check(Case {
        batch: 7,
        size: [4, 4, 4],
        kernel: 5,
        ..wide
    });
}

#[test]
fn a_second_backward_pass_gives_the_same_gradients() {
    let block = Block::new(Case {
        batch: 1,
        channels: [3, 6, 3],
        size: [4, 4, 4],
        kernel: 3,
        stride: 1,
        expands: true,
        residual: true,
        frozen: false,
    });
    let (y, _) = mbconv(block.x.as_tensor(), &block.spec()).unwrap();
    assert_eq!(block.gradients(&y), block.gradients(&y));
}

/// A convolution in front of a block, whose norm and activation the block may apply itself.
#[test]
fn a_convolution_and_a_block_in_a_row_equal_both_alone() {
    for (expands, residual, frozen, c_in) in [
        (false, false, false, 1),
        (false, false, true, 1),
        (false, false, false, 2),
        (false, true, false, 2),
        (true, false, false, 1),
    ] {
        let block = Block::new(Case {
            batch: 2,
            channels: [4, if expands { 6 } else { 4 }, if residual { 4 } else { 5 }],
            size: [4, 5, 8],
            kernel: 3,
            stride: 1,
            expands,
            residual,
            frozen,
        });
        // The input of a network has no gradient.
        let x = tensor(&values(60, 2 * c_in * 8 * 9 * 16), &[2, c_in, 8, 9, 16]);
        let weight = var(61, &[4, c_in, 3, 3, 3], 0.3, 0.0);
        let (gamma, beta) = (var(62, &[4], 0.3, 1.0), var(63, &[4], 0.3, 0.1));
        let (mean, variance) = &block.running[0];
        let conv = NormedConv {
            weight: &weight,
            gamma: &gamma,
            beta: &beta,
            running: frozen.then_some((mean, variance)).filter(|_| !expands),
        };
        let cfg = Conv3dConfig {
            stride: [2; 3],
            padding: Padding3::Same,
            groups: 1,
        };
        let stem = Stage::ConvNormSilu(ConvNormSilu {
            conv,
            cfg,
            eps: EPS,
        });
        let gradients = |y: &Tensor| {
            let weights = tensor(&values(99, y.elem_count()), y.dims());
            let loss = (y * weights).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            let vars = [&weight, &gamma, &beta].into_iter().chain(&block.vars);
            let all: Vec<Vec<f64>> = vars.map(|v| flat(grads.get(v).unwrap())).collect();
            all
        };
        let (own, _) = sequence(&x, &[stem]).unwrap();
        let (want, want_statistics) = mbconv(&own, &block.spec()).unwrap();
        let stages = [stem, Stage::MbConv(block.spec())];
        let (got, statistics) = sequence(&x, &stages).unwrap();
        assert_eq!(
            statistics.len(),
            if frozen { 0 } else { 1 + want_statistics.len() }
        );
        assert!(distance(&flat(&got), &flat(&want)) < 1e-5);
        let want = gradients(&want);
        let largest = want.iter().flatten().fold(0.0f64, |m, v| m.max(v.abs()));
        // Twice: the second pass finds nothing kept.
        for _ in 0..2 {
            for (i, (got, want)) in gradients(&got).iter().zip(&want).enumerate() {
                assert!(got.iter().all(|g| g.is_finite()), "gradient {i}");
                let error = got.iter().zip(want).map(|(g, w)| (g - w).abs());
                let error = error.fold(0.0, f64::max) / largest;
                assert!(
                    error < 1e-5,
                    "{expands} {residual} {frozen}: gradient {i}: {error}"
                );
            }
        }
    }
}

#[test]
fn bad_blocks_are_errors_that_name_the_part() {
    let block = Block::new(Case {
        batch: 1,
        channels: [4, 8, 5],
        size: [4, 4, 4],
        kernel: 3,
        stride: 1,
        expands: true,
        residual: false,
        frozen: false,
    });
    let message = |spec: &MbConv<'_>| {
        let error = mbconv(block.x.as_tensor(), spec).unwrap_err();
        error.to_string()
    };
    let spec = MbConv {
        residual: true,
        ..block.spec()
    };
    assert!(
        message(&spec).contains("keeps channels"),
        "{}",
        message(&spec)
    );
    let spec = MbConv {
        expand: None,
        ..block.spec()
    };
    assert!(message(&spec).contains("8 channels"), "{}", message(&spec));
    let mut spec = block.spec();
    let (mean, var) = &block.running[2];
    spec.project.running = Some((mean, var));
    assert!(message(&spec).contains("norms alike"), "{}", message(&spec));
}
