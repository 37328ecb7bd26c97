//! Each kernel's bytes a second beside a plain copy's, as lines of JSON.
//!
//! ```sh
//! cargo run --release -p uniferum-kernels --features cuda --example bandwidth -- cuda:0 bf16 8
//! ```
//!
//! Arguments: device (auto, cpu or cuda:N), f32 or bf16, volumes at a time, runs. Sizes are those of
//! EfficientNet-B0 over volumes of 256x160x128 voxels. Bytes are those of every input and output once.
//! A backward pass begins with ones and ends with an addition to zeros, which candle adds; their bytes
//! are counted too.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var};
use uniferum_kernels::{
    AdamW, Augmenter, Conv3dConfig, DeviceChoice, Noise, Padding3, Resampling, Taps, Voxels,
    adamw_step, conv3d, gelu_erf, layer_norm, max_pool3d, scale_channels, silu, squared_norm,
};

/// An operation and the bytes that it moves at least.
struct Case {
    name: String,
    bytes: usize,
    run: Box<dyn Fn() -> Result<()>>,
}

fn case(name: impl Into<String>, bytes: usize, run: impl Fn() -> Result<()> + 'static) -> Case {
    Case {
        name: name.into(),
        bytes,
        run: Box::new(run),
    }
}

/// What is measured, and where.
struct Bench {
    device: Device,
    dtype: DType,
    batch: usize,
    runs: usize,
}

impl Bench {
    fn from_arguments() -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let argument = |i: usize, default: &str| {
            let given = arguments.get(i).map(String::as_str);
            given.unwrap_or(default).to_owned()
        };
        Ok(Self {
            device: argument(0, "auto").parse::<DeviceChoice>()?.open()?,
            dtype: match argument(1, "f32").as_str() {
                "f32" => DType::F32,
                "bf16" => DType::BF16,
                other => return Err(format!("f32 or bf16, not {other}").into()),
            },
            batch: argument(2, "1").parse()?,
            runs: argument(3, "20").parse()?,
        })
    }

    fn random(&self, dims: &[usize]) -> Result<Tensor> {
        Tensor::rand(-1f32, 1f32, dims, &self.device)
    }

    fn activations(&self, dims: &[usize]) -> Result<Var> {
        Var::from_tensor(&self.random(dims)?.to_dtype(self.dtype)?)
    }

    fn width(&self) -> usize {
        self.dtype.size_in_bytes()
    }

    /// Seconds of a run, after one to warm up; the device works through all of them without a pause.
    fn seconds(&self, run: &dyn Fn() -> Result<()>) -> Result<f64> {
        run()?;
        self.device.synchronize()?;
        let start = Instant::now();
        for _ in 0..self.runs {
            run()?;
        }
        self.device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / self.runs as f64)
    }

    /// Forward alone, and forward with backward.
    fn both(
        &self,
        name: &str,
        x: &Var,
        outputs: usize,
        f: impl Fn(&Tensor) -> Result<Tensor> + Clone + 'static,
    ) -> [Case; 2] {
        let (inputs, width) = (x.elem_count(), self.width());
        let (constant, forward) = (x.as_tensor().detach(), f.clone());
        let variable = x.as_tensor().clone();
        // Backward: x and dy read, dx written; ones; zeros and an addition.
        let backward = 2 * inputs + 2 * outputs + 4 * inputs;
        [
            case(name, width * (inputs + outputs), move || {
                forward(&constant).map(drop)
            }),
            case(
                format!("{name}, with backward"),
                width * (inputs + outputs + backward),
                move || f(&variable)?.backward().map(drop),
            ),
        ]
    }

    fn depthwise(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for (c, kernel, stride, [d, h, w]) in [
            (32, 3, 1, [128, 80, 64]),
            (96, 3, 2, [128, 80, 64]),
            (144, 3, 1, [64, 40, 32]),
            (144, 5, 2, [64, 40, 32]),
            (240, 5, 1, [32, 20, 16]),
            (480, 3, 1, [16, 10, 8]),
            (672, 5, 1, [16, 10, 8]),
        ] {
            let x = self.activations(&[self.batch, c, d, h, w])?;
            let weight = Var::from_tensor(&self.random(&[c, 1, kernel, kernel, kernel])?)?;
            let cfg = Conv3dConfig {
                stride: [stride; 3],
                padding: Padding3::Same,
                groups: c,
            };
            let outputs = x.elem_count() / stride.pow(3);
            let name = format!("depthwise {kernel}^3 / {stride}, {c} x {d}x{h}x{w}");
            let f = move |x: &Tensor| conv3d(x, weight.as_tensor(), None, &cfg);
            cases.extend(self.both(&name, &x, outputs, f));
        }
        Ok(cases)
    }

    fn maps(&self) -> Result<Vec<Case>> {
        let x = self.activations(&[self.batch, 96, 128, 80, 64])?;
        let gate = self.random(&[self.batch, 96])?.to_dtype(self.dtype)?;
        let n = x.elem_count();
        let mut cases: Vec<Case> = self.both("silu", &x, n, silu).into();
        cases.extend(self.both("gelu", &x, n, gelu_erf));
        let scale = move |x: &Tensor| scale_channels(x, &gate);
        cases.extend(self.both("scale channels", &x, n, scale));
        let pool = |x: &Tensor| max_pool3d(x, [8; 3], [8; 3]);
        let mask = self.activations(&[self.batch, 1, 256, 160, 128])?;
        cases.extend(self.both("max pool 8^3", &mask, mask.elem_count() / 512, pool));
        let rows = self.activations(&[self.batch * 200, 768])?;
        let (gamma, beta) = (self.random(&[768])?, self.random(&[768])?);
        let norm = move |x: &Tensor| layer_norm(x, &gamma, &beta, 1e-12);
        cases.extend(self.both("layer norm", &rows, rows.elem_count(), norm));
        Ok(cases)
    }

    fn optimizer(&self) -> Result<Vec<Case>> {
        let n = 24 << 20;
        let (p, g) = (Var::from_tensor(&self.random(&[n])?)?, self.random(&[n])?);
        let state = Tensor::zeros((2, n), DType::F32, &self.device)?;
        let other = g.clone();
        Ok(vec![
            case("adamw", 4 * 7 * n, move || {
                adamw_step(p.as_tensor(), &g, &state, 1, &AdamW::default())
            }),
            case("norm of gradients", 4 * n, move || {
                squared_norm(&[&other]).map(drop)
            }),
        ])
    }

    /// A scan to the model's array: the copy from the host is in the time, and its bytes alone count.
    fn augment(&self) -> Result<Vec<Case>> {
        let Some(augmenter) = Augmenter::of(&self.device, 1)? else {
            return Ok(Vec::new());
        };
        let shape = [416, 336, 256];
        let data = vec![40i16; shape.iter().product()];
        let resampling = Resampling::Straight([(384, 256), (320, 160), (256, 128)].map(means));
        let noise = Noise {
            std: 0.01,
            ..Noise::default()
        };
        let bytes = 2 * data.len();
        let run = move || {
            let volume = Voxels { data: &data, shape };
            augmenter.image(volume, &resampling, &noise).map(drop)
        };
        Ok(vec![case("scan from the host, resampled", bytes, run)])
    }
}

/// Means of one or two neighbours each.
fn means((inputs, outputs): (usize, usize)) -> Taps {
    let mut taps = Taps {
        offsets: vec![0],
        ..Taps::default()
    };
    for k in 0..outputs {
        let (first, past) = (k * inputs / outputs, ((k + 1) * inputs).div_ceil(outputs));
        taps.starts.push(first);
        let n = past - first;
        taps.weights.extend(std::iter::repeat_n(1.0 / n as f32, n));
        taps.offsets.push(taps.weights.len());
    }
    taps
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let bench = Bench::from_arguments()?;
    // As large as the largest activation: 1 GB read and written on a GPU.
    let n = if bench.device.is_cpu() {
        1 << 24
    } else {
        1 << 27
    };
    let source = bench.random(&[n])?;
    let copy = case("copy", 8 * n, move || source.copy().map(drop));
    let copied = copy.bytes as f64 / bench.seconds(&*copy.run)?;
    let report = |case: &Case| -> Result<()> {
        let seconds = bench.seconds(&*case.run)?;
        let rate = case.bytes as f64 / seconds;
        println!(
            "{{\"kernel\":\"{}\",\"dtype\":\"{}\",\"batch\":{},\"seconds\":{seconds:.3e},\
             \"gb_per_s\":{:.1},\"share_of_copy\":{:.3}}}",
            case.name,
            bench.dtype.as_str(),
            bench.batch,
            rate / 1e9,
            rate / copied
        );
        Ok(())
    };
    report(&copy)?;
    // A group at a time: together they need more memory than some GPUs have.
    for group in [
        Bench::depthwise,
        Bench::maps,
        Bench::optimizer,
        Bench::augment,
    ] {
        group(&bench)?.iter().try_for_each(report)?;
    }
    Ok(())
}
