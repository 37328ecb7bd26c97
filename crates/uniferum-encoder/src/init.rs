//! Repeatable initial weights and the split of a variable store into parameters and buffers.

use candle_core::{DType, Device, Result, Shape, Tensor, Var};
use candle_nn::init::NormalOrUniform;
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder, VarMap};

/// A builder that creates missing variables in `vars` from a seed.
///
/// candle's own [`VarBuilder::from_varmap`] draws from a generator that cannot be seeded on
/// the CPU. Here each variable's values are a pure function of `(seed, name, index)`, so they
/// depend neither on the order in which layers are built nor on other layers' presence.
///
/// ```
/// use candle_core::{DType, Device};
/// use candle_nn::{Init, VarMap};
/// use uniferum_encoder::seeded_var_builder;
/// # fn main() -> candle_core::Result<()> {
/// let draw = |seed| {
///     let vb = seeded_var_builder(&VarMap::new(), seed, DType::F32, &Device::Cpu);
///     vb.get_with_hints(4, "w", Init::Randn { mean: 0., stdev: 1. })?.to_vec1::<f32>()
/// };
/// assert_eq!(draw(7)?, draw(7)?);
/// assert_ne!(draw(7)?, draw(8)?);
/// # Ok(()) }
/// ```
pub fn seeded_var_builder(
    vars: &VarMap,
    seed: u64,
    dtype: DType,
    device: &Device,
) -> VarBuilder<'static> {
    let backend = Seeded {
        vars: vars.clone(),
        seed,
    };
    VarBuilder::from_backend(Box::new(backend), dtype, device.clone())
}

/// Whether a weight name denotes a running statistic, which no optimiser may touch.
pub fn is_buffer(name: &str) -> bool {
    let leaf = name.rsplit('.').next().unwrap_or(name);
    matches!(leaf, "running_mean" | "running_var" | "num_batches_tracked")
}

/// The variables to optimise, sorted by name.
///
/// A [`VarMap`] keeps running statistics beside the parameters, as checkpoints do, and hands
/// its variables out in no particular order; optimisers want neither.
pub fn trainable_vars(vars: &VarMap) -> Vec<(String, Var)> {
    let data = lock(vars);
    let mut named: Vec<_> = data
        .iter()
        .filter(|(name, _)| !is_buffer(name))
        .map(|(name, var)| (name.clone(), var.clone()))
        .collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    named
}

fn lock(vars: &VarMap) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, Var>> {
    // A poisoned store is still whole: entries are only ever added.
    vars.data().lock().unwrap_or_else(|e| e.into_inner())
}

struct Seeded {
    vars: VarMap,
    seed: u64,
}

impl SimpleBackend for Seeded {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, dev: &Device) -> Result<Tensor> {
        if !lock(&self.vars).contains_key(name) {
            let var = Var::from_tensor(&draw(&s, name, h, self.seed, dtype, dev)?)?;
            lock(&self.vars).insert(name.to_string(), var);
        }
        self.vars.get(s, name, h, dtype, dev)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        match lock(&self.vars).get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("cannot find {name} among the variables"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        lock(&self.vars).contains_key(name)
    }
}

fn draw(s: &Shape, name: &str, h: Init, seed: u64, dtype: DType, dev: &Device) -> Result<Tensor> {
    let mut stream = Stream::new(seed, name);
    let count = s.elem_count();
    let values: Vec<f32> = match h {
        Init::Const(value) => return Tensor::full(value as f32, s, dev)?.to_dtype(dtype),
        Init::Randn { mean, stdev } => stream.normal(count, mean, stdev),
        Init::Uniform { lo, up } => stream.uniform(count, lo, up),
        Init::Kaiming {
            dist,
            fan,
            non_linearity,
        } => {
            let std = non_linearity.gain() / (fan.for_shape(s) as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => stream.normal(count, 0.0, std),
                NormalOrUniform::Uniform => {
                    let bound = 3f64.sqrt() * std;
                    stream.uniform(count, -bound, bound)
                }
            }
        }
    };
    Tensor::from_vec(values, s, dev)?.to_dtype(dtype)
}

/// Numbers that depend on the seed, the variable's name and the position only.
struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, then mixed with the seed.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, byte| {
            (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            key: mix(hash ^ mix(seed)),
            counter: 0,
        }
    }

    /// A number in (0, 1), never at either end.
    fn unit(&mut self) -> f64 {
        self.counter += 1;
        let bits = mix(self
            .key
            .wrapping_add(self.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn uniform(&mut self, count: usize, lo: f64, up: f64) -> Vec<f32> {
        (0..count)
            .map(|_| (lo + (up - lo) * self.unit()) as f32)
            .collect()
    }

    /// Box and Muller's transform, one number out of each pair.
    fn normal(&mut self, count: usize, mean: f64, stdev: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let radius = (-2.0 * self.unit().ln()).sqrt();
                let angle = std::f64::consts::TAU * self.unit();
                (mean + stdev * radius * angle.cos()) as f32
            })
            .collect()
    }
}

/// The finaliser of SplitMix64: a bijection of 64-bit words without visible structure.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_draws_have_the_asked_mean_and_deviation() {
        let values = Stream::new(3, "w").normal(40_000, 1.0, 0.5);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / 40_000.0;
        let var = values
            .iter()
            .map(|&v| (f64::from(v) - mean).powi(2))
            .sum::<f64>()
            / 40_000.0;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert!((var.sqrt() - 0.5).abs() < 0.01, "{var}");
    }

    #[test]
    fn a_second_request_returns_the_same_variable() {
        let vars = VarMap::new();
        let vb = seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu);
        let first = vb.get_with_hints((2, 3), "w", Init::Const(1.0)).unwrap();
        vars.data().lock().unwrap()["w"]
            .set(&Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap())
            .unwrap();
        assert_eq!(
            first.sum_all().unwrap().to_scalar::<f32>().unwrap(),
            0.0,
            "the tensor handed out shares its storage with the variable"
        );
        assert!(vb.get((3, 2), "w").is_err());
    }

    #[test]
    fn running_statistics_are_not_trainable() {
        let vars = VarMap::new();
        let vb = seeded_var_builder(&vars, 0, DType::F32, &Device::Cpu);
        for name in ["bn1.running_mean", "bn1.weight", "bn1.bias"] {
            vb.get_with_hints(2, name, Init::Const(0.0)).unwrap();
        }
        let names: Vec<_> = trainable_vars(&vars).into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["bn1.bias", "bn1.weight"]);
    }
}
