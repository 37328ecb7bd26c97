//! `uniferum bench ask`: classification questions about one scan, encoding included.

use uniferum_fusion::UniferumConfig;

use super::line::{Timing, emit};
use super::model::{ModelArgs, encoder_gflop, fusion_gflop, model, sentences};
use crate::global::Global;

/// Words of a question, as the peer's script has it.
const WORDS: usize = 16;

/// Encode one volume and ask questions about it, with random weights
///
/// `gflop` counts every position of every layer for every question, whether it is computed or not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Questions
    #[arg(long, value_name = "N", default_value_t = 18, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,

    /// Leave the encoding out of the timing
    #[arg(long)]
    encoded: bool,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let device = args.model.device()?;
    let (mut model, _) = model(&device)?;
    model.set_inference_precision(args.model.precision("ask", &device)?);
    let questions = usize::from(args.batch);
    let volume = args.model.volumes(1, &device)?;
    let (ids, mask) = sentences(questions, WORDS, &device)?;
    let known = args.encoded.then(|| model.encode(&volume)).transpose()?;
    let timing = Timing::of(args.model.runs.into(), || {
        let tokens = match &known {
            Some(tokens) => tokens.clone(),
            None => model.encode(&volume)?,
        };
        let logits = model.classify(&tokens, &ids, &mask)?;
        device.synchronize()?;
        std::hint::black_box(logits);
        Ok(())
    })?;
    let config = UniferumConfig::default();
    let shape = args.model.shape.0;
    let grid = config.encoder.grid(shape);
    let length = grid.iter().product::<usize>() + 2 + WORDS;
    let mut gflop = questions as f64 * fusion_gflop(&config, length);
    if !args.encoded {
        gflop += encoder_gflop(&config, shape);
    }
    emit("ask", timing, Some(gflop), args.model.dtype.name(), global)
}
