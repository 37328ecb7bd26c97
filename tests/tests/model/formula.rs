//! Weights and inputs as functions of their names: `values` of the generator, once more.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};

pub(crate) fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers in [-1, 1).
pub(crate) fn unit(name: &str, count: usize) -> Vec<f64> {
    let hash = name_hash(name);
    (1..=count as u64)
        .map(|i| {
            let bits = mix(hash.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 40;
            bits as f64 / 8_388_608.0 - 1.0
        })
        .collect()
}

pub(crate) fn values(name: &str, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let dims = shape.dims();
    let leaf = name.rsplit('.').next().unwrap();
    if leaf == "num_batches_tracked" {
        return Tensor::zeros(shape, DType::I64, &Device::Cpu).unwrap();
    }
    let (offset, scale) = match (leaf, dims.len()) {
        ("running_var", _) => (1.0, 0.5),
        ("running_mean", _) => (0.0, 0.1),
        ("image", _) => (0.5, 0.5),
        ("weight", 1) => (1.0, 0.25),
        (_, 1) => (0.0, 0.1),
        _ => (
            0.0,
            (6.0 / dims[1..].iter().product::<usize>() as f64).sqrt(),
        ),
    };
    let values: Vec<f32> = unit(name, shape.elem_count())
        .into_iter()
        .map(|v| (offset + scale * v) as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn token_ids(name: &str, shape: (usize, usize), vocab: usize) -> Tensor {
    let ids: Vec<u32> = unit(name, shape.0 * shape.1)
        .into_iter()
        .map(|v| ((v + 1.0) / 2.0 * vocab as f64) as u32)
        .collect();
    Tensor::from_vec(ids, shape, &Device::Cpu).unwrap()
}

/// A builder whose every weight is the formula's.
pub(crate) fn builder() -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Formula), DType::F32, Device::Cpu)
}

/// As [`builder`], with variables in `vars` for training.
pub(crate) fn trainable_builder(vars: &VarMap) -> VarBuilder<'static> {
    VarBuilder::from_backend(Box::new(Trainable(vars.clone())), DType::F32, Device::Cpu)
}

struct Formula;

impl SimpleBackend for Formula {
    fn get(&self, s: Shape, name: &str, _: Init, _: DType, _: &Device) -> Result<Tensor> {
        Ok(values(name, s))
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

struct Trainable(VarMap);

impl SimpleBackend for Trainable {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        let tensor = self.0.get(s.clone(), name, h, dtype, dev)?;
        self.0.data().lock().unwrap()[name].set(&values(name, s))?;
        Ok(tensor)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("{name} without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.data().lock().unwrap().contains_key(name)
    }
}
