//! Turns a volume into feature maps and tokens with `uniferum-encoder` alone, as another project
//! would use it: no CT, no text.
//!
//! ```sh
//! cargo run --release -p uniferum-examples --example 02_encode_a_volume -- weights.safetensors
//! ```
//!
//! Without a file the weights are random: shapes and speed are right, features mean nothing.

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use uniferum_encoder::{
    EfficientNet3d, EncoderConfig, inflate_imagenet, read_weights, seeded_var_builder,
};

fn main() -> anyhow::Result<()> {
    let device = Device::Cpu;
    let config = EncoderConfig::default(); // EfficientNet-B0, one input channel

    // Weights come from a file with timm's names (`conv_stem.weight`, `blocks.0.0.conv_dw.weight`,
    // …), or are drawn from a seed. Those of two dimensions, timm's own, become three-dimensional.
    let vars = VarMap::new();
    let weights = match std::env::args_os().nth(1) {
        Some(file) => {
            let tensors = inflate_imagenet(&read_weights(file, &device)?, &config)?;
            VarBuilder::from_tensors(tensors, DType::F32, &device)
        }
        None => seeded_var_builder(&vars, 0, DType::F32, &device),
    };
    let encoder = EfficientNet3d::new(&config, weights)?;

    // A batch of one volume with one channel; any sides will do.
    let volume = Tensor::rand(0f32, 1f32, (1, 1, 64, 64, 32), &device)?;
    let start = std::time::Instant::now();
    let features = encoder.forward_t(&volume, false)?;
    println!("{:?} -> {:?}", volume.dims(), features.dims());
    println!("{:.0} ms", start.elapsed().as_secs_f64() * 1e3);

    // One descriptor for the whole volume: the mean over its places.
    let descriptor = features.flatten_from(2)?.mean(2)?;
    let norm = descriptor.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
    println!(
        "descriptor of {} numbers, norm {norm:.3}",
        descriptor.dim(1)?
    );
    Ok(())
}
