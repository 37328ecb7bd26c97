//! Times the encoder: `time_encoder [f32|bf16|train] [RUNS] [X Y Z]`.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use uniferum_encoder::{
    EfficientNet3d, EncoderConfig, InferenceEncoder, Precision, seeded_var_builder,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |a| a.parse());
    let precision = match args.first().map(String::as_str) {
        Some("bf16") => Precision::Bf16,
        _ => Precision::F32,
    };
    let runs = number(1, 9)?;
    let sides = (number(2, 256)?, number(3, 160)?, number(4, 128)?);
    let vars = VarMap::new();
    let vb = seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu);
    let net = EfficientNet3d::new(&EncoderConfig::default(), vb)?;
    if args.first().is_some_and(|a| a == "train") {
        return train(&net, runs, sides);
    }
    let fast = InferenceEncoder::new(&net, precision)?;
    let (x, y, z) = sides;
    let volume = Tensor::rand(0f32, 1f32, (1, 1, x, y, z), &Device::Cpu)?;
    fast.features(&volume)?;
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        fast.features(&volume)?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "{precision:?} {sides:?} {:?}: median {:.4} s, min {:.4}, max {:.4}; arena {} MiB",
        fast.simd(),
        seconds[runs / 2],
        seconds[0],
        seconds[runs - 1],
        fast.arena_bytes() >> 20,
    );
    Ok(())
}

/// Forward and backward of the network alone.
fn train(
    net: &EfficientNet3d,
    runs: usize,
    (x, y, z): (usize, usize, usize),
) -> Result<(), Box<dyn std::error::Error>> {
    let volume = Tensor::rand(0f32, 1f32, (1, 1, x, y, z), &Device::Cpu)?;
    for run in 0..=runs {
        let start = Instant::now();
        let features = net.forward_t(&volume, true)?;
        let forward = start.elapsed().as_secs_f64();
        let loss = features.sqr()?.sum_all()?;
        drop(features);
        loss.backward()?;
        let total = start.elapsed().as_secs_f64();
        let backward = total - forward;
        let note = if run == 0 { ", warming up" } else { "" };
        println!("forward {forward:.3} s, backward {backward:.3} s, together {total:.3} s{note}");
    }
    Ok(())
}
