//! What the benchmarks of the model share: options, random weights, a volume, operations.

use anyhow::bail;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use uniferum_encoder::{Precision, seeded_var_builder};
use uniferum_fusion::{Uniferum, UniferumConfig};
use uniferum_kernels::DeviceChoice;

use crate::dtype::Dtype;
use crate::shape::Shape;

/// Options of the benchmarks of the model.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Voxels of a volume
    #[arg(long, value_name = "XxYxZ", default_value = "256x160x128")]
    pub(crate) shape: Shape,

    /// Timed runs after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) runs: u16,

    /// Number format of the computation
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub(crate) dtype: Dtype,

    /// Where to compute: auto, cpu or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: DeviceChoice,
}

impl ModelArgs {
    /// The device that `--device` names.
    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        Ok(self.device.open()?)
    }

    /// Refuses a number format that a benchmark has no kernels for.
    pub(crate) fn only_f32(&self, bench: &str) -> anyhow::Result<()> {
        if self.dtype == Dtype::F32 {
            return Ok(());
        }
        bail!(
            "bench {bench}: --dtype {} is not available; use f32",
            self.dtype.name()
        )
    }

    /// The format of a benchmark of evaluation, which only the CPU can choose.
    pub(crate) fn precision(&self, bench: &str, device: &Device) -> anyhow::Result<Precision> {
        if self.dtype == Dtype::Bf16 && !device.is_cpu() {
            bail!("bench {bench}: --dtype bf16 is for --device cpu; use f32");
        }
        Ok(self.dtype.into())
    }

    /// A batch of volumes without any regularity that a cache could use.
    pub(crate) fn volumes(&self, batch: usize, device: &Device) -> anyhow::Result<Tensor> {
        let [x, y, z] = self.shape.0;
        let n = batch * x * y * z;
        let values: Vec<f32> = (0..n).map(|i| (i * 7919 % 1009) as f32 / 1009.0).collect();
        Ok(Tensor::from_vec(values, (batch, 1, x, y, z), device)?)
    }
}

/// The paper's model with random weights.
pub(crate) fn model(device: &Device) -> anyhow::Result<(Uniferum, VarMap)> {
    let vars = VarMap::new();
    let vb = seeded_var_builder(&vars, 1, DType::F32, device);
    Ok((Uniferum::new(&UniferumConfig::default(), vb)?, vars))
}

/// Token ids of `count` sentences of `length` words, and their mask.
pub(crate) fn sentences(
    count: usize,
    length: usize,
    device: &Device,
) -> anyhow::Result<(Tensor, Tensor)> {
    let vocab = UniferumConfig::default().bert.vocab;
    let ids: Vec<u32> = (0..count * length)
        .map(|i| (i * 7919 % vocab) as u32)
        .collect();
    let ids = Tensor::from_vec(ids, (count, length), device)?;
    Ok((ids.clone(), ids.ones_like()?))
}

/// Floating-point operations in units of 1e9 of encoding one volume.
pub(crate) fn encoder_gflop(config: &UniferumConfig, shape: [usize; 3]) -> f64 {
    let product = |side: [usize; 3]| side.iter().product::<usize>();
    let encoder = &config.encoder;
    let mut side = shape.map(|n| n.div_ceil(2));
    let stem = encoder.stem_channels();
    let mut macs = product(side) * 27 * encoder.in_channels * stem;
    let mut channels = stem;
    for block in encoder.blocks() {
        if block.expands {
            macs += product(side) * block.in_channels * block.mid_channels;
        }
        side = side.map(|n| n.div_ceil(block.stride));
        let per_voxel = block.kernel.pow(3) + block.out_channels;
        macs += product(side) * block.mid_channels * per_voxel;
        macs += 2 * block.mid_channels * block.se_channels;
        channels = block.out_channels;
    }
    let out = encoder.out_channels();
    macs += product(side) * (channels + config.bert.hidden) * out;
    2e-9 * macs as f64
}

/// Floating-point operations in units of 1e9 of the transformer's layers for one sequence.
pub(crate) fn fusion_gflop(config: &UniferumConfig, length: usize) -> f64 {
    let bert = &config.bert;
    let linear = 4 * bert.hidden.pow(2) + 2 * bert.hidden * bert.intermediate;
    let attention = 2 * length * bert.hidden;
    2e-9 * (bert.layers * length * (linear + attention)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_the_paper_s_sizes() {
        let config = UniferumConfig::default();
        let encoder = encoder_gflop(&config, [256, 160, 128]);
        assert!((12.0..14.0).contains(&encoder), "{encoder}");
        let fusion = fusion_gflop(&config, 178);
        assert!((10.0..11.0).contains(&fusion), "{fusion}");
    }

    #[test]
    fn devices_are_named_or_refused() {
        let args = |device: &str| ModelArgs {
            shape: Shape([32, 32, 32]),
            runs: 1,
            dtype: Dtype::F32,
            device: device.parse().unwrap(),
        };
        assert!(args("cpu").device().unwrap().is_cpu());
        if !candle_core::utils::cuda_is_available() {
            let message = args("cuda:1").device().unwrap_err().to_string();
            assert!(message.contains("no CUDA"), "{message}");
        }
    }
}
