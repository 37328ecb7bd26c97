//! The model against PyTorch.
//!
//! Reference numbers come from `tests/goldens/make_goldens.py`; its head says how to make
//! them again. The check at full size needs a checkpoint of 240 MB:
//!
//! ```sh
//! python tests/goldens/make_goldens.py --full target/full
//! UNIFERUM_FULL_MODEL=target/full cargo test -p uniferum-tests --test model -- --ignored
//! ```
//!
//! `UNIFERUM_MINILM` names the folder of a published text encoder, see `pretrained.rs`.

mod encoder;
mod formula;
mod full;
mod logits;
mod oracle;
mod pretrained;
mod training;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use uniferum_fusion::{BertConfig, UniferumConfig};

/// The sizes called `SMALL` in the generator.
fn small() -> UniferumConfig {
    UniferumConfig {
        bert: BertConfig {
            hidden: 48,
            heads: 4,
            intermediate: 96,
            layers: 2,
            vocab: 50,
            max_positions: 64,
            dropout: 0.0,
            ..BertConfig::default()
        },
        ..UniferumConfig::default()
    }
}

fn golden(name: &str) -> HashMap<String, Tensor> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("goldens")
        .join(name);
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; make_goldens.py beside it makes it",
            path.display()
        )
    })
}

/// The batch of the generator's `prompt_batch`.
fn prompt_batch(vocab: usize) -> (Tensor, Tensor) {
    let mask = Tensor::new(&[[1u32; 7], [1, 1, 1, 1, 0, 0, 0]], &Device::Cpu).unwrap();
    (formula::token_ids("ids", (2, 7), vocab), mask)
}

/// Largest difference, relative to the largest value expected.
fn relative_error(got: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(got.dims(), expected.dims());
    let numbers = |t: &Tensor| -> Vec<f32> {
        let t = t.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        t.to_vec1().unwrap()
    };
    let (got, expected) = (numbers(got), numbers(expected));
    assert!(got.iter().all(|g| g.is_finite()));
    let peak = |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0, |m, v| v.abs().max(m));
    let differences = &mut got.iter().zip(&expected).map(|(g, e)| g - e);
    peak(differences) / peak(&mut expected.iter().copied())
}

#[track_caller]
fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    let error = relative_error(got, expected);
    eprintln!("{what}: relative error {error:.1e}");
    assert!(
        error <= tolerance,
        "{what}: relative error {error}, at most {tolerance} allowed; if the model was meant \
         to change, run tests/goldens/make_goldens.py"
    );
}
