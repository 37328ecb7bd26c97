//! Trains a tiny 3-D U-Net to find balls in noise, in seconds on a CPU.
//!
//! ```sh
//! cargo run --release -p uniferum-kernels --example unet3d
//! ```

use candle_core::{DType, Device, Result, Tensor, Var};
use uniferum_kernels::{
    AdamW, Conv3dConfig, Padding3, adamw_step, batch_norm_silu, bce_with_logits, conv3d, max_pool3d,
};

const SIDE: usize = 24;
const BATCH: usize = 4;
const STEPS: u64 = 60;

/// Numbers in 0..1 from a linear congruential generator.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 40) as f64 / (1u64 << 24) as f64
    }
}

/// A convolution, batch norm and SiLU.
struct Layer {
    weight: Var,
    gamma: Var,
    beta: Var,
}

impl Layer {
    fn new(c_in: usize, c_out: usize, random: &mut Random) -> Result<Self> {
        let bound = (3.0 / (27 * c_in) as f64).sqrt();
        let n = c_out * c_in * 27;
        let weight: Vec<f32> = (0..n)
            .map(|_| ((2.0 * random.unit() - 1.0) * bound) as f32)
            .collect();
        let weight = Tensor::from_vec(weight, (c_out, c_in, 3, 3, 3), &Device::Cpu)?;
        Ok(Self {
            weight: Var::from_tensor(&weight)?,
            gamma: Var::ones(c_out, DType::F32, &Device::Cpu)?,
            beta: Var::zeros(c_out, DType::F32, &Device::Cpu)?,
        })
    }

    fn conv(&self, x: &Tensor) -> Result<Tensor> {
        let same = Conv3dConfig {
            padding: Padding3::Same,
            ..Default::default()
        };
        conv3d(x, &self.weight, None, &same)
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(batch_norm_silu(&self.conv(x)?, &self.gamma, &self.beta, None, 1e-5)?.0)
    }
}

/// Doubles each spatial axis by repetition.
fn upsample(x: &Tensor) -> Result<Tensor> {
    let (b, c, d, h, w) = x.dims5()?;
    let apart = x.reshape(vec![b, c, d, 1, h, 1, w, 1])?;
    let repeated = apart.broadcast_as(vec![b, c, d, 2, h, 2, w, 2])?;
    repeated.contiguous()?.reshape((b, c, 2 * d, 2 * h, 2 * w))
}

/// Two levels down, two levels up, each step up seeing what was there on the way down.
struct UNet {
    down: [Layer; 3],
    up: [Layer; 2],
    head: Layer,
}

impl UNet {
    fn new(random: &mut Random) -> Result<Self> {
        let mut layer = |c_in, c_out| Layer::new(c_in, c_out, random);
        Ok(Self {
            down: [layer(1, 8)?, layer(8, 16)?, layer(16, 32)?],
            up: [layer(32 + 16, 16)?, layer(16 + 8, 8)?],
            head: layer(8, 1)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let halve = |x: &Tensor| max_pool3d(x, [2; 3], [2; 3]);
        let full = self.down[0].forward(x)?;
        let half = self.down[1].forward(&halve(&full)?)?;
        let quarter = self.down[2].forward(&halve(&half)?)?;
        let half = self.up[0].forward(&Tensor::cat(&[&upsample(&quarter)?, &half], 1)?)?;
        let full = self.up[1].forward(&Tensor::cat(&[&upsample(&half)?, &full], 1)?)?;
        self.head.conv(&full)
    }

    /// Everything that is trained; the head has no norm.
    fn variables(&self) -> Vec<&Var> {
        let normed = self.down.iter().chain(&self.up);
        let mut all: Vec<&Var> = normed
            .flat_map(|l| [&l.weight, &l.gamma, &l.beta])
            .collect();
        all.push(&self.head.weight);
        all
    }
}

/// Noise with a brighter ball in each volume, and the balls alone.
fn balls(random: &mut Random) -> Result<(Tensor, Tensor)> {
    let (mut image, mut truth) = (Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let radius = 3.0 + 4.0 * random.unit();
        let centre = [0; 3].map(|_| 6.0 + 12.0 * random.unit());
        for i in 0..SIDE.pow(3) {
            let place = [i / SIDE / SIDE, i / SIDE % SIDE, i % SIDE];
            let squares = place
                .iter()
                .zip(centre)
                .map(|(p, c)| (*p as f64 - c).powi(2));
            let inside = squares.sum::<f64>() < radius * radius;
            truth.push(if inside { 1f32 } else { 0.0 });
            image.push((random.unit() + if inside { 0.5 } else { 0.0 }) as f32);
        }
    }
    let shape = (BATCH, 1, SIDE, SIDE, SIDE);
    let image = Tensor::from_vec(image, shape, &Device::Cpu)?;
    Ok((image, Tensor::from_vec(truth, shape, &Device::Cpu)?))
}

/// Overlap of the voxels above probability 0.5 with the truth.
fn dice(logits: &Tensor, truth: &Tensor) -> Result<f64> {
    let found = logits.gt(0.0)?.to_dtype(DType::F32)?;
    let sum = |t: &Tensor| t.sum_all()?.to_scalar::<f32>();
    let both = sum(&(&found * truth)?)?;
    Ok(f64::from(2.0 * both / (sum(&found)? + sum(truth)?)))
}

fn main() -> Result<()> {
    let mut random = Random(1);
    let net = UNet::new(&mut random)?;
    let zeros = |v: &&Var| Tensor::zeros((2, v.elem_count()), DType::F32, &Device::Cpu);
    let states: Vec<Tensor> = net.variables().iter().map(zeros).collect::<Result<_>>()?;
    let options = AdamW {
        lr: 1e-2,
        ..AdamW::default()
    };
    for step in 1..=STEPS {
        let (image, truth) = balls(&mut random)?;
        let logits = net.forward(&image)?;
        let loss = bce_with_logits(&logits, &truth)?.mean_all()?;
        let grads = loss.backward()?;
        for (var, state) in net.variables().into_iter().zip(&states) {
            if let Some(grad) = grads.get(var.as_tensor()) {
                adamw_step(var.as_tensor(), grad, state, step, &options)?;
            }
        }
        if step % 10 == 0 {
            let (loss, dice) = (loss.to_scalar::<f32>()?, dice(&logits, &truth)?);
            println!("step {step:3}: loss {loss:.3}, Dice of a fresh batch {dice:.3}");
        }
    }
    Ok(())
}
