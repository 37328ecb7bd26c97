//! The operations that are measured: at the sizes of a 3-D EfficientNet-B0 over a volume of
//! 256x160x128 voxels and of BERT over a batch of questions.

#![allow(dead_code, unreachable_pub)] // Each benchmark uses a part of this module.

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use uniferum_kernels as kernels;
use uniferum_kernels::infer::{DenseLayer, Precision, dense};
use uniferum_kernels::{
    AdamW, Conv3dConfig, MbConv, NormedConv, Padding3, SqueezeExcite, Stage, sequence,
};

/// An operation, what it computes at least, and the memory that it moves at least.
pub struct Case {
    pub name: &'static str,
    pub size: String,
    /// Floating-point operations.
    pub flop: f64,
    /// Bytes of every input and output once.
    pub bytes: f64,
    pub bf16: bool,
    pub run: Box<dyn FnMut() -> Result<()>>,
}

fn random(dims: &[usize]) -> Tensor {
    Tensor::rand(-1f32, 1f32, dims, &Device::Cpu).expect("memory for the input")
}

fn var(dims: &[usize]) -> Var {
    Var::from_tensor(&random(dims)).expect("memory for the input")
}

fn case(
    name: &'static str,
    size: String,
    (flop, floats): (usize, usize),
    run: impl FnMut() -> Result<()> + 'static,
) -> Case {
    Case {
        name,
        size,
        flop: flop as f64,
        bytes: 4.0 * floats as f64,
        bf16: false,
        run: Box::new(run),
    }
}

/// A number whose gradient is given: a sum would cost more than many an operation.
struct Gradient(Tensor);

impl CustomOp1 for Gradient {
    fn name(&self) -> &'static str {
        "gradient"
    }

    fn cpu_fwd(&self, _x: &CpuStorage, _layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, _dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// Runs an operation forward, and backward with any gradient. That autograd adds the first
/// gradient to zeros is in the time.
fn both(f: impl Fn() -> Result<Tensor>) -> impl FnMut() -> Result<()> {
    let mut gradient = None;
    move || {
        let y = f()?;
        let gradient = gradient.get_or_insert_with(|| random(y.dims()));
        y.apply_op1(Gradient(gradient.clone()))?.backward()?;
        Ok(())
    }
}

fn forward(f: impl Fn() -> Result<Tensor>) -> impl FnMut() -> Result<()> {
    move || {
        std::hint::black_box(f()?);
        Ok(())
    }
}

/// Channels in, out and groups, kernel, stride and the input's sides of a convolution.
struct Conv {
    channels: [usize; 2],
    groups: usize,
    kernel: usize,
    stride: usize,
    sides: [usize; 3],
}

fn convolution(name: &'static str, backward: bool, conv: &Conv) -> Case {
    let &Conv {
        channels: [c_in, c_out],
        groups,
        kernel: k,
        stride,
        sides: [d, h, w],
    } = conv;
    let x = var(&[1, c_in, d, h, w]);
    let weight = var(&[c_out, c_in / groups, k, k, k]);
    let cfg = Conv3dConfig {
        stride: [stride; 3],
        padding: Padding3::Same,
        groups,
    };
    let outputs = c_out
        * [d, h, w]
            .map(|n| n.div_ceil(stride))
            .iter()
            .product::<usize>();
    let inputs = c_in * d * h * w;
    let size = format!("{c_in} to {c_out}, {k}x{k}x{k} / {stride}, {d}x{h}x{w}");
    let flop = 2 * outputs * (c_in / groups) * k.pow(3);
    if backward {
        let run = both(move || kernels::conv3d(&x, &weight, None, &cfg));
        return case(name, size, (3 * flop, 3 * (inputs + outputs)), run);
    }
    let run = forward(move || kernels::conv3d(&x.detach(), &weight.detach(), None, &cfg));
    case(name, size, (flop, inputs + outputs), run)
}

/// A block of the network, trained.
fn block(c_in: usize, c_out: usize, kernel: usize, stride: usize, [d, h, w]: [usize; 3]) -> Case {
    let mid = 6 * c_in;
    let squeezed = c_in / 4;
    let outer = [d, h, w].map(|n| n.div_ceil(stride));
    let (inputs, outputs) = (d * h * w, outer.iter().product::<usize>());
    let x = var(&[1, c_in, d, h, w]);
    let layer =
        |out: usize, c: usize, k: usize| (var(&[out, c, k, k, k]), var(&[out]), var(&[out]));
    let layers = [
        layer(mid, c_in, 1),
        layer(mid, 1, kernel),
        layer(c_out, mid, 1),
    ];
    let se = [
        var(&[squeezed, mid, 1, 1, 1]),
        var(&[mid, squeezed, 1, 1, 1]),
    ];
    let biases = [var(&[squeezed]), var(&[mid])];
    let run = both(move || {
        let [expand, depthwise, project] =
            layers.each_ref().map(|(weight, gamma, beta)| NormedConv {
                weight,
                gamma,
                beta,
                running: None,
            });
        let block = MbConv {
            expand: Some(expand),
            depthwise,
            squeeze_excite: SqueezeExcite {
                w_reduce: &se[0],
                b_reduce: &biases[0],
                w_expand: &se[1],
                b_expand: &biases[1],
            },
            project,
            stride: [stride; 3],
            padding: Padding3::Same,
            residual: false,
            eps: 1e-3,
        };
        Ok(sequence(&x, &[Stage::MbConv(block)])?.0)
    });
    let macs = mid * (inputs * c_in + outputs * (kernel.pow(3) + c_out));
    let size =
        format!("{c_in} to {mid} to {c_out}, {kernel}x{kernel}x{kernel} / {stride}, {d}x{h}x{w}");
    let floats = 2 * (c_in * inputs + c_out * outputs);
    case(
        "mbconv, forward and backward",
        size,
        (6 * macs, floats),
        run,
    )
}

fn norm_silu(backward: bool) -> Case {
    let dims = [1, 32, 128, 80, 64];
    let n: usize = dims.iter().product();
    let (x, gamma, beta) = (var(&dims), var(&[32]), var(&[32]));
    let size = "32, 128x80x64".to_string();
    let f = move |x: &Tensor, gamma: &Tensor, beta: &Tensor| {
        Ok(kernels::batch_norm_silu(x, gamma, beta, None, 1e-3)?.0)
    };
    if backward {
        let run = both(move || f(&x, &gamma, &beta));
        return case("batch norm and SiLU, both ways", size, (30 * n, 6 * n), run);
    }
    let run = forward(move || f(&x.detach(), &gamma.detach(), &beta.detach()));
    case("batch norm and SiLU", size, (12 * n, 2 * n), run)
}

fn transformer() -> Vec<Case> {
    let (rows, hidden, wide, heads) = (1280, 768, 3072, 12);
    let x = random(&[rows, hidden]);
    let (weight, bias) = (random(&[wide, hidden]), random(&[wide]));
    let size = format!("{rows} x {hidden} x {wide}");
    let floats = rows * (hidden + wide) + hidden * wide;
    let counts = (2 * rows * hidden * wide, floats);
    let mut cases = Vec::new();
    for (name, precision) in [
        ("linear, packed", Precision::F32),
        ("linear, packed, bf16", Precision::Bf16),
    ] {
        let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
        let run = forward(move || {
            let layer = DenseLayer {
                weight: &weight,
                bias: &bias,
            };
            dense(&x, &[layer], precision)
        });
        let bf16 = precision == Precision::Bf16;
        cases.push(Case {
            bf16,
            ..case(name, size.clone(), counts, run)
        });
    }
    let layer = x.clone();
    let run = forward(move || kernels::linear(&layer, &weight, &bias));
    cases.push(case("linear", size, counts, run));
    let length = 178;
    let [q, k, v] = [0, 1, 2].map(|_| random(&[7, heads, length, hidden / heads]));
    let n = 7 * length * hidden;
    let run = forward(move || kernels::attention(&q, &k, &v, None, None));
    let size = format!("7 x {heads} heads x {length} x 64");
    cases.push(case("attention", size, (4 * n * length, 4 * n), run));
    let (w, b) = (random(&[hidden]), random(&[hidden]));
    let n = rows * hidden;
    let run = forward(move || kernels::layer_norm(&x, &w, &b, 1e-12));
    cases.push(case(
        "layer norm",
        format!("{rows} x {hidden}"),
        (8 * n, 2 * n),
        run,
    ));
    let x = random(&[rows, wide]);
    let n = rows * wide;
    let run = forward(move || kernels::gelu_erf(&x));
    cases.push(case(
        "gelu_erf",
        format!("{rows} x {wide}"),
        (30 * n, 2 * n),
        run,
    ));
    cases
}

fn others() -> Vec<Case> {
    let dims = [1, 32, 128, 80, 64];
    let n: usize = dims.iter().product();
    let x = random(&dims);
    let pooled = x.clone();
    let run = forward(move || kernels::max_pool3d(&pooled, [2; 3], [2; 3]));
    let pool = case(
        "max_pool3d",
        "32, 2x2x2, 128x80x64".into(),
        (n, n + n / 8),
        run,
    );
    let run = forward(move || kernels::silu(&x));
    let silu = case("silu", "32, 128x80x64".into(), (12 * n, 2 * n), run);
    let n = 4_000_000;
    let (parameter, gradient) = (random(&[n]), random(&[n]));
    let state = Tensor::zeros((2, n), DType::F32, &Device::Cpu).expect("memory");
    let run = move || kernels::adamw_step(&parameter, &gradient, &state, 1, &AdamW::default());
    let adamw = case("adamw_step", "4 million".into(), (12 * n, 7 * n), run);
    vec![pool, silu, adamw]
}

/// A pointwise convolution.
fn pointwise(c_in: usize, c_out: usize, sides: [usize; 3]) -> Conv {
    Conv {
        channels: [c_in, c_out],
        groups: 1,
        kernel: 1,
        stride: 1,
        sides,
    }
}

fn depthwise(channels: usize, kernel: usize, stride: usize, sides: [usize; 3]) -> Conv {
    Conv {
        channels: [channels; 2],
        groups: channels,
        kernel,
        stride,
        sides,
    }
}

/// Every operation, made when its turn comes: all inputs at once would be gigabytes.
pub fn cases() -> Vec<Box<dyn Fn() -> Vec<Case>>> {
    let stem = || Conv {
        channels: [1, 32],
        groups: 1,
        kernel: 3,
        stride: 2,
        sides: [256, 160, 128],
    };
    let one = |f: fn() -> Case| -> Box<dyn Fn() -> Vec<Case>> { Box::new(move || vec![f()]) };
    vec![
        Box::new(move || vec![convolution("conv3d", false, &stem())]),
        Box::new(move || vec![convolution("conv3d, both ways", true, &stem())]),
        one(|| convolution("conv3d", false, &pointwise(16, 96, [128, 80, 64]))),
        one(|| convolution("conv3d, both ways", true, &pointwise(112, 672, [16, 10, 8]))),
        one(|| convolution("depthwise", false, &depthwise(32, 3, 1, [128, 80, 64]))),
        one(|| {
            convolution(
                "depthwise, both ways",
                true,
                &depthwise(32, 3, 1, [128, 80, 64]),
            )
        }),
        one(|| convolution("depthwise", false, &depthwise(240, 5, 1, [32, 20, 16]))),
        one(|| {
            convolution(
                "depthwise, both ways",
                true,
                &depthwise(144, 5, 2, [64, 40, 32]),
            )
        }),
        one(|| norm_silu(false)),
        one(|| norm_silu(true)),
        one(|| block(16, 24, 3, 2, [128, 80, 64])),
        one(|| block(40, 40, 5, 1, [32, 20, 16])),
        one(|| block(192, 192, 5, 1, [8, 5, 4])),
        Box::new(others),
        Box::new(transformer),
    ]
}
