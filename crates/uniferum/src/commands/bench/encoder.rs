//! `uniferum bench encoder`: a volume to its vision tokens.

use uniferum_fusion::UniferumConfig;

use super::line::{Timing, emit};
use super::model::{ModelArgs, encoder_gflop, model};
use crate::global::Global;

/// Encode volumes with random weights
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// Volumes a run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let device = args.model.device()?;
    let (mut model, _) = model(&device)?;
    if device.is_cpu() {
        model.set_inference_precision(args.model.precision("encoder", &device)?);
    }
    let batch = usize::from(args.batch);
    let volumes = args.model.volumes(batch, &device)?;
    // The CPU's packed weights take single precision and round it themselves.
    let volumes = match device.is_cpu() {
        true => volumes,
        false => volumes.to_dtype(args.model.dtype.of_volumes())?,
    };
    let timing = Timing::of(args.model.runs.into(), || {
        let tokens = model.encode(&volumes)?;
        device.synchronize()?;
        std::hint::black_box(tokens);
        Ok(())
    })?;
    let gflop = batch as f64 * encoder_gflop(&UniferumConfig::default(), args.model.shape.0);
    emit(
        "encoder",
        timing,
        Some(gflop),
        args.model.dtype.name(),
        global,
    )
}
