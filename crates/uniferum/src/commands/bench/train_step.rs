//! `uniferum bench train-step`: forward, backward and AdamW of the whole model.

use candle_core::Tensor;
use uniferum_fusion::{Freeze, UniferumConfig, trainable_vars};
use uniferum_metrics::losses::{LossConfig, Targets, multitask_loss};
use uniferum_train::{Optimizer, TrainConfig};

use super::line::{Timing, emit};
use super::model::{ModelArgs, encoder_gflop, fusion_gflop, model, sentences};
use crate::global::Global;

/// Words of a question, as the peer's script has it.
const WORDS: usize = 16;

/// One optimiser step of the whole model with random weights: forward, backward, AdamW
///
/// `gflop` counts the forward pass three times; what backward computes again is not counted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Volumes a step, each with its question
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// What is left alone: the transformer, or nothing
    #[arg(long, value_enum, default_value_t = Frozen::Bert)]
    freeze: Frozen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Frozen {
    /// The transformer's weights are constants
    Bert,
    /// Everything is trained
    None,
}

/// Targets of alternating label and mask questions.
struct Truth {
    labels: Tensor,
    masks: Tensor,
    is_segmentation: Tensor,
}

impl Truth {
    fn new(batch: usize, tokens: usize, device: &candle_core::Device) -> anyhow::Result<Self> {
        let bits = |n: usize, step: usize| -> Vec<f32> {
            (0..n).map(|i| f32::from(u8::from(i % step == 1))).collect()
        };
        Ok(Self {
            labels: Tensor::from_vec(bits(batch, 3), batch, device)?,
            masks: Tensor::from_vec(bits(batch * tokens * 64, 5), (batch, tokens, 64), device)?,
            is_segmentation: Tensor::from_vec(bits(batch, 2), batch, device)?,
        })
    }
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let device = args.model.device()?;
    if device.is_cpu() {
        args.model.only_f32("train-step")?;
    }
    let (mut model, vars) = model(&device)?;
    let freeze = match args.freeze {
        Frozen::Bert => Freeze::Bert,
        Frozen::None => Freeze::None,
    };
    model.set_freeze(freeze);
    let mut optimizer = Optimizer::new(trainable_vars(&vars, freeze), &TrainConfig::default())?;
    let (batch, config) = (usize::from(args.batch), UniferumConfig::default());
    let tokens = config.encoder.grid(args.model.shape.0).iter().product();
    let volumes = args.model.volumes(batch, &device)?;
    let volumes = volumes.to_dtype(args.model.dtype.of_volumes())?;
    let (ids, mask) = sentences(batch, WORDS, &device)?;
    let truth = Truth::new(batch, tokens, &device)?;
    let timing = Timing::of(args.model.runs.into(), || {
        let output = model.forward_t(&volumes, &ids, &mask, true)?;
        let targets = Targets {
            labels: &truth.labels,
            masks: &truth.masks,
            is_segmentation: &truth.is_segmentation,
        };
        let loss = multitask_loss(&output.cls, &output.seg, &targets, &LossConfig::default())?;
        drop(output);
        let grads = loss.total.backward()?;
        optimizer.step(&grads, 1e-5)?;
        device.synchronize()?;
        Ok(())
    })?;
    let forward =
        encoder_gflop(&config, args.model.shape.0) + fusion_gflop(&config, tokens + 2 + WORDS);
    let gflop = 3.0 * batch as f64 * forward;
    emit(
        "train-step",
        timing,
        Some(gflop),
        args.model.dtype.name(),
        global,
    )
}
