//! Checkpoints: round trips, strictness and configurations deduced from shapes.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarMap;
use uniferum_encoder::{EncoderConfig, Variant, seeded_var_builder};
use uniferum_fusion::{BertConfig, Error, Uniferum, UniferumConfig, checkpoint};

fn tiny() -> UniferumConfig {
    UniferumConfig {
        encoder: EncoderConfig::new(Variant::Custom {
            width: 0.25,
            depth: 0.3,
        }),
        bert: BertConfig {
            hidden: 64,
            heads: 2,
            intermediate: 32,
            layers: 1,
            vocab: 20,
            max_positions: 32,
            ..BertConfig::default()
        },
        patch: 2,
    }
}

fn model(cfg: &UniferumConfig, seed: u64) -> (Uniferum, VarMap) {
    let vars = VarMap::new();
    let vb = seeded_var_builder(&vars, seed, DType::F32, &Device::Cpu);
    (Uniferum::new(cfg, vb).unwrap(), vars)
}

fn logits(model: &Uniferum) -> Vec<f32> {
    let cpu = &Device::Cpu;
    let image = Tensor::full(0.3f32, (1, 1, 32, 32, 32), cpu).unwrap();
    let ids = Tensor::new(&[[2u32, 5, 3]], cpu).unwrap();
    let output = model
        .forward_t(&image, &ids, &ids.ones_like().unwrap(), false)
        .unwrap();
    let all = Tensor::cat(&[output.cls, output.seg.flatten_from(1).unwrap()], 1).unwrap();
    all.flatten_all().unwrap().to_vec1().unwrap()
}

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

#[test]
fn a_saved_model_loads_with_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let cfg = tiny();
    let (saved, vars) = model(&cfg, 1);
    checkpoint::save(&path, &vars, &cfg).unwrap();
    assert!(folder.path().join("model.json").is_file());

    let loaded = Uniferum::load(folder.path(), &Device::Cpu).unwrap();
    assert_eq!(loaded.config(), &cfg);
    assert_eq!(logits(&loaded), logits(&saved));

    let (other, other_vars) = model(&cfg, 2);
    assert_ne!(logits(&other), logits(&saved));
    checkpoint::load_into(&path, &other_vars, &cfg).unwrap();
    assert_eq!(logits(&other), logits(&saved));
}

#[test]
fn missing_unexpected_and_misshapen_tensors_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let cfg = tiny();
    let (_, vars) = model(&cfg, 1);
    checkpoint::save(&path, &vars, &cfg).unwrap();
    let mut changed = tensors(&path);
    changed.remove("lm_head_cls.bias");
    let zeros = |n: usize| Tensor::zeros(n, DType::F32, &Device::Cpu).unwrap();
    changed.insert("lm_head_extra.bias".into(), zeros(1));
    changed.insert("lm_head_seg.bias".into(), zeros(5));
    candle_core::safetensors::save(&changed, &path).unwrap();

    let (other, other_vars) = model(&cfg, 2);
    let before = logits(&other);
    for error in [
        checkpoint::load(&path, &Device::Cpu).unwrap_err(),
        checkpoint::load_into(&path, &other_vars, &cfg).unwrap_err(),
    ] {
        let text = error.to_string();
        for part in [
            "model.safetensors",
            "1 missing: lm_head_cls.bias",
            "1 unexpected: lm_head_extra.bias",
            "lm_head_seg.bias (expected [8], got [5])",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(text.lines().count(), 1);
        assert!(matches!(error, Error::Checkpoint { .. }));
    }
    assert_eq!(before, logits(&other), "nothing was loaded");
}

#[test]
fn the_unused_second_transformer_and_missing_counters_are_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let cfg = tiny();
    let (saved, vars) = model(&cfg, 1);
    checkpoint::save(&path, &vars, &cfg).unwrap();
    let mut public = tensors(&path);
    public.retain(|name, _| !name.ends_with("num_batches_tracked"));
    for name in [
        "embeddings.word_embeddings.weight",
        "encoder.layer.11.output.dense.bias",
        "pooler.dense.bias",
    ] {
        let extra = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        public.insert(name.into(), extra);
    }
    candle_core::safetensors::save(&public, &path).unwrap();
    let loaded = Uniferum::load(&path, &Device::Cpu).unwrap();
    assert_eq!(logits(&loaded), logits(&saved));
}

#[test]
fn half_precision_is_read_as_f32() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let cfg = tiny();
    let (_, vars) = model(&cfg, 1);
    checkpoint::save(&path, &vars, &cfg).unwrap();
    let mut half = tensors(&path);
    for tensor in half.values_mut().filter(|t| t.dtype() == DType::F32) {
        *tensor = tensor.to_dtype(DType::BF16).unwrap();
    }
    candle_core::safetensors::save(&half, &path).unwrap();
    let loaded = checkpoint::load(&path, &Device::Cpu).unwrap();
    assert_eq!(loaded.tensors["lm_head_cls.weight"].dtype(), DType::F32);
}

#[test]
fn a_bare_file_tells_its_configuration() {
    for variant in [Variant::B0, Variant::B1, Variant::B3] {
        let cfg = UniferumConfig {
            encoder: EncoderConfig::new(variant),
            bert: BertConfig {
                hidden: 128,
                heads: 2,
                ..tiny().bert
            },
            patch: 4,
        };
        // Shapes without the weight of the values behind them.
        let zero = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
        let bare = checkpoint::tensor_shapes(&cfg)
            .unwrap()
            .into_iter()
            .map(|(name, shape)| (name, zero.broadcast_as(shape).unwrap()))
            .collect();
        assert_eq!(checkpoint::infer_config(&bare).unwrap(), cfg);
    }
}

#[test]
fn what_the_shapes_do_not_tell_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let cfg = tiny();
    let (_, vars) = model(&cfg, 1);
    checkpoint::save(&path, &vars, &cfg).unwrap();
    std::fs::remove_file(folder.path().join("model.json")).unwrap();
    let error = checkpoint::load(&path, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("encoder.variant") && error.contains("model.json"),
        "{error}"
    );
}

#[test]
fn files_that_are_no_checkpoints_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let missing = checkpoint::load(&path, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("model.safetensors: no such file"),
        "{missing}"
    );
    std::fs::write(&path, b"\x10\0\0\0\0\0\0\0{}").unwrap();
    let broken = checkpoint::load(&path, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(broken.contains("not a safetensors file"), "{broken}");
    let pickled = folder.path().join("weights.pth");
    std::fs::write(&pickled, b"PK nonsense").unwrap();
    let broken = checkpoint::load(&pickled, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        broken.contains("weights.pth: not a PyTorch file"),
        "{broken}"
    );

    let (_, vars) = model(&tiny(), 1);
    checkpoint::save(&path, &vars, &tiny()).unwrap();
    std::fs::write(
        folder.path().join("model.json"),
        r#"{"patch": 2, "depth": 3}"#,
    )
    .unwrap();
    let wrong = checkpoint::load(&path, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(
        wrong.contains("model.json") && wrong.contains("depth"),
        "{wrong}"
    );
}
