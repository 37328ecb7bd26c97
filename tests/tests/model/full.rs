//! The paper's sizes: 256x160x128, BERT-base's four layers, a checkpoint of 240 MB.

use std::path::PathBuf;
use std::time::Instant;

use candle_core::Device;
use uniferum_fusion::{Uniferum, UniferumConfig};

use crate::{assert_close, formula, prompt_batch};

#[test]
#[ignore = "needs the checkpoint that `make_goldens.py --full` writes"]
fn full_size_logits_agree() {
    let Some(folder) = std::env::var_os("UNIFERUM_FULL_MODEL").map(PathBuf::from) else {
        eprintln!("SKIPPED: UNIFERUM_FULL_MODEL names no folder");
        return;
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = if folder.is_dir() {
        folder
    } else {
        root.join(folder)
    };
    let device = Device::Cpu;
    let start = Instant::now();
    let model = Uniferum::load(folder.join("model.safetensors"), &device).unwrap();
    eprintln!("loading {:.2?}", start.elapsed());
    assert_eq!(model.config(), &UniferumConfig::default());
    let image = formula::values("full.image", (1, 1, 256, 160, 128));
    let (ids, mask) = prompt_batch(model.config().bert.vocab);
    let start = Instant::now();
    let tokens = model.encode(&image).unwrap();
    eprintln!("encoding {:.2?}", start.elapsed());
    let start = Instant::now();
    let output = model.ask(&tokens, &ids, &mask).unwrap();
    eprintln!("asking {:.2?}", start.elapsed());
    let path = folder.join("expected.safetensors");
    let expected = candle_core::safetensors::load(path, &device).unwrap();
    assert_close(&output.cls, &expected["cls"], 1e-4, "cls");
    assert_close(&output.seg, &expected["seg"], 1e-4, "seg");
}
